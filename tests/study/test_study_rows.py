import pandas as pd
import pytest

from flexrec.ranking.statistics import holm
from flexrec.study.collection import collect
from flexrec.study.paper import near_random_rows
from flexrec.study.rows import made_tests, readable_count
from made_study import metrics_of, result, tables_of


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


def test_the_papers_search_rows_stand_beside_every_judgment(settings, options, how):
    """ESCI's judgments are all there, and its task runs with all of them."""
    esci = result("flexrec", 0, need="search", dataset="esci", density=1.0)
    names = {"search": {"title": "search", "needs": ["search"]}}
    (table,) = tables_of(
        collect([esci]), settings, options.model_validate({**options.model_dump(), "tables": names}), how
    )
    own = {row[0].text: row[1].text for row in table.rows if row[0].text.startswith("the paper")}
    assert len(own) == 7
    assert own["the paper: FlexRec (Qwen2.5-3B)"] == "0.528"
    # and those that are near a random order are told with the task, whatever its density
    near = near_random_rows("esci", "search")
    assert [(row.method, row.metrics["ndcg_at_5"]) for row in near] == [
        ("star", 0.412), ("untrained", 0.502), ("untrained", 0.449),
    ]  # fmt: skip


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


def test_every_seed_is_seen(tables, collected):
    headings, *rows = tables["1"].by_seed
    assert headings == ("NDCG@5 by seed", "seed 0", "seed 1")
    # the measured ones, in the order of the table; one cell failed
    assert [row[0] for row in rows] == [row[0].text for row in tables["1"].rows[:6]]
    own = {method: part.groupby("seed")["ndcg_at_5"].mean() for method, part in collected.instances.groupby("method")}
    assert rows[-1] == ("Rec-R1 + critic", f"{own['rec_r1_critic'][0]:.3f}", "")
    assert rows[-2] == ("FlexRec", f"{own['flexrec'][0]:.3f}", f"{own['flexrec'][1]:.3f}")
    assert own["flexrec"][0] != own["flexrec"][1]


def test_of_one_seed_there_is_nothing_more_to_see(settings, options, how):
    (table, *_) = tables_of(collect([result("flexrec", 0)]), settings, options, how)
    assert table.by_seed == ()


def test_p_values_are_corrected_over_the_whole_table(tables):
    numbers = tables["1"].numbers
    measured = numbers[numbers["source"] == "measured"]
    measured = measured.set_index("method")
    # six rows against two references, less the references themselves; these are compared with each other once
    first, second = measured["p_flexrec"].dropna(), measured["p_untrained"].dropna().drop("flexrec")
    assert (len(first), len(second)) == (5, 4)
    adjusted = holm(pd.concat([first, second]).to_numpy())
    assert measured.loc[first.index, "p_holm_flexrec"].tolist() == pytest.approx(adjusted[:5].tolist())
    assert measured.loc[second.index, "p_holm_untrained"].tolist() == pytest.approx(adjusted[5:].tolist())
    assert measured.loc["flexrec", "p_holm_untrained"] == measured.loc["untrained", "p_holm_flexrec"]
    assert any("over the 9 tests of this table" in note for note in tables["1"].notes)


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


def test_counts_for_people():
    assert [readable_count(count) for count in (float("nan"), 12.0, 1234.0, 2.5e6)] == ["", "12", "1.2k", "2.5M"]


def test_a_reference_that_is_no_row_of_a_table_is_a_pair_of_its_own():
    numbers = pd.DataFrame(
        {
            "method": ["flexrec", "ppo"],
            "trained_on": ["interest", "interest"],
            "p_flexrec": [float("nan"), 0.1],
            "p_sft": [0.2, 0.3],
        }
    )
    found = made_tests(numbers, ["flexrec", "sft"], "interest")
    assert list(found.values()) == [[(1, "flexrec")], [(0, "sft")], [(1, "sft")]]
