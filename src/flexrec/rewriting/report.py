"""Rewrites to read: figures, tables, and a few of the rewrites themselves."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.ranking.columns import Columns
from flexrec.reporting.style import empty_figure, finish, interval, label, metric_label, number, p_value
from flexrec.reporting.tables import facts_markdown, results_markdown, terminal_table
from flexrec.rewriting.evaluation import INVALID, NEED, QUALITY, REWRITE
from flexrec.rewriting.requests import REQUEST_ID

ORIGINAL, FEEDBACK, UNTRAINED, TRAINED = "original", "feedback", "untrained", "rec_r1"
METHODS = (ORIGINAL, FEEDBACK, UNTRAINED, TRAINED)
"""The rows of every table: the words as they were asked, expanded by feedback, and rewritten by the two policies."""

PRIMARY = "ndcg_at_10"

PANELS = {
    "reward": "reward of a rewrite (mean)",
    f"validation/{PRIMARY}": "validation NDCG@10",
    "answer/invalid_rate": "answers of the wrong form",
    "entropy": "entropy of the tokens",
    "kl": "KL to the reference",
    "answer/different": "different rewrites in a group",
}
"""Curves drawn, in the order of the panels, and their titles."""

_PER_ROW = 2
COST = "cost/"


def rewriting_curves_figure(curves: pd.DataFrame) -> go.Figure:
    """Draw the training curves, one panel per quantity.

    Args:
        curves: `step`, `metric`, `value`, as the training returns them.
    """
    panels = [name for name in PANELS if (curves["metric"] == name).any()]
    if not panels:
        return empty_figure("No training curves: no policy was trained in this run.")
    count = -(-len(panels) // _PER_ROW)
    figure = make_subplots(
        rows=count,
        cols=min(_PER_ROW, len(panels)),
        horizontal_spacing=0.1,
        vertical_spacing=0.28 / count,
        subplot_titles=[PANELS[name] for name in panels],
    )
    for place, name in enumerate(panels):
        line = curves[curves["metric"] == name].sort_values("step")
        figure.add_trace(
            go.Scatter(
                x=line["step"],
                y=line["value"],
                mode="lines+markers",
                line={"color": "#D55E00", "width": 2},
                marker={"size": 6},
                hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
            ),
            row=place // _PER_ROW + 1,
            col=place % _PER_ROW + 1,
        )
    figure.update_xaxes(rangemode="tozero")
    told = [name for name in (f"validation/{PRIMARY}", "reward") if name in panels]
    text = "Training of the rewriter."
    if told:
        line = curves[curves["metric"] == told[0]].sort_values("step")
        first, last = float(line["value"].iloc[0]), float(line["value"].iloc[-1])
        text = f"Training of the rewriter: {PANELS[told[0]]} {number(first)} to {number(last)}."
    return finish(figure, text, height=110 + 240 * count, legend=False)


def sentences(summary: pd.DataFrame) -> list[str]:
    """Say in words what the trained rewriter reaches, against each of its references."""
    own = summary[(summary["metric"] == PRIMARY) & (summary[Columns.METHOD] == TRAINED)]
    if own.empty:
        return []
    means = summary[summary["metric"] == PRIMARY].drop_duplicates(Columns.METHOD).set_index(Columns.METHOD)["mean"]
    first = own.iloc[0]
    told = []
    for row in own[own["reference"].notna()].to_dict("records"):
        size = f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        clear = row["p_holm"] < 0.05
        ahead = ("ahead" if row["difference"] > 0 else "behind") if clear else "no clear difference"
        other = str(row["reference"])
        told.append(f"{label(other)} {number(float(means[other]))} ({ahead}: {size}, p {p_value(row['p_holm'])})")
    reached = interval(float(first["mean"]), float(first["low"]), float(first["high"]))
    return [
        f"The rewrites of '{label(TRAINED)}' reach {metric_label(PRIMARY)} {reached} on {int(first['n'])} requests of "
        f"{int(first['users'])} users, against {'; '.join(told)}."
    ]


def gallery(rewrites: pd.DataFrame, scores: pd.DataFrame, count: int) -> pd.DataFrame:
    """A few requests with every method's rewrite, from where training lost most to where it gained most.

    Args:
        rewrites: Rows of `rewrites_table` of all methods.
        scores: Table of `score_rewrites` for them.
        count: How many, evenly spread over the order of the gain.

    Returns:
        `request_id`, `method`, `rewrite`, `invalid` (1 where the form was wrong), and NDCG@10.
    """
    joined = rewrites.merge(scores[[Columns.METHOD, REQUEST_ID, PRIMARY]], on=[Columns.METHOD, REQUEST_ID])
    by_method = joined.pivot_table(index=REQUEST_ID, columns=Columns.METHOD, values=PRIMARY)
    gained = (by_method[TRAINED] - by_method[ORIGINAL]).sort_index()
    order = gained.index.to_numpy()[np.argsort(gained.to_numpy(), kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    chosen = [int(order[place]) for place in places]
    ranks = {name: rank for rank, name in enumerate(METHODS)}
    shown = joined[joined[REQUEST_ID].isin(chosen)].copy()
    shown["place"] = [chosen.index(one) for one in shown[REQUEST_ID]]
    shown["rank"] = [ranks[name] for name in shown[Columns.METHOD]]
    shown = shown.sort_values(["place", "rank"], ignore_index=True)
    return shown[[REQUEST_ID, Columns.METHOD, REWRITE, Columns.INVALID, PRIMARY]]


def report_markdown(summary: pd.DataFrame, shown: pd.DataFrame, facts: Mapping[str, object]) -> str:
    """Everything as Markdown: sentences, results, a gallery, and what the run was."""
    table = results_markdown(summary, primary=PRIMARY, metrics=tuple(QUALITY), methods=METHODS)
    lines = ["| request | method | rewrite | NDCG@10 |", "| --- | --- | --- | --- |"]
    for row in shown.to_dict("records"):
        text = "*wrong form*" if row[Columns.INVALID] else _cell(row[REWRITE])
        lines.append(f"| {row[REQUEST_ID]} | {_cell(label(row[Columns.METHOD]))} | {text} | {number(row[PRIMARY])} |")
    parts = [*sentences(summary), table, "### Some rewrites", "\n".join(lines), facts_markdown(facts)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def report_text(summary: pd.DataFrame, shown: pd.DataFrame) -> str:
    """The same for a terminal."""
    lines = []
    for one, rows in shown.groupby(REQUEST_ID, sort=False):
        lines.append(f"request {one}")
        for row in rows.to_dict("records"):
            text = "(wrong form)" if row[Columns.INVALID] else row[REWRITE]
            lines.append(f"  {number(row[PRIMARY])}  {label(row[Columns.METHOD]):<10} {text[:120]}")
    table = terminal_table(summary, primary=PRIMARY, methods=METHODS)
    return "\n".join([table, *sentences(summary), "", *lines, ""])


def costs_of(curves: pd.DataFrame) -> dict[str, int]:
    """What a training used, by the names in `flexrec.rl.costs.COSTS`."""
    counts = curves[curves["metric"].str.startswith(COST)]
    last = counts[counts["step"] == counts["step"].max()]
    return {name.removeprefix(COST): int(value) for name, value in zip(last["metric"], last["value"], strict=True)}


def headline(summary: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Means by method and metric, as plain numbers."""
    nested: dict[str, dict[str, float]] = {}
    known = (*QUALITY, INVALID)
    for row in summary.drop_duplicates([Columns.METHOD, "metric"]).to_dict("records"):
        if row["metric"] in known:
            nested.setdefault(str(row[Columns.METHOD]), {})[str(row["metric"])] = float(row["mean"])
    return {NEED.replace(" ", "_"): nested}


def _cell(text: str) -> str:
    """Text without anything that Markdown, or HTML in it, would read as markup."""
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
