"""Figures of the probe: a policy asked for other needs, switching between needs, and shown other input orders."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.evaluation.asking import ARRANGEMENT, IDEAL, RANDOM, REVERSED
from flexrec.evaluation.switching import OTHER_NEED
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import ALL_NEEDS
from flexrec.reporting.style import (
    GREY,
    GRID,
    Look,
    empty_figure,
    finish,
    interval,
    looks,
    metric_label,
    number,
    ordered,
    plotly_text,
)

_ROW = 0.8
"""Share of a row's height that its markers may use."""


def transfer_figure(
    summary: pd.DataFrame, *, method: str, trained_for: Sequence[str], metric: str = "ndcg_at_5"
) -> go.Figure:
    """Draw the mean and interval of every model for every need asked for, those trained for on top.

    Args:
        summary: Table of `flexrec.evaluation.summarise`.
        method: The trained policy.
        trained_for: The needs that it was trained for.
        metric: The metric drawn.
    """
    rows = summary[summary["metric"] == metric].drop_duplicates([Columns.METHOD, Columns.NEED])
    if rows.empty:
        return empty_figure("No transfer to show: nothing was asked.")
    asked = list(dict.fromkeys(rows[Columns.NEED]))
    needs = [*(need for need in asked if need in trained_for), *(need for need in asked if need not in trained_for)]
    names = ordered(rows[Columns.METHOD])
    styles = looks(names)
    figure = go.Figure()
    for place, name in enumerate(names):
        own = rows[rows[Columns.METHOD] == name]
        bounds = _bounds(own[Columns.NEED], own[["mean", "low", "high"]])
        figure.add_trace(_points(styles[name], bounds, needs, _offset(place, len(names))))
    _rows_of(figure, [f"{need} (trained)" if need in trained_for else need for need in needs])
    figure.update_xaxes(title_text=metric_label(metric))
    changes = summary[
        (summary["metric"] == metric) & (summary[Columns.METHOD] == method) & (summary["reference"] == "untrained")
    ].set_index(Columns.NEED)["difference"]
    told = "; ".join(f"{need} {changes[need]:+.3f}" for need in needs if need in changes.index)
    text = (
        f"Trained for {', '.join(trained_for)}, asked for every need: change in {metric_label(metric)} from untrained: "
        f"{told}. Bars: bootstrap intervals over users."
    )
    return finish(figure, text, height=150 + 42 * len(names) * len(needs))


def switching_figure(summary: pd.DataFrame) -> go.Figure:
    """Draw Kendall's tau between a model's rankings for two needs, beside that of the two ideal lists.

    Args:
        summary: Table of `switching_summary`.
    """
    rows = summary[(summary[Columns.NEED] != ALL_NEEDS) & summary["tau"].notna()]
    if rows.empty:
        return empty_figure("No switching to show: fewer than two needs were asked for.")
    labels = [f"{need} / {other}" for need, other in zip(rows[Columns.NEED], rows[OTHER_NEED], strict=True)]
    rows = rows.assign(pair=labels)
    pairs = list(dict.fromkeys(labels))
    names = ordered(rows[Columns.METHOD])
    styles = looks(names)
    count = len(names) + 1
    ideal = rows.drop_duplicates("pair")
    bounds = _bounds(ideal["pair"], ideal[["ideal_tau"] * 3])
    figure = go.Figure(_points(Look("ideal lists", GREY, "line-ns-open"), bounds, pairs, _offset(0, count)))
    for place, name in enumerate(names, start=1):
        own = rows[rows[Columns.METHOD] == name]
        bounds = _bounds(own["pair"], own[["tau", "tau_low", "tau_high"]])
        figure.add_trace(_points(styles[name], bounds, pairs, _offset(place, count)))
    _rows_of(figure, pairs)
    figure.add_vline(x=1, line={"color": GRID, "width": 2, "dash": "dash"})
    figure.update_xaxes(title_text="tau between the rankings for two needs", range=[-1.05, 1.05], dtick=0.5)
    last = rows[rows[Columns.METHOD] == names[-1]]
    told = "; ".join(
        f"{pair} {number(tau, 2)} (ideal {number(ideal_tau, 2)})"
        for pair, tau, ideal_tau in zip(last["pair"], last["tau"], last["ideal_tau"], strict=True)
    )
    text = (
        f"Does one model switch with the instruction alone? {styles[names[-1]].label}: {told}. "
        "At 1 it is deaf to the instruction."
    )
    return finish(figure, text, height=170 + 42 * count * len(pairs))


