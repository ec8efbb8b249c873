"""The videos of KuaiRec by hand, in the official layout, and every refusal."""

from pathlib import Path

import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Items
from flexrec.sources.kuairec_videos import CAPTIONS_FILE, CATEGORIES_FILE, videos_table
from kuairec_files import CAPTIONS_HEADER, CAPTIONS_TEXT, CATEGORIES_TEXT


def folder_with(
    folder: Path, *, categories: str | None = CATEGORIES_TEXT, captions: str | bytes = CAPTIONS_TEXT
) -> Path:
    """A folder of both side tables; None leaves one out."""
    if categories is not None:
        (folder / CATEGORIES_FILE).write_bytes(categories.encode())
    (folder / CAPTIONS_FILE).write_bytes(captions.encode() if isinstance(captions, str) else captions)
    return folder


def test_in_the_original(tmp_path):
    items, notes = videos_table(folder_with(tmp_path), "original")
    Items.validate(items)
    # what stands first for reach is left out; a stray carriage return is a space
    assert items[Columns.TITLE].tolist() == ["你好 世界", "高新数码 20", 'a, "b"', "视频 40"]
    assert items[Columns.TOPICS].tolist() == [["颜值"], ["高新数码", "喜剧"], ["标签0"], []]
    assert items[Columns.TEXT].tolist() == [
        "#热门 @小舞(O1356604272) 你好 世界. 颜值 > 颜值随拍. 热门, 好",
        "高新数码. 喜剧",
        'a, "b". 标签0',
        "视频 40",
    ]
    assert notes["carriage returns inside rows of the captions, made spaces"] == 1


def test_in_english(tmp_path):
    items, _ = videos_table(folder_with(tmp_path), "english")
    assert items[Columns.TITLE].tolist() == [
        "Good looks 10",
        "Technology 20 (Comedy)",
        "Video 30 (Tag 0)",
        "Video 40",
    ]
    assert items[Columns.TOPICS].tolist() == [["Good looks"], ["Technology", "Comedy"], ["Tag 0"], []]
    assert items[Columns.TEXT].tolist()[:2] == [
        "Good looks. #热门 @小舞(O1356604272) 你好 世界. 颜值 > 颜值随拍. 热门, 好",
        "Technology. Comedy. 高新数码",
    ]


def test_a_long_caption_is_cut_and_a_caption_of_hashtags_alone_is_kept(tmp_path):
    rows = [
        f"10,UNKNOWN,{'长' * 50_000},[],8,颜值,-124,UNKNOWN,-124,UNKNOWN\n",
        "20,UNKNOWN,#a #b,[],8,颜值,-124,UNKNOWN,-124,UNKNOWN\n",
    ]
    items, _ = videos_table(folder_with(tmp_path, captions=CAPTIONS_HEADER + "".join(rows)), "original")
    assert items[Columns.TITLE].tolist()[:2] == ["长" * 39 + "…", "#a #b"]


def test_control_characters_become_spaces(tmp_path):
    caption = "10,UNKNOWN,a\x00\x07b\u202ec,[],8,颜值,-124,UNKNOWN,-124,UNKNOWN\n"
    items, _ = videos_table(folder_with(tmp_path, captions=CAPTIONS_HEADER + caption), "original")
    assert items[Columns.TITLE][0] == "a b c"


def test_a_video_may_lack_either_row(tmp_path):
    captions = CAPTIONS_TEXT.replace("40,UNKNOWN", "50,UNKNOWN")
    items, notes = videos_table(folder_with(tmp_path, captions=captions), "original")
    assert items[Columns.ITEM_ID].tolist() == [10, 20, 30, 40, 50]
    assert notes[f"videos without a row in {CAPTIONS_FILE}, named by their tags"] == 1
    assert notes[f"videos without a row in {CATEGORIES_FILE}, without topics"] == 1


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("categories", CATEGORIES_TEXT + "10,[1]\n", "row 6: video 10 occurs before"),
        (
            "categories",
            CATEGORIES_TEXT + "11,__import__('os')\n",
            r"row 6 \(video 11\): feat .* is not a list of tags",
        ),
        ("categories", CATEGORIES_TEXT + "x,[1]\n", "row 6: video id 'x' is not a whole number"),
        ("categories", CATEGORIES_TEXT + "11,[1],1\n", "row 6: 3 fields, expected 2"),
        ("categories", CATEGORIES_TEXT.replace("feat", "tags"), "column feat is missing"),
        ("categories", None, "no such file"),
        ("captions", CAPTIONS_TEXT.encode("gb18030"), "not UTF-8"),
        (
            "captions",
            CAPTIONS_TEXT.replace(",8,颜值", ",eight,颜值"),
            r"row 2 \(video 10\): first_level_category_id 'eight'",
        ),
        ("captions", CAPTIONS_TEXT + '50,UNKNOWN,"open,[],8,a,1,b,1,c\n', "unexpected end of data"),
        ("captions", CAPTIONS_HEADER, "there are no rows"),
    ],
)
def test_bad_side_tables_are_refused(tmp_path, name, text, problem):
    with pytest.raises(InputError, match=problem):
        videos_table(folder_with(tmp_path, **{name: text}), "original")
