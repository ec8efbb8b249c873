import numpy as np
import pandas as pd
import pytest

from flexrec.ranking.statistics import holm
from flexrec.reporting.study_page import render_study
from flexrec.study.collection import Collected, collect
from flexrec.study.settings import StudySettings
from flexrec.study.statistics import comparisons, row_means
from flexrec.study.tables import (
    StudyTable,
    failures,
    readable_count,
    study_facts,
    study_markdown,
    study_tables,
    study_text,
    write_tables,
)
from made_study import metrics_of, result


def tables_of(collected: Collected, settings, options, how) -> list[StudyTable]:
    means = row_means(collected.instances, options.metrics, how)
    compared = comparisons(collected.instances, settings.references, options.primary, how)
    return study_tables(collected.cells, collected.instances, means, compared, settings, options, how)


@pytest.fixture(scope="module")
def tables(collected, settings, options, how) -> dict[str, StudyTable]:
    return {table.name: table for table in tables_of(collected, settings, options, how)}


def test_a_kind_of_table_comes_where_it_applies(tables):
    # nothing is dense, nothing was probed
    assert list(tables) == ["1", "6"]
    assert tables["1"].subject == "interest on ml-1m, 0.1 of the labels observed, small"


def test_rows_stand_in_order_with_those_of_the_paper_last(tables):
    labels = [row[0].text for row in tables["1"].rows]
    assert labels[:6] == ["random", "item mean", "untrained", "warmed-up", "FlexRec", "Rec-R1 + critic"]
    assert labels[6] == "the paper: BERT4Rec"
    assert labels[-1] == "the paper: FlexRec (Qwen2.5-3B)"
    paper = dict(zip(tables["1"].headings, (cell.text for cell in tables["1"].rows[-1]), strict=True))
    # method, section 9: FlexRec on ML-1M
    assert (paper["NDCG@5"], paper["Precision@5"], paper["Recall@5"], paper["p vs FlexRec"]) == (
        "0.615",
        "0.235",
        "",
        "",
    )


def test_a_row_holds_its_interval_its_tests_and_its_costs(tables):
    table = tables["1"]
    rows = {row[0].text: dict(zip(table.headings, (cell.text for cell in row), strict=True)) for row in table.rows}
    own = rows["Rec-R1 + critic"]
    assert own["difference to FlexRec"].startswith("-0.2")
    assert own["difference to FlexRec"].endswith("]")
    assert own["p vs FlexRec"] != ""
    assert own["seeds"] == "1"
    assert own["spread"] == ""
    # of the one seed that is done: 4000 + 40 tokens
    assert (own["training s"], own["tokens"]) == ("100", "4.0k")
    assert rows["FlexRec"]["p vs FlexRec"] == ""
    assert rows["warmed-up"]["training s"] == "50"
    assert rows["item mean"]["tokens"] == ""
    best = [row[0].text for row in table.rows if row[1].best]
    assert best == ["FlexRec"]


def test_p_values_are_corrected_over_the_whole_table(tables):
    numbers = tables["1"].numbers
    measured = numbers[numbers["source"] == "measured"]
    raw = pd.concat([measured["p_flexrec"], measured["p_untrained"]]).dropna()
    adjusted = pd.concat([measured["p_holm_flexrec"], measured["p_holm_untrained"]]).dropna()
    # six rows against two references, less the references themselves
    assert len(raw) == 10
    assert adjusted.tolist() == pytest.approx(holm(raw.to_numpy()).tolist())


def test_what_was_not_run_is_named_and_never_filled(tables):
    notes = " ".join(tables["6"].notes)
    assert "Not in this study: ppo." in notes
    assert "Failed: Rec-R1 + critic on interest, seed 1 (the row is of the other seeds): out of memory" in notes
    assert "ppo" not in {row[0].text for row in tables["6"].rows}
    assert tables["6"].cross[0] == ("", "GRPO", "PPO")
    assert tables["6"].cross[1][0] == "swap"
    own = tables["6"].numbers.set_index("method").loc["flexrec"]
    assert tables["6"].cross[1][1].startswith(f"{own['ndcg_at_5']:.3f} [")
    assert tables["6"].cross[1][2] == "not run"


