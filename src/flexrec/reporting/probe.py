"""What the probe found: tables, sentences, a Markdown page, and one self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd
import plotly.graph_objects as go

from flexrec.evaluation.asking import ARRANGEMENT, IDEAL, RANDOM, TEXT
from flexrec.evaluation.names import METRICS
from flexrec.evaluation.switching import OTHER_NEED
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import ALL_NEEDS
from flexrec.reporting.blocks import (
    Block,
    Section,
    html_figure,
    html_list,
    html_paragraphs,
    html_table,
    markdown_table,
    markdown_text,
    page,
    terminal_text,
)
from flexrec.reporting.style import interval, label, metric_label, number, ordered, p_value
from flexrec.reporting.tables import facts_markdown, flatten_facts, results_markdown

HOW_TO_READ = (
    "All models rank the same test instances of the same held-out users; intervals are bootstraps over users, p values "
    "paired permutation tests with users as units, adjusted by Holm's method over their table (those over all pairs of "
    "needs among themselves).",
    "Transfer: one trained policy is asked for needs that it was not trained for. Its scores under another need are "
    "computed from that need's own true gains. Compare with 'random' and 'untrained': NDCG of a random order is far "
    "above 0.",
    "Switching: of all pairs of candidates only those count that both needs order strictly, so no tie is broken. tau "
    "is the share of them that a model orders alike for both needs minus the share that it turns round; 'ideal tau' "
    "is that of the ideal lists. A model that is deaf to the instruction has tau 1.",
    "'turned' is the share of the pairs that should be turned round and are, 'swayed' the share of those that should "
    "stay and are turned. Switching is their difference: 0 for a deaf model and for one that turns pairs at random, 1 "
    "for the ideal lists.",
    "Input order: the candidates are shown with the best first, with the best last, and in random orders; the change "
    "is against the mean of an instance's random orders. tau with the input order in the random row says whether a "
    "model copies; in the ideal order a good ranking agrees with what it is shown anyway.",
    "The gallery's instances stand at even steps in the sample, whatever the answers look like.",
)


@dataclass(frozen=True)
class Probe:
    """Everything that the pages show.

    Attributes:
        title: Heading.
        subject: What was asked of what, one sentence.
        method: The trained policy.
        trained_for: The needs that it was trained for.
        transfer: Table of `flexrec.evaluation.summarise`, by need asked for.
        switching: Table of `switching_summary`.
        input_order: Table of `input_order_summary`.
        gallery: Table of `flexrec.evaluation.gallery.gallery`.
        figures: Transfer, switching and input order, in this order.
        facts: What was asked of what, for the last section.
    """

    title: str
    subject: str
    method: str
    trained_for: tuple[str, ...]
    transfer: pd.DataFrame
    switching: pd.DataFrame
    input_order: pd.DataFrame
    gallery: pd.DataFrame
    figures: tuple[go.Figure, go.Figure, go.Figure]
    facts: Mapping[str, object] = field(default_factory=dict)


def transfer_block(
    summary: pd.DataFrame, *, method: str, trained_for: Sequence[str], metric: str = "ndcg_at_5"
) -> Block:
    """One row per need asked for: every model's mean, and the policy's change from its earlier stages."""
    rows = summary[summary["metric"] == metric]
    names = ordered(rows[Columns.METHOD])
    means = rows.drop_duplicates([Columns.METHOD, Columns.NEED]).set_index([Columns.METHOD, Columns.NEED])
    own = rows[(rows[Columns.METHOD] == method) & rows["reference"].notna()]
    references = ordered(own["reference"])
    tests = own.set_index(["reference", Columns.NEED])
    lines = []
    for need in dict.fromkeys(rows[Columns.NEED]):
        cells = [f"{need} (trained)" if need in trained_for else need]
        for name in names:
            found = means.loc[(name, need)] if (name, need) in means.index else None
            if found is None:
                cells.append("")
            else:
                cells.append(_interval(found) if name == method else number(float(found["mean"])))
        for reference in references:
            test = tests.loc[(reference, need)] if (reference, need) in tests.index else None
            cells.append("" if test is None else _change(test, "difference"))
            cells.append("" if test is None else p_value(float(test["p_holm"])))
        lines.append(tuple(cells))
    headings = ["asked for", *map(label, names)]
    for reference in references:
        headings += [f"vs {label(reference)}", "p"]
    size = rows.iloc[0] if len(rows) else None
    note = "" if size is None else f"{int(size['n'])} instances of {int(size['users'])} users. "
    note += f"Mean {metric_label(metric)}, and what {label(method)} gains over its earlier stages, paired."
    return Block(f"Transfer: trained for {', '.join(trained_for)}", note, tuple(headings), tuple(lines))


def switching_block(summary: pd.DataFrame) -> Block:
    """One row per pair of needs and model."""
    lines = []
    for pair in dict.fromkeys(zip(summary[Columns.NEED], summary[OTHER_NEED], strict=True)):
        part = summary[(summary[Columns.NEED] == pair[0]) & (summary[OTHER_NEED] == pair[1])]
        rows = {str(row[Columns.METHOD]): row for _, row in part.iterrows()}
        for name in ordered(rows):
            row = rows[name]
            lines.append(
                (
                    "all pairs" if pair[0] == ALL_NEEDS else " / ".join(pair),
                    label(name),
                    _interval(row, ("tau", "tau_low", "tau_high")),
                    *(number(float(row[name])) for name in ("ideal_tau", "correlation", "unmoved", "turned", "swayed")),
                    _interval(row, ("switching", "switching_low", "switching_high")),
                    p_value(float(row["p_holm"])),
                )
            )
    headings = ("needs", "model", "tau", "ideal tau", "corr", "unmoved", "turned", "swayed", "switching", "p")
    note = (
        "tau between a model's rankings for two needs over the pairs of candidates that both needs order, that of the "
        "ideal lists, their correlation over instances, and the share of instances whose pairs all stay. p: turned "
        "against swayed."
    )
    return Block("Switching by the instruction alone", note, headings, tuple(lines))


def input_order_block(summary: pd.DataFrame) -> Block:
    """One row per need, model and input order."""
    lines = [
        (
            str(need),
            label(str(row[Columns.METHOD])),
            str(row[ARRANGEMENT]),
            _interval(row),
            "" if row[ARRANGEMENT] == RANDOM else _change(row, "change"),
            "" if row[ARRANGEMENT] == RANDOM else p_value(float(row["p_holm"])),
            _interval(row, ("tau", "tau_low", "tau_high")),
            number(float(row["spread"])) if row[ARRANGEMENT] == RANDOM else "",
        )
        for need, part in summary.groupby(Columns.NEED, sort=False)
        for _, row in part.iterrows()
    ]
    headings = ("need", "model", "input order", "NDCG@5", "change from random", "p", "tau with it", "spread")
    note = (
        "NDCG@5 with the candidates shown in random, ideal and reversed order; spread: the largest minus the smallest "
        "over an instance's random orders."
    )
    return Block("Input order", note, headings, tuple(lines))


def probe_sentences(probe: Probe) -> list[str]:
    """Say in words what the trained policy does, one sentence per question."""
    name, trained_for = label(probe.method), ", ".join(probe.trained_for)
    rows = probe.transfer
    rows = rows[(rows["metric"] == "ndcg_at_5") & (rows[Columns.METHOD] == probe.method)]
    sentences = [
        f"Trained for {trained_for} and asked for {row[Columns.NEED]}, {name} reaches NDCG@5 "
        f"{_interval(row)}: {_change(row, 'difference')} against untrained, "
        f"p {_relation(float(row['p_holm']))}."
        for _, row in rows[rows["reference"] == "untrained"].iterrows()
    ]
    switching = probe.switching[probe.switching[Columns.METHOD] == probe.method]
    if len(switching):
        row = switching.iloc[-1]
        pairs = "all pairs of needs" if row[Columns.NEED] == ALL_NEEDS else f"{row[Columns.NEED]} / {row[OTHER_NEED]}"
        sentences.append(
            f"By the instruction alone, over {pairs}, {name} turns round {number(float(row['turned']), 2)} of the "
            f"pairs of candidates that the needs order differently and {number(float(row['swayed']), 2)} of those "
            f"that they order alike: switching {_interval(row, ('switching', 'switching_low', 'switching_high'))}, "
            f"p {_relation(float(row['p_holm']))} (0: deaf or random, 1: ideal); tau {number(float(row['tau']), 2)} "
            f"where the ideal lists have {number(float(row['ideal_tau']), 2)}."
        )
    orders = probe.input_order
    orders = orders[(orders[Columns.METHOD] == probe.method) & (orders[ARRANGEMENT] != RANDOM)]
    for need, part in orders.groupby(Columns.NEED, sort=False):
        told = " and ".join(
            f"{_change(row, 'change')} where the best are shown {'first' if row[ARRANGEMENT] == IDEAL else 'last'} "
            f"(p {_relation(float(row['p_holm']))})"
            for _, row in part.iterrows()
        )
        sentences.append(f"Against random input orders, its NDCG@5 on {need} changes by {told}.")
    return sentences


def probe_text(probe: Probe) -> str:
    """The results for a terminal; of single pairs of needs the trained policy alone."""
    pairs = probe.switching
    pairs = pairs[(pairs[Columns.METHOD] == probe.method) | (pairs[Columns.NEED] == ALL_NEEDS)]
    transfer, _, input_order = _blocks(probe)
    blocks = (transfer, switching_block(pairs), input_order)
    return "\n".join([*(terminal_text(block) for block in blocks if block.rows), *probe_sentences(probe), ""])


def probe_markdown(probe: Probe) -> str:
    """The results as Markdown, the gallery included."""
    parts = [f"# {markdown_text(probe.title)}", markdown_text(probe.subject), *probe_sentences(probe)]
    for block in (block for block in _blocks(probe) if block.rows):
        parts += [f"## {markdown_text(block.heading)}", block.note, markdown_table(block.headings, block.rows)]
    parts += ["## All metrics by need asked for", results_markdown(probe.transfer)]
    if len(probe.gallery):
        parts.append("## Gallery")
        for (instance_id, need), rows in probe.gallery.groupby([Columns.INSTANCE_ID, Columns.NEED], sort=False):
            lines = [
                (
                    label(str(row[Columns.METHOD])),
                    number(float(row["ndcg_at_5"])),
                    str(row[TEXT]),
                    "; ".join(f"{title} ({gain:.2f})" for title, gain in _listed(row)),
                )
                for _, row in rows.iterrows()
            ]
            parts += [
                f"### Instance {instance_id}, {markdown_text(need)}",
                f"Told: {markdown_text(rows.iloc[0]['instruction'])}",
                markdown_table(("model", "NDCG@5", "what it wrote", "its list, with true gains"), lines),
            ]
    if probe.facts:
        parts += ["## What was asked", facts_markdown(probe.facts)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def probe_page(probe: Probe) -> str:
    """The results as one HTML document; the same probe gives the same text, byte for byte."""
    anchors = ("transfer", "switching", "input-order")
    captions = (
        "Means under every need asked for.",
        "tau between the rankings for two needs; the line is a deaf model.",
        "NDCG@5 by the order in which the candidates are shown.",
    )
    results = [
        Section(
            anchor,
            block.heading,
            html_paragraphs([block.note])
            + html_table(block.headings, block.rows)
            + html_figure(f"figure-{anchor}", caption, figure),
        )
        for anchor, block, caption, figure in zip(anchors, _blocks(probe), captions, probe.figures, strict=True)
    ]
    sections = [
        Section("summary", "In short", html_paragraphs(probe_sentences(probe))),
        *results,
        Section("gallery", "Gallery", _gallery(probe.gallery)),
        Section("reading", "How to read it", html_list(HOW_TO_READ)),
        Section("asked", "What was asked", html_table(("fact", "value"), flatten_facts(probe.facts), kind="facts")),
    ]
    return page(probe.title, probe.subject, sections)


def probe_metrics(
    transfer: pd.DataFrame, switching: pd.DataFrame, input_order: pd.DataFrame
) -> dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]:
    """The numbers below `probe`, for tracking: question, need (or pair), model, and name; NaN is left out."""
    asked: dict[str, dict[str, dict[str, float]]] = {}
    means = transfer[transfer["metric"].isin(METRICS)]
    for _, row in means.drop_duplicates([Columns.METHOD, Columns.NEED, "metric"]).iterrows():
        _put(asked, row[Columns.NEED], row[Columns.METHOD], {row["metric"]: row["mean"]})
    switched: dict[str, dict[str, dict[str, float]]] = {}
    for _, row in switching.iterrows():
        pair = ALL_NEEDS if row[Columns.NEED] == ALL_NEEDS else f"{row[Columns.NEED]}-{row[OTHER_NEED]}"
        names = ("tau", "ideal_tau", "correlation", "unmoved", "turned", "swayed", "switching")
        _put(switched, pair, row[Columns.METHOD], {name: row[name] for name in names})
    ordered_input: dict[str, dict[str, dict[str, float]]] = {}
    for _, row in input_order.iterrows():
        values = {f"{row[ARRANGEMENT]}_{name}": row[name] for name in ("mean", "change", "tau", "spread")}
        _put(ordered_input, row[Columns.NEED], row[Columns.METHOD], values)
    return {"probe": {"transfer": asked, "switching": switched, "input_order": ordered_input}}


def _put(table: dict[str, dict[str, dict[str, float]]], need: str, method: str, values: Mapping[str, float]) -> None:
    known = {name: float(value) for name, value in values.items() if not math.isnan(value)}
    table.setdefault(need, {}).setdefault(method, {}).update(known)


def _blocks(probe: Probe) -> tuple[Block, Block, Block]:
    return (
        transfer_block(probe.transfer, method=probe.method, trained_for=probe.trained_for),
        switching_block(probe.switching),
        input_order_block(probe.input_order),
    )


def _gallery(table: pd.DataFrame) -> str:
    parts = []
    for place, (instance_id, of_instance) in enumerate(table.groupby(Columns.INSTANCE_ID, sort=False)):
        history = "".join(f"<li><bdi>{escape(title)}</bdi></li>" for title in of_instance.iloc[0]["history"])
        inner = f"<h4>History, most recent first, or query</h4><ol>{history or '<li>empty</li>'}</ol>"
        for need, rows in of_instance.groupby(Columns.NEED, sort=False):
            lists = {label(str(row[Columns.METHOD])): _listed(row) for _, row in rows.iterrows()}
            ideal = sorted(next(iter(lists.values())), key=lambda pair: -pair[1])
            lists = {"ideal": ideal, **lists}
            scores = [
                f"{label(str(row[Columns.METHOD]))}: {number(float(row['ndcg_at_5']))}" for _, row in rows.iterrows()
            ]
            written = "".join(
                f"<li>{escape(label(str(row[Columns.METHOD])))} wrote: <bdi>{escape(str(row[TEXT]))}</bdi></li>"
                for _, row in rows.iterrows()
            )
            lines = [
                (str(rank), *(f"{title} [{gain:.2f}]" for title, gain in line))
                for rank, line in enumerate(zip(*lists.values(), strict=True), start=1)
            ]
            inner += (
                f"<h4>{escape(str(need))}</h4><p>Told: <bdi>{escape(str(rows.iloc[0]['instruction']))}</bdi></p>"
                f"<p>NDCG@5. {escape('; '.join(scores))}</p><ul>{written}</ul>" + html_table(("rank", *lists), lines)
            )
        parts.append(
            f"<details{' open' if place == 0 else ''}><summary>Instance {int(str(instance_id))}: the same candidates "
            f"under every need</summary>\n{inner}</details>\n"
        )
    return "".join(parts) or "<p>No instance was asked to be shown.</p>"


def _listed(row: pd.Series) -> list[tuple[str, float]]:
    return list(zip(row["titles"], map(float, row[Columns.GAINS]), strict=True))


def _interval(row: pd.Series, names: tuple[str, str, str] = ("mean", "low", "high")) -> str:
    mean, low, high = (float(row[name]) for name in names)
    # a single user has no interval
    return number(mean) if math.isnan(low) else interval(mean, low, high)


def _change(row: pd.Series, name: str) -> str:
    change, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{change:+.3f}" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]")


def _relation(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"
