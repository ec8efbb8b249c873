"""Tables, figures and pages of the probe, on a made-up evaluation with hostile titles."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from flexrec.evaluation import summarise
from flexrec.evaluation.gallery import gallery
from flexrec.evaluation.input_order import input_order_summary
from flexrec.evaluation.switching import switching, switching_summary
from flexrec.prompting import PromptSettings
from flexrec.ranking.needs import Need
from flexrec.reporting.blocks import html_table, markdown_table, terminal_text
from flexrec.reporting.figures.probe import input_order_figure, switching_figure, transfer_figure
from flexrec.reporting.probe import (
    Probe,
    input_order_block,
    probe_markdown,
    probe_metrics,
    probe_page,
    probe_sentences,
    probe_text,
    switching_block,
    transfer_block,
)
from flexrec.tracking import numbers

MODELS = ("untrained", "warmed_up", "flexrec")
FEW = {"resamples": 200, "permutations": 200, "seed": 0}


@pytest.fixture(scope="module")
def transfer(world) -> pd.DataFrame:
    metrics = world.metrics[world.metrics["method"].isin(("random", *MODELS))]
    return summarise(metrics, references={"warmed_up": MODELS[:1], "flexrec": MODELS[:2]}, **FEW)


@pytest.fixture(scope="module")
def switched(world) -> pd.DataFrame:
    rankings = world.rankings[world.rankings["method"].isin(MODELS)]
    return switching_summary(switching(rankings, world.gains, world.labelled), **FEW)


@pytest.fixture(scope="module")
def orders(world) -> pd.DataFrame:
    shown = world.metrics[(world.metrics["method"].isin(MODELS)) & (world.metrics["need"] == "trend")]
    shifts = {"shown": 0.0, "ideal": 0.05, "reversed": -0.1, "random_1": 0.02}
    parts = [
        shown.assign(arrangement=name, ndcg_at_5=shown["ndcg_at_5"].clip(0.1, 0.9) + shift)
        for name, shift in shifts.items()
    ]
    return input_order_summary(pd.concat(parts, ignore_index=True), **FEW)


@pytest.fixture(scope="module")
def probe(world, transfer, switched, orders) -> Probe:
    rankings = world.rankings[world.rankings["method"].isin(MODELS)]
    answers = rankings.assign(arrangement="shown", text="<think>A | B</think><answer> A B</answer><script>")
    needs = {
        name: Need.model_validate(
            {"instruction": text, "terms": [{"factors": [{"signal": "trend"}]}], "relevant": {"rule": "top"}}
        )
        for name, text in {"interest": "What the user enjoys", "trend": "What is watched now"}.items()
    }
    shown = gallery(
        answers,
        world.labelled[world.labelled["instance_id"] < 3],
        world.items,
        world.gains,
        needs,
        PromptSettings(),
        count=2,
    )
    return Probe(
        title="Probe <1>",
        subject="K = 10 & more",
        method="flexrec",
        trained_for=("trend",),
        transfer=transfer,
        switching=switched,
        input_order=orders,
        gallery=shown,
        figures=(
            transfer_figure(transfer, method="flexrec", trained_for=["trend"]),
            switching_figure(switched),
            input_order_figure(orders),
        ),
        facts={"seed": 0},
    )


# --- Tables ---


def test_transfer_has_a_row_per_need(transfer) -> None:
    block = transfer_block(transfer, method="flexrec", trained_for=["trend"])
    assert [row[0] for row in block.rows] == ["interest", "trend (trained)"]
    assert block.headings == (
        *("asked for", "random", "untrained", "warmed-up", "FlexRec"),
        *("vs untrained", "p", "vs warmed-up", "p"),
    )
    found = transfer[
        (transfer["metric"] == "ndcg_at_5")
        & (transfer["method"] == "flexrec")
        & (transfer["need"] == "interest")
        & (transfer["reference"] == "untrained")
    ].iloc[0]
    cells = dict(zip(block.headings, block.rows[0], strict=False))
    assert cells["FlexRec"] == f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    assert cells["vs untrained"].startswith(f"{found['difference']:+.3f} [")
    assert block.note.startswith("40 instances of 20 users.")


def test_switching_has_a_row_per_pair_and_model(switched) -> None:
    block = switching_block(switched)
    assert [row[:2] for row in block.rows] == [
        ("interest / trend", "untrained"),
        ("interest / trend", "warmed-up"),
        ("interest / trend", "FlexRec"),
    ]
    assert all(len(row) == len(block.headings) for row in block.rows)


def test_input_order_has_a_row_per_order(orders) -> None:
    block = input_order_block(orders)
    assert [row[1:3] for row in block.rows] == [
        (name, order) for name in ("untrained", "warmed-up", "FlexRec") for order in ("random", "ideal", "reversed")
    ]
    # .05 and -.1 against the mean of 0 and .02
    assert [row[4][:6] for row in block.rows[:3]] == ["", "+0.040", "-0.110"]
    assert block.rows[0][-1] == "0.020"


def test_cells_are_escaped_everywhere(probe) -> None:
    hostile = ("a|b*", "<script> [x]", "0.5 [0.4, 0.6]")
    html = html_table(("h",), [hostile])
    assert "<script>" not in html
    assert "<small>[0.4, 0.6]</small>" in html
    assert markdown_table(("h", "i", "j"), [hostile]).splitlines()[2] == (
        r"| a\|b\* | &lt;script&gt; \[x\] | 0.5 \[0.4, 0.6\] |"
    )
    assert "<bdi>0.5 [y</bdi>" in html_table(("h", "i"), [("x", "0.5 [y")])
    text = terminal_text(replace(transfer_block(probe.transfer, method="flexrec", trained_for=[]), heading="[red]x"))
    assert text.startswith("[red]x")
    assert max(map(len, text.splitlines())) <= 118


# --- Words ---


def test_sentences_answer_every_question(probe) -> None:
    sentences = probe_sentences(probe)
    assert [sentence.split(",")[0] for sentence in sentences] == [
        "Trained for trend and asked for interest",
        "Trained for trend and asked for trend",
        "By the instruction alone",
        "Against random input orders",
    ]
    assert "+0.040 [+0.040, +0.040] where the best are shown first" in sentences[-1]
    text = probe_text(probe)
    assert all(sentence in text for sentence in sentences)


def test_numbers_for_tracking_have_names_of_their_own(transfer, switched, orders) -> None:
    nested = probe_metrics(transfer, switched, orders)
    flat = numbers("", json.loads(json.dumps(nested, allow_nan=False)))
    assert all(np.isfinite(list(flat.values())))
    assert all(name.startswith("probe/") for name in flat)
    row = switched[switched["method"] == "flexrec"].iloc[0]
    assert flat["probe/switching/interest-trend/flexrec/switching"] == row["switching"]
    assert flat["probe/input_order/trend/flexrec/reversed_change"] == pytest.approx(-0.11)
    assert flat["probe/transfer/interest/random/ndcg_at_5"] == pytest.approx(
        transfer[(transfer["method"] == "random") & (transfer["metric"] == "ndcg_at_5")].iloc[0]["mean"]
    )


# --- Figures ---


def title_of(figure) -> str:
    return " ".join(figure.layout.title.text.replace("<br>", " ").split())


def test_transfer_is_drawn_as_it_is(transfer) -> None:
    figure = transfer_figure(transfer, method="flexrec", trained_for=["trend"])
    rows = transfer[transfer["metric"] == "ndcg_at_5"].drop_duplicates(["method", "need"]).set_index(["method", "need"])
    assert figure.layout.yaxis.ticktext == ("trend (trained)", "interest")
    assert [trace.name for trace in figure.data] == ["random", "untrained", "warmed-up", "FlexRec"]
    for trace, method in zip(figure.data, ("random", *MODELS), strict=True):
        drawn = rows.loc[[(method, "trend"), (method, "interest")]]
        assert list(trace.x) == drawn["mean"].tolist()
        assert list(trace.error_x.array) == pytest.approx((drawn["high"] - drawn["mean"]).tolist())
        # each marker stands in the row of its need
        assert np.round(trace.y).tolist() == [0, 1]
    change = transfer[(transfer["method"] == "flexrec") & (transfer["metric"] == "ndcg_at_5")].set_index(
        ["reference", "need"]
    )["difference"]
    assert f"trend {change['untrained', 'trend']:+.3f}" in title_of(figure)


def test_switching_is_drawn_beside_the_ideal(switched) -> None:
    figure = switching_figure(switched)
    assert [trace.name for trace in figure.data] == ["ideal lists", "untrained", "warmed-up", "FlexRec"]
    assert figure.data[0].x[0] == switched["ideal_tau"].iloc[0]
    assert [trace.x[0] for trace in figure.data[1:]] == switched["tau"].tolist()
    assert "FlexRec: interest / trend" in title_of(figure)


def test_input_orders_are_drawn_from_worst_to_best(orders) -> None:
    figure = input_order_figure(orders)
    line = figure.data[2]
    assert (line.name, list(line.x)) == ("FlexRec", ["reversed", "random", "ideal"])
    own = orders[orders["method"] == "flexrec"].set_index("arrangement")["mean"]
    assert list(line.y) == [own["reversed"], own["random"], own["ideal"]]
    assert "trend, reversed -0.110 [-0.110, -0.110]" in title_of(figure)


def test_nothing_to_draw_is_said(transfer, switched, orders) -> None:
    for figure in (
        transfer_figure(transfer.iloc[:0], method="flexrec", trained_for=[]),
        switching_figure(switched.iloc[:0]),
        input_order_figure(orders.iloc[:0]),
    ):
        assert figure.layout.annotations[0].text.startswith("No ")


# --- Pages ---


class Balanced(HTMLParser):
    """Text by element; fails on an element that is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") for name, _ in attrs)
        assert not any(
            name in ("src", "href") and not (value or "").startswith(("#", "data:")) for name, value in attrs
        )
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open[-1] if self._open else "", []).append(data)


