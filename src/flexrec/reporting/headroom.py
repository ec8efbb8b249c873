"""What more knowledge would bring, as text, as a page and as a figure."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from flexrec.evaluation.headroom import CRITIC, METRICS, REFERENCE, ROWS
from flexrec.reporting.blocks import Block, markdown_table, markdown_text, terminal_text
from flexrec.reporting.style import finish, interval, metric_label, p_value, plotly_text
from flexrec.reporting.tables import facts_markdown

Results = Mapping[str, Any]

OF_ITEMS = {"observed": "what is observed", "all": "all interactions"}
"""Of training users."""

OF_USER = {
    "nothing": "nothing",
    "shown": "shown history",
    "observed": "observed history",
    "everything": "all but the candidates",
}

_PRIMARY = METRICS[0]
_OBSERVED, _ALL = "observed", "all"


def headroom_text(results: Results) -> str:
    """The table as plain text, and what it says in words.

    Args:
        results: Of `compare_headroom`.
    """
    return "\n".join([terminal_text(_block(results)), *_sentences(results), ""])


def headroom_markdown(results: Results, *, title: str, facts: Mapping[str, object]) -> str:
    """The same as a page of Markdown.

    Args:
        results: Of `compare_headroom`.
        title: Its heading.
        facts: What it came from.
    """
    block = _block(results)
    parts = [
        f"# {markdown_text(title)}",
        "Rows below the fourth know what no method may; how to read them: docs/headroom.md.",
        *map(markdown_text, _sentences(results)),
        f"## {markdown_text(block.heading)}",
        markdown_text(block.note),
        markdown_table(block.headings, block.rows),
        facts_markdown(facts),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def headroom_figure(results: Results) -> go.Figure:
    """Draw the difference of every row from the item mean of what is observed, with its interval.

    Args:
        results: Of `compare_headroom`.
    """
    figure = go.Figure()
    series = [
        (f"items: {words}", colour, symbol, [row for row in ROWS[1:] if row.items == items and row is not CRITIC])
        for (items, words), colour, symbol in zip(
            OF_ITEMS.items(), ("#0072B2", "#D55E00"), ("circle", "square"), strict=True
        )
    ]
    for name, colour, symbol, rows in (*series, ("critic", "#00916A", "diamond", [CRITIC])):
        found = [results["rows"][row.name][_PRIMARY] for row in rows]
        figure.add_trace(
            go.Scatter(
                x=[one["difference"] for one in found],
                y=[plotly_text(OF_USER[row.user]) for row in rows],
                error_x={
                    "array": [one["difference_high"] - one["difference"] for one in found],
                    "arrayminus": [one["difference"] - one["difference_low"] for one in found],
                    "thickness": 2,
                    "width": 5,
                },
                mode="markers",
                name=plotly_text(name),
                marker={"color": colour, "symbol": symbol, "size": 10},
                hovertemplate="%{y}<br>%{x:+.3f}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"width": 1, "dash": "dot"})
    figure.update_xaxes(title_text=f"{metric_label(_PRIMARY)} above the item mean of what is observed")
    figure.update_yaxes(
        title_text="known of the user", categoryorder="array", categoryarray=list(OF_USER.values())[::-1]
    )
    return finish(figure, " ".join(_sentences(results)[:1]), height=420)


def _block(results: Results) -> Block:
    rows = []
    for row in ROWS:
        found = results["rows"][row.name]
        primary = found[_PRIMARY]
        reference = row.name == REFERENCE
        rows.append(
            (
                OF_ITEMS[row.items],
                OF_USER[row.user],
                row.ranker,
                interval(*(primary[name] for name in ("mean", "low", "high"))),
                "" if reference else _difference(primary),
                "" if reference else p_value(primary["p_holm"]),
                *(interval(*(found[metric][name] for name in ("mean", "low", "high"))) for metric in METRICS[1:]),
            )
        )
    headings = (
        "known of the items",
        "known of the user",
        "ranked by",
        metric_label(_PRIMARY),
        "vs item mean",
        "p",
        *map(metric_label, METRICS[1:]),
    )
    note = (
        f"{results['instances']} instances of {results['users']} held-out users. Items are known by interactions of "
        "training users, and who asks by a part of its own. Differences are paired, against the first row; intervals "
        "are bootstraps over users, p values sign-flip tests with users as units, by Holm."
    )
    return Block("Above the item mean", note, headings, tuple(rows))


def _sentences(results: Results) -> list[str]:
    def told(items: str, user: str, critic: bool = False) -> str:
        row = CRITIC if critic else next(row for row in ROWS if (row.items, row.user) == (items, user))
        found = results["rows"][row.name][_PRIMARY]
        return f"{_difference(found)}, Holm p {p_value(found['p_holm'])}"

    mean = results["rows"][REFERENCE][_PRIMARY]["mean"]
    return [
        f"The item mean of what is observed has {metric_label(_PRIMARY)} {mean:.3f}; a factorisation of the same that "
        f"reads the shown history: {told(_OBSERVED, 'shown')}; the critic: {told(_OBSERVED, 'shown', critic=True)}.",
        f"Were all interactions of training users known, the item mean: {told(_ALL, 'nothing')}; the factorisation: "
        f"{told(_ALL, 'shown')}.",
        f"Were everything known of the user too, but what it is asked about: {told(_ALL, 'everything')}; with the "
        f"items known by what is observed: {told(_OBSERVED, 'everything')}.",
    ]


def _difference(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.3f} [{found['difference_low']:+.3f}, {found['difference_high']:+.3f}]"
