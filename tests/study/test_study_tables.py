from flexrec.study.collection import collect
from flexrec.study.printing import study_markdown, study_text
from flexrec.study.settings import StudySettings
from made_study import metrics_of, result, tables_of


def test_a_kind_of_table_comes_where_it_applies(tables):
    # nothing is dense, nothing was probed
    assert list(tables) == ["1", "6"]
    assert tables["1"].subject == "interest on ml-1m, 0.1 of the labels observed, small"


def test_a_need_that_no_kind_is_about_has_a_table_of_its_own(settings, options, how):
    found = collect([result("flexrec", 0, need="trend")])
    assert [table.name for table in tables_of(found, settings, options, how)] == ["trend"]
    # unless the study names its tables
    chosen = StudySettings.model_validate({**settings.model_dump(), "tables": ["1"]})
    assert tables_of(found, chosen, options, how) == []


def test_needs_written_with_a_space_have_no_table_twice(settings, options, how):
    values = metrics_of({"random": 0.2, "untrained": 0.3, "flexrec": 0.6}, seed=0, needs=("interest", "trend"))
    found = collect([result("flexrec", 0, need="interest, trend", metrics=(("test", values),))])
    subjects = [table.group[3] for table in tables_of(found, settings, options, how)]
    assert sorted(subjects) == ["interest", "trend"]


def test_a_study_of_which_nothing_is_done_still_has_its_tables(settings, options, how):
    found = collect([result("flexrec", 0, state="failed", reason="no disk", metrics=(), curves=None, seconds={})])
    (table,) = tables_of(found, settings, options, how)
    assert "Nothing of this was measured." in table.notes
    assert "Failed: FlexRec on interest, seed 0: no disk" in table.notes
    assert "no disk" in study_text([table], found.cells)
    assert "no disk" in study_markdown("A study", [table], {})