def input_order_figure(summary: pd.DataFrame) -> go.Figure:
    """Draw NDCG@5 with the candidates shown in reversed, random and ideal order, one panel per need.

    Args:
        summary: Table of `input_order_summary`.
    """
    if summary.empty:
        return empty_figure("No input orders to show: nothing was asked.")
    needs = list(dict.fromkeys(summary[Columns.NEED]))
    names = ordered(summary[Columns.METHOD])
    styles = looks(names)
    order = [REVERSED, RANDOM, IDEAL]
    figure = make_subplots(
        rows=1,
        cols=len(needs),
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=[plotly_text(need) for need in needs],
    )
    for column, need in enumerate(needs, start=1):
        for name in names:
            own = summary[(summary[Columns.NEED] == need) & (summary[Columns.METHOD] == name)]
            own = own.set_index(ARRANGEMENT).reindex(order)
            look = styles[name]
            figure.add_trace(
                go.Scatter(
                    x=order,
                    y=own["mean"],
                    error_y={
                        "array": own["high"] - own["mean"],
                        "arrayminus": own["mean"] - own["low"],
                        "thickness": 2,
                        "width": 5,
                    },
                    mode="lines+markers",
                    name=plotly_text(look.label),
                    legendgroup=plotly_text(name),
                    showlegend=column == 1,
                    line={"color": look.colour, "width": 2},
                    marker={"symbol": look.symbol, "size": 9},
                    customdata=own[["tau"]],
                    hovertemplate=f"{plotly_text(look.label)}<br>%{{x}} order: %{{y:.3f}}"
                    "<br>tau with it %{customdata[0]:.2f}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    figure.update_yaxes(title_text="NDCG@5", row=1, col=1)
    figure.update_xaxes(title_text="candidates shown in ... order")
    last = summary[(summary[Columns.METHOD] == names[-1]) & (summary[ARRANGEMENT] != RANDOM)]
    told = "; ".join(
        f"{need}, {arrangement} {change:+.3f} [{low:+.3f}, {high:+.3f}]"
        for need, arrangement, change, low, high in zip(
            *(last[name] for name in (Columns.NEED, ARRANGEMENT, "change", "change_low", "change_high")), strict=True
        )
    )
    text = f"Does the input order matter? {styles[names[-1]].label}, change in NDCG@5 from random orders: {told}."
    return finish(figure, text, height=430)


def _bounds(labels: pd.Series, values: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Mean, low and high by the label of the row that they belong to."""
    found = values.to_numpy(dtype=np.float64)
    return {str(name): (one[0], one[1], one[2]) for name, one in zip(labels, found.tolist(), strict=True)}


def _points(
    look: Look, bounds: Mapping[str, tuple[float, float, float]], rows: Sequence[str], offset: float
) -> go.Scatter:
    """One marker with its interval in every row that there is a value for."""
    shown = [name for name in rows if name in bounds]
    means, lows, highs = ([bounds[name][part] for name in shown] for part in range(3))
    return go.Scatter(
        x=means,
        y=[rows.index(name) + offset for name in shown],
        error_x={
            "array": [high - mean for mean, high in zip(means, highs, strict=True)],
            "arrayminus": [mean - low for mean, low in zip(means, lows, strict=True)],
            "thickness": 2,
            "width": 5,
        },
        mode="markers+text",
        text=[number(mean) for mean in means],
        textposition="top center",
        textfont={"size": 11},
        cliponaxis=False,
        name=plotly_text(look.label),
        customdata=[f"{plotly_text(name)}: {interval(*bounds[name])}" for name in shown],
        marker={"color": look.colour, "symbol": look.symbol, "size": 10, "line": {"width": 2, "color": look.colour}},
        hovertemplate=f"{plotly_text(look.label)}<br>%{{customdata}}<extra></extra>",
    )


def _offset(place: int, count: int) -> float:
    """Where one of several markers stands in its row, from top to bottom."""
    return _ROW * ((place + 0.5) / count - 0.5)


def _rows_of(figure: go.Figure, labels: Sequence[str]) -> None:
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[plotly_text(label) for label in labels],
        range=[len(labels) - 0.45, -0.6],
    )
