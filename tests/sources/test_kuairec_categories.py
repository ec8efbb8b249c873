"""The names of KuaiRec's categories and tags, by themselves and against the real files."""

import pandas as pd

from flexrec.sources.kuairec_categories import CATEGORIES, MISSING_ID, UNNAMED_TAGS, tag_name
from flexrec.sources.kuairec_videos import CAPTIONS_FILE, CATEGORIES_FILE
from kuairec_files import REAL, needs_real


def test_the_table_is_complete_and_unambiguous():
    # 38 names and UNKNOWN; there is no category 30
    assert len(CATEGORIES) == 39
    assert sorted(CATEGORIES) == [MISSING_ID, *range(1, 30), *range(31, 40)]
    for language in (0, 1):
        assert len({name[language] for name in CATEGORIES.values()}) == 39
    assert all(name.english.isascii() and len(name.english) <= 15 for name in CATEGORIES.values())


def test_every_tag_has_a_name_of_its_own():
    names = [tag_name(tag) for tag in range(31)]
    assert len({name.original for name in names}) == len({name.english for name in names}) == 31
    assert {tag for tag in range(31) if tag_name(tag).english == f"Tag {tag}"} == UNNAMED_TAGS


@needs_real
def test_the_names_are_those_of_the_real_file():
    captions = pd.read_csv(REAL / CAPTIONS_FILE, lineterminator="\n")
    real = captions.groupby("first_level_category_id")["first_level_category_name"].unique()
    assert {category: list(names) for category, names in real.items()} == {
        category: [name.original] for category, name in CATEGORIES.items()
    }


@needs_real
def test_a_tag_is_named_after_the_category_it_goes_with():
    tags = pd.read_csv(REAL / CATEGORIES_FILE)["feat"].str.findall(r"\d+").explode().astype(int)
    categories = pd.read_csv(REAL / CAPTIONS_FILE, lineterminator="\n")["first_level_category_id"].loc[tags.index]
    for tag, group in categories.groupby(tags.to_numpy()):
        frequent = group.value_counts().index[:2].tolist()
        assert (tag in frequent) == (tag not in UNNAMED_TAGS)
