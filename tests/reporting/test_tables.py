import math
import re

import pandas as pd
import pytest

from flexrec.reporting.tables import (
    facts_markdown,
    flatten_facts,
    need_tables,
    results_markdown,
    summary_sentences,
    terminal_table,
)


def row(method: str, mean: float, reference: str | None = None, metric: str = "ndcg_at_5", **values: float) -> dict:
    empty = dict.fromkeys(("difference", "difference_low", "difference_high", "p", "p_holm"), math.nan)
    return {
        "method": method,
        "need": "trend",
        "metric": metric,
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
        "n": 40,
        "users": 20,
        "reference": reference,
        **empty,
        **values,
    }


def compared(method: str, mean: float, reference: str, difference: float, p_holm: float) -> dict:
    bounds = {"difference_low": difference - 0.01, "difference_high": difference + 0.01}
    return row(method, mean, reference, difference=difference, p=p_holm / 2, p_holm=p_holm, **bounds)


SUMMARY = pd.DataFrame(
    [
        compared("flexrec", 0.7, "untrained", 0.2, 0.0002),
        compared("flexrec", 0.7, "item_mean", -0.1, 0.04),
        compared("flexrec", 0.7, "random", 0.3, 0.0002),
        row("flexrec", 0.01, metric="invalid_rate"),
        row("untrained", 0.5),
        row("untrained", 0.25, metric="invalid_rate"),
        row("item_mean", 0.8),
        row("random", 0.4),
    ]
)


def test_one_row_per_method_with_its_tests():
    (table,) = need_tables(SUMMARY)
    # the comparison with random stays out: a weaker baseline says less than the strongest
    assert table.headings == ("method", "NDCG@5", "p vs item mean", "p vs untrained", "invalid")
    assert (table.need, table.instances, table.users) == ("trend", 40, 20)
    texts = {cells[0].text: [cell.text for cell in cells[1:]] for cells in table.rows}
    assert texts["FlexRec"] == ["0.700 [0.600, 0.800]", "0.040", "< 0.001", "0.010"]
    assert texts["untrained"] == ["0.500 [0.400, 0.600]", "", "", "0.250"]
    assert [cells[0].text for cells in table.rows] == ["random", "item mean", "untrained", "FlexRec"]


def test_best_is_marked_and_ties_at_the_printed_precision_are_too():
    tied = pd.concat([SUMMARY, pd.DataFrame([row("other", 0.80004)])])
    (table,) = need_tables(tied)
    assert {cells[0].text for cells in table.rows if cells[1].best} == {"item mean", "other"}
    assert not any(cell.best for cells in table.rows for cell in cells[2:])


def test_ndcg_at_30_is_left_out_where_lists_are_short():
    def with_long(value: float) -> list[str]:
        more = [row("random", 0.5, metric="ndcg_at_10"), row("random", value, metric="ndcg_at_30")]
        return list(need_tables(pd.DataFrame([row("random", 0.4), *more]))[0].headings)

    assert "NDCG@30" not in with_long(0.5)
    assert "NDCG@30" in with_long(0.6)


def test_every_cell_stands_under_its_heading(world):
    for table in need_tables(world.summary):
        assert all(len(cells) == len(table.headings) for cells in table.rows)
        by_heading = dict(zip(table.headings, table.rows[-2], strict=True))
        assert by_heading["method"].text == "FlexRec"
        means = world.summary[(world.summary["method"] == "flexrec") & (world.summary["need"] == table.need)]
        for heading, metric in (("tau", "kendall_tau"), ("invalid", "invalid_rate"), ("MRR@5", "mrr_at_5")):
            mean = means.loc[means["metric"] == metric, "mean"].iloc[0]
            assert by_heading[heading].text.startswith(f"{mean:.3f}"), heading


def test_markdown_is_a_table_with_bold_best():
    lines = results_markdown(SUMMARY).splitlines()
    assert lines[0] == "### trend"
    assert "| item mean | **0.800 [0.700, 0.900]** |  |  |" in "\n".join(lines)
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1
    assert results_markdown(SUMMARY.iloc[:0]) == "No results: nothing was evaluated.\n"


