"""Figures of the evaluation: means with intervals, and how much a ranker follows its input order."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.ranking.columns import Columns
from flexrec.reporting.style import (
    GRID,
    empty_figure,
    finish,
    looks,
    metric_label,
    number,
    ordered,
    plotly_text,
)

_COLUMNS = 3


def results_figure(summary: pd.DataFrame, *, metric: str = "ndcg_at_5", methods: Sequence[str] = ()) -> go.Figure:
    """Draw the mean and interval of one metric for every method, one panel per need.

    Args:
        summary: Table of `flexrec.evaluation.summarise`.
        metric: The metric drawn.
        methods: Order of the methods, best read first; see `flexrec.reporting.style.ordered`.
    """
    rows = summary[summary["metric"] == metric].drop_duplicates([Columns.METHOD, Columns.NEED])
    if rows.empty:
        return empty_figure(f"No {metric_label(metric)} to show: the summary holds no row for it.")
    needs = list(dict.fromkeys(rows[Columns.NEED]))
    names = ordered(rows[Columns.METHOD], methods)
    styles = looks(names, methods)
    figure, places = _panels(needs)
    for need, place in zip(needs, places, strict=True):
        panel = rows[rows[Columns.NEED] == need].set_index(Columns.METHOD)
        for name in names:
            if name not in panel.index:
                continue
            row, look = panel.loc[name], styles[name]
            mean, low, high = float(row["mean"]), float(row["low"]), float(row["high"])
            figure.add_trace(
                go.Scatter(
                    x=[mean],
                    y=[plotly_text(look.label)],
                    error_x={"array": [high - mean], "arrayminus": [mean - low], "thickness": 2, "width": 5},
                    mode="markers+text",
                    text=[number(mean)],
                    textposition="top center",
                    textfont={"size": 11},
                    cliponaxis=False,
                    marker={"color": look.colour, "symbol": look.symbol, "size": 10,
                            "line": {"width": 2, "color": look.colour}},
                    hovertemplate=f"{plotly_text(look.label)}<br>%{{x:.3f}} [{number(low)}, {number(high)}]"
                    f"<br>{int(row['n'])} instances of {int(row['users'])} users<extra></extra>",
                ),
                **place,
            )  # fmt: skip
    _share_axes(figure, names, styles)
    figure.update_xaxes(title_text=metric_label(metric))
    best = rows.loc[rows.groupby(Columns.NEED, sort=False)["mean"].idxmax()]
    winners = "; ".join(
        f"on {need} {styles[name].label} with {number(mean)}"
        for need, name, mean in zip(best[Columns.NEED], best[Columns.METHOD], best["mean"], strict=True)
    )
    text = f"Highest mean {metric_label(metric)}: {winners}. Bars: bootstrap intervals over users."
    return finish(figure, text, height=_height(len(needs), len(names)), legend=False)


def tau_figure(instance_metrics: pd.DataFrame, *, methods: Sequence[str] = ()) -> go.Figure:
    """Draw the distribution of Kendall's tau between ranking and input order for every method, one panel per need.

    Args:
        instance_metrics: The `instance_metrics` table.
        methods: Order of the methods.
    """
    if instance_metrics.empty:
        return empty_figure("No rankings were evaluated, so there is no Kendall tau to show.")
    needs = list(dict.fromkeys(instance_metrics[Columns.NEED]))
    names = ordered(instance_metrics[Columns.METHOD], methods)
    styles = looks(names, methods)
    figure, places = _panels(needs)
    for need, place in zip(needs, places, strict=True):
        panel = instance_metrics[instance_metrics[Columns.NEED] == need]
        for name in names:
            values = panel.loc[panel[Columns.METHOD] == name, "kendall_tau"]
            if values.empty:
                continue
            low, lower, median, upper, high = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95])
            figure.add_trace(
                go.Box(
                    y=[plotly_text(styles[name].label)],
                    lowerfence=[low],
                    q1=[lower],
                    median=[median],
                    q3=[upper],
                    upperfence=[high],
                    orientation="h",
                    marker={"color": styles[name].colour},
                    line={"width": 2},
                    width=0.5,
                ),
                **place,
            )
        figure.add_vline(x=0, line={"color": GRID, "width": 2}, **place)
        figure.add_vline(x=1, line={"color": GRID, "width": 2, "dash": "dash"}, **place)
    _share_axes(figure, names, styles)
    figure.update_xaxes(title_text="Kendall tau", range=[-1.05, 1.05], dtick=0.5)
    medians = instance_metrics.groupby([Columns.METHOD, Columns.NEED])["kendall_tau"].median()
    furthest = int(medians.abs().to_numpy().argmax())
    method, need = medians.index[furthest]
    text = (
        f"Does a method copy its input order? Tau 1 is a copy, 0 ignores it. Median furthest from 0: "
        f"{styles[method].label} on {need}, {number(float(medians.iloc[furthest]), 2)}. "
        "Box: middle half; whiskers: 5% and 95%."
    )
    return finish(figure, text, height=_height(len(needs), len(names)), legend=False)


def _panels(needs: Sequence[str]) -> tuple[go.Figure, list[dict[str, int]]]:
    columns = min(_COLUMNS, len(needs))
    count = -(-len(needs) // columns)
    figure = make_subplots(
        rows=count,
        cols=columns,
        shared_yaxes=True,
        shared_xaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.16 / count,
        subplot_titles=[plotly_text(need) for need in needs],
    )
    return figure, [{"row": place // columns + 1, "col": place % columns + 1} for place in range(len(needs))]


def _share_axes(figure: go.Figure, names: Sequence[str], styles: dict) -> None:
    """Give every panel the same categories, the first method on top."""
    labels = [plotly_text(styles[name].label) for name in names]
    figure.update_yaxes(categoryorder="array", categoryarray=labels, range=[len(labels) - 0.4, -0.7])


def _height(panels: int, methods: int) -> int:
    return 130 + -(-panels // _COLUMNS) * (70 + 40 * methods)