def test_the_page_is_whole_and_its_texts_stay_texts(probe, world) -> None:
    html = probe_page(probe)
    page = Balanced(html)
    assert page.text["h2"] == [
        "In short",
        "Transfer: trained for trend",
        "Switching by the instruction alone",
        "Input order",
        "Gallery",
        "How to read it",
        "What was asked",
    ]
    # every title stands in the lists of three models and in the ideal one, and once in a history
    shown = page.text["bdi"]
    for hostile in world.items["title"].iloc[:5]:
        listed = sum(titles.count(hostile) for titles in probe.gallery["titles"])
        before = probe.gallery.drop_duplicates("instance_id")["history"].map(
            lambda titles, text=hostile: text in titles
        )
        assert shown.count(hostile) == listed // 3 * 4 + before.sum() >= 2 * 4
    assert page.text["bdi"].count("<think>A | B</think><answer> A B</answer><script>") == 2 * 2 * 3
    assert "What the user enjoys" in page.text["bdi"]
    assert html.count("Plotly.newPlot(") >= 3
    assert "default-src 'none'" in html
    assert probe_page(probe) == html


def test_the_gallery_begins_with_the_ideal_list(probe) -> None:
    html = probe_page(probe)
    table = html[html.index('id="gallery"') :]
    head = table[table.index("<thead>") : table.index("</thead>")]
    assert head.count("<th") - head.count("<thead") == 5
    first = probe.gallery.iloc[0]
    best = max(first["gains"])
    row = table[table.index("<tbody>") :].split("</tr>")[0]
    assert f"<small>[{best:.2f}]</small>" in row.split("</td>")[0]


def test_markdown_holds_tables_and_gallery(probe) -> None:
    text = probe_markdown(probe)
    assert text.startswith("# Probe &lt;1&gt;\n")
    assert "### Instance 0, interest\n\nTold: What the user enjoys" in text
    assert "&lt;think&gt;A \\| B" in text
    assert "<script>" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_a_probe_without_gallery_says_so(probe) -> None:
    empty = replace(probe, gallery=probe.gallery.iloc[:0])
    assert "No instance was asked to be shown." in Balanced(probe_page(empty)).text["p"]
    assert "## Gallery" not in probe_markdown(empty)


def test_a_single_need_has_nothing_to_switch_to(probe) -> None:
    alone = replace(probe, switching=probe.switching.iloc[:0])
    for text in (probe_text(alone), probe_markdown(alone)):
        assert "Switching" not in text
        assert "Input order" in text
    assert len(probe_sentences(alone)) == len(probe_sentences(probe)) - 1
    assert "Switching by the instruction alone" in Balanced(probe_page(alone)).text["h2"]