def test_markdown_escapes_names():
    hostile = SUMMARY.assign(method="<b>|`x`[y](z)", need="a|b", reference=None)
    text = results_markdown(hostile)
    assert "<b>" not in text
    assert r"&lt;b&gt;\|\`x\`\[y\](z)" in text
    assert r"### a\|b" in text


def test_terminal_table_is_plain_text(world):
    text = terminal_table(world.summary)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 110
    first = text.split("trend: ")[0]
    best = [line for line in first.splitlines() if line.endswith(" *") or " * " in line.replace(", * best", "")]
    assert len(best) == 1
    assert "FlexRec" in best[0]
    assert terminal_table(world.summary.iloc[:0]) == "No results: nothing was evaluated.\n"
    assert "[x]" in terminal_table(SUMMARY.replace("random", "[x]"))


def test_an_interval_on_a_terminal_stays_beside_its_mean(world):
    extra = [compared("flexrec", 0.7, name, 0.1, 0.5) for name in ("untrained", "warmed_up", "lambdamart")]
    names = ("untrained", "warmed_up", "lambdamart", "mf")
    summary = pd.DataFrame([*extra, *(row(name, 0.712 if name == "lambdamart" else 0.612) for name in names)])
    side = [row(name, 0.0, metric=metric) for name in (*names, "flexrec") for metric in ("invalid_rate", "kendall_tau")]
    text = terminal_table(pd.concat([summary, pd.DataFrame(side)], ignore_index=True))
    assert text.count("0.612 [0.512, 0.712]") == 3
    assert "0.712 [0.612, 0.812] *" in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_sentences_say_what_was_found():
    (sentence,) = summary_sentences(SUMMARY, method="flexrec")
    assert sentence == (
        "The ranker 'FlexRec' reaches NDCG@5 0.700 [0.600, 0.800] on trend (40 instances of 20 users); "
        "untrained 0.500 (the ranker is ahead: +0.200 [+0.190, +0.210], p < 0.001). "
        "The strongest baseline is item mean with 0.800 (the ranker is behind: -0.100 [-0.110, -0.090], p = 0.040)."
    )


def test_sentences_claim_nothing_without_evidence():
    unsure = SUMMARY.assign(p_holm=0.05)
    (sentence,) = summary_sentences(unsure, method="flexrec")
    assert "ahead" not in sentence
    assert "behind" not in sentence
    assert sentence.count("no clear difference") == 2
    one_user = SUMMARY.assign(difference_low=math.nan, difference_high=math.nan)
    assert "ahead: +0.200, p < 0.001" in summary_sentences(one_user, method="flexrec")[0]
    (alone,) = summary_sentences(SUMMARY, method="untrained")
    assert alone == (
        "The ranker 'untrained' reaches NDCG@5 0.500 [0.400, 0.600] on trend (40 instances of 20 users). "
        "The strongest baseline is item mean with 0.800 (difference -0.300)."
    )
    assert summary_sentences(SUMMARY, method="absent") == []


def test_a_small_fact_is_not_rounded_away():
    facts = {"density": 0.25, "correlation": -0.0412, "mse": 128.71, "memory": 23.5, "candidates": 10.0, "none": 0.0}
    assert [text for _, text in flatten_facts(facts)] == ["0.25", "-0.0412", "128.7", "23.5", "10", "0"]


def test_facts_are_flattened_and_escaped():
    facts = {"command": "kedro run | tee", "seeds": {"training": [0, 1]}, "node_seconds": {"fit": 1234.56}, "gpu": None}
    assert flatten_facts(facts) == [
        ("command", "kedro run | tee"),
        ("seeds training", "0, 1"),
        ("node seconds fit", "1,234.6"),
        ("gpu", "-"),
    ]
    assert r"| command | kedro run \| tee |" in facts_markdown(facts).splitlines()
    assert re.fullmatch(r"(\|.*\|\n)+", facts_markdown(facts))


@pytest.mark.parametrize("metric", ["ndcg_at_5", "mrr_at_5"])
def test_the_primary_metric_is_a_choice(world, metric):
    sentence = summary_sentences(world.summary, method="flexrec", primary=metric)[0]
    assert {"ndcg_at_5": "NDCG@5", "mrr_at_5": "MRR@5"}[metric] in sentence