def test_the_notes_say_what_an_interval_covers(tables):
    notes = " ".join(tables["1"].notes)
    assert "48 test instances of 12 users over 2 seeds (0, 1)." in notes
    assert "over seeds and, within a seed, over users" in notes
    assert "Rows of one seed have intervals over instances (users) only" in notes
    assert "over the 10 tests of this table" in notes


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (0.8, "The LLM is ahead (+0."),
        (0.6, "The LLM is behind (-0."),
        (0.7, "No difference between them is clear ("),
    ],
)
def test_who_wins_without_an_llm_is_said(settings, options, how, quality, words):
    found = collect([result("flexrec", seed, quality=quality) for seed in (0, 1, 2)])
    (sentence,) = tables_of(found, settings, options, how)[0].sentences
    assert sentence.startswith("Without an LLM the best row is item mean with NDCG@5 0.")
    assert words in sentence
    assert ("take" in sentence) == (quality < 0.75)


def test_a_need_that_no_kind_is_about_has_a_table_of_its_own(settings, options, how):
    found = collect([result("flexrec", 0, need="trend")])
    assert [table.name for table in tables_of(found, settings, options, how)] == ["trend"]
    # unless the study names its tables
    chosen = StudySettings.model_validate({**settings.model_dump(), "tables": ["1"]})
    assert tables_of(found, chosen, options, how) == []


def test_a_policy_asked_for_another_need_stands_among_those_trained_for_it(settings, options, how):
    results = []
    for need, quality in (("interest", 0.6), ("trend", 0.8)):
        probe = metrics_of({"random": 0.5, "untrained": 0.5, "flexrec": quality}, needs=("trend",))
        whole = result("flexrec", 0, need=need)
        cell = type(whole.cell)(need, "flexrec", 0, also=("probe",))
        results.append(result("flexrec", 0, need=need, cell=cell, metrics=(*whole.metrics, ("probe", probe))))
    tables = {table.name: table for table in tables_of(collect(results), settings, options, how)}
    rows = {row[0].text: row for row in tables["transfer"].rows}
    assert list(rows) == ["random", "untrained", "FlexRec, trained on interest", "FlexRec"]
    place = tables["transfer"].headings.index("difference to FlexRec")
    assert rows["FlexRec, trained on interest"][place].text.startswith("-0.2")
    assert rows["FlexRec"][place].text == ""


def test_a_study_of_which_nothing_is_done_still_has_its_tables(settings, options, how):
    found = collect([result("flexrec", 0, state="failed", reason="no disk", metrics=(), curves=None, seconds={})])
    (table,) = tables_of(found, settings, options, how)
    assert "Nothing of this was measured." in table.notes
    assert "Failed: FlexRec on interest, seed 0: no disk" in table.notes
    assert "no disk" in study_text([table], found.cells)
    assert "no disk" in study_markdown("A study", [table], {})


# --- Printing ---


def test_the_same_study_gives_the_same_text(tables, collected):
    facts = study_facts("mine", collected.cells)
    assert facts["runs"] == "3 of 4"
    assert facts["runs made"] == "2026-01-01 to 2026-01-02"
    # 100 + 101 + 100 s of training and two warm-ups of 50 s
    assert facts["hours of training"] == pytest.approx(401 / 3600)
    markdown = study_markdown("A <study>", list(tables.values()), facts)
    assert markdown.startswith("## A &lt;study&gt;\n")
    assert "### Table 1: all methods" in markdown
    assert "| runs | 3 of 4 |" in markdown
    assert "|  | GRPO | PPO |" in markdown
    text = study_text(list(tables.values()), collected.cells)
    assert "Table 1: all methods" in text
    assert "1 of 4 runs are not done:" in text
    assert "rec_r1_critic seed 1: failed; out of memory" in text
    page = render_study("A <study>", list(tables.values()), {}, facts, failures(collected.cells))
    assert page == render_study("A <study>", list(tables.values()), {}, facts, failures(collected.cells))
    assert "A &lt;study&gt;" in page
    assert "out of memory" in page


def test_the_numbers_are_written_unrounded(tables, tmp_path):
    write_tables(list(tables.values()), tmp_path)
    name = "table-1-ml-1m-interest-density-0.1-small"
    read = pd.read_csv(tmp_path / f"{name}.csv")
    assert read["label"].tolist() == [row[0].text for row in tables["1"].rows]
    kept = pd.read_parquet(tmp_path / f"{name}.parquet")
    assert np.array_equal(kept["ndcg_at_5"], tables["1"].numbers["ndcg_at_5"])
    (tmp_path / "none").mkdir()
    write_tables([], tmp_path / "none")
    assert [file.name for file in (tmp_path / "none").iterdir()] == ["empty.txt"]


def test_counts_for_people():
    assert [readable_count(count) for count in (float("nan"), 12.0, 1234.0, 2.5e6)] == ["", "12", "1.2k", "2.5M"]
