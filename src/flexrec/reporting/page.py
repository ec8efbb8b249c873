"""The report: one HTML file that needs no network, no server and nothing beside it.

plotly.js is written into the page once; a content security policy forbids every request, so that the page stays
self-contained even if a figure asked for more. All text from data is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd
import plotly.graph_objects as go

from flexrec.reporting.blocks import Section, html_figure, html_list, html_paragraphs, page
from flexrec.reporting.examples import RankingExample
from flexrec.reporting.figures import example_figure
from flexrec.reporting.style import label, metric_label, number
from flexrec.reporting.tables import NeedTable, flatten_facts, need_tables, summary_sentences

HOW_TO_READ = (
    "Every row of a results table ranks the same candidates of the same held-out users. A mean is followed by its "
    "bootstrap interval over users; the best mean of each column is bold.",
    "NDCG@k is 1 for the ideal order of the true gains and well above 0 for a random one, so compare with the row "
    "'random', not with 0. Recall, precision and MRR count the relevant candidates among the first five.",
    "p comes from a paired, two-sided permutation test with users as units, adjusted by Holm's method for all the "
    "comparisons of that metric. A p above 0.05 is no evidence of a difference, nor of equality.",
    "tau is Kendall's correlation between a ranking and the shuffled order in which the candidates were shown: a "
    "ranker that copies its input has 1, one that ignores it 0.",
    "invalid is the number of identifiers per candidate that name nothing in the list; such answers are completed at "
    "random before they are scored.",
    "The examples are chosen at even steps between the largest gain and the largest loss of the ranker, so the last "
    "one is a failure on purpose.",
)

LIMITS = (
    "Candidates come from the items that each user has judged, so the true gain of every one is known; that is easier "
    "than ranking a whole catalogue, and people choose what they judge.",
    "The intervals cover the choice of users, not the randomness of training: another training seed can move a "
    "trained row by more than its interval.",
    "Offline gains are recorded reactions, not reactions to these rankings.",
)


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        title: Heading of the page.
        subject: What was run, one sentence: dataset, needs, base model.
        method: The trained ranker that the opening summary is about.
        summary: Table of `flexrec.evaluation.summarise`.
        figures: Figures in the order of the page, by caption.
        examples: Ranked instances of the gallery, see `select_examples`.
        facts: Run facts: `run_facts()` and what the caller adds (command, commit, seeds, node seconds).
        methods: Order of all methods.
        primary: Metric of the summary and of the tests.
        notes: Sentences after the summary, for instance what a reader must know of this run.
        limits: What the numbers cannot say.
    """

    title: str
    subject: str
    method: str
    summary: pd.DataFrame
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    examples: Sequence[RankingExample] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    methods: Sequence[str] = ()
    primary: str = "ndcg_at_5"
    notes: Sequence[str] = ()
    limits: Sequence[str] = LIMITS


def render_page(report: Report) -> str:
    """Render the report as one HTML document; the same report gives the same text, byte for byte."""
    sentences = summary_sentences(report.summary, method=report.method, primary=report.primary, methods=report.methods)
    if not sentences:
        sentences = [f"The ranker '{label(report.method)}' was not evaluated, so there is nothing to sum up."]
    tables = need_tables(report.summary, primary=report.primary, methods=report.methods)
    figures = [html_figure(f"figure-{place}", *pair) for place, pair in enumerate(report.figures.items())]
    examples = [_example(place, one, report.methods) for place, one in enumerate(report.examples)]
    sections = (
        ("summary", "In short", html_paragraphs([*sentences, *report.notes])),
        ("results", "Results", _results(tables, report.primary)),
        ("figures", "Figures", "".join(figures) or "<p>This run made no figures.</p>"),
        ("examples", "Examples", "".join(examples) or "<p>No instance to compare rankings on.</p>"),
        ("reading", "How to read it", html_list(HOW_TO_READ)),
        ("limits", "Limits", html_list(report.limits)),
        ("run", "The run", _facts(report.facts)),
    )
    return page(report.title, report.subject, [Section(*section) for section in sections])


def _results(tables: Sequence[NeedTable], primary: str) -> str:
    if not tables:
        return "<p>Nothing was evaluated.</p>"
    parts = []
    for table in tables:
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.headings)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0].text)}</th>'
            + "".join(f"<td>{_estimate(cell.text, best=cell.best)}</td>" for cell in row[1:])
            + "</tr>\n"
            for row in table.rows
        )
        parts.append(
            f"<h3>{escape(table.need)}</h3><p>{table.instances} instances of {table.users} users; "
            f"p values are those of {escape(metric_label(primary))}.</p>"
            f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>\n"
        )
    return "".join(parts)


def _estimate(text: str, *, best: bool) -> str:
    """Set the interval of an estimate below its mean, in small print."""
    mean, bracket, bounds = text.partition(" [")
    shown = f"<b>{escape(mean)}</b>" if best else escape(mean)
    return f"{shown}<small>[{escape(bounds)}</small>" if bracket else shown


def _example(place: int, example: RankingExample, methods: Sequence[str]) -> str:
    names = list(example.orders)
    first, last = names[0], names[-1]
    change = example.ndcg_at_5[last] - example.ndcg_at_5[first]
    heading = (
        f"{example.need}, instance {example.instance_id}: NDCG@5 {number(example.ndcg_at_5[first])} "
        f"({label(first)}) to {number(example.ndcg_at_5[last])} ({label(last)}), {change:+.3f}"
    )
    history = "".join(
        f"<li><bdi>{escape(title)}</bdi> <small>{engagement:g}</small></li>"
        for title, engagement in reversed(example.history)
    )
    signals = list(example.candidates[0].signals) if example.candidates else []
    positions = {
        name: {item: rank for rank, item in enumerate(order, start=1)} for name, order in example.orders.items()
    }
    largest = max((one.gain for one in example.candidates), default=0.0)
    head = "".join(
        f'<th scope="col">{escape(text)}</th>'
        for text in ("shown", "candidate", "true gain", *map(label, names), *map(label, signals))
    )
    rows = "".join(
        f'<tr><td>{shown}</td><th scope="row"><bdi>{escape(one.title)}</bdi>'
        f"<small><bdi>{escape(', '.join(one.topics))}</bdi></small></th>"
        + f'<td><meter min="0" max="{largest or 1.0:.6g}" value="{one.gain:.6g}"></meter> {one.gain:.2f}</td>'
        + "".join(f"<td>{positions[name][one.item_id]}</td>" for name in names)
        + "".join(f"<td>{one.signals[name]:.3g}</td>" for name in signals)
        + "</tr>\n"
        for shown, one in enumerate(example.candidates, start=1)
    )
    drawing = example_figure(example, methods=methods)
    table = f'<table class="candidates"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        f"<details{' open' if place == 0 else ''}><summary>{escape(heading)}</summary>\n"
        + html_figure(f"example-{place}", "Tall bars on the left are what a good ranking looks like.", drawing)
        + f"<h4>History, most recent first</h4><ol>{history or '<li>empty</li>'}</ol>"
        "<h4>Candidates in the order of the prompt, and the position that each ranker gave them</h4>"
        f'<div class="scroll">{table}</div></details>\n'
    )


def _facts(facts: Mapping[str, object]) -> str:
    if not facts:
        return "<p>No facts were recorded.</p>"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>\n' for name, text in flatten_facts(facts)
    )
    table = f'<table class="facts"><tbody>{rows}</tbody></table>'
    return f'<details><summary>Command, versions, machine, times</summary><div class="scroll">{table}</div></details>'
