"""Is the critic right on average, and does it know when it is not?"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.reporting.style import GREY, dashes, empty_figure, finish, label, number, plotly_text

BINS = 10
_COLOURS = ("#0072B2", "#D55E00", "#00916A", "#B8608F")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def critic_calibration_figure(predictions: pd.DataFrame, reliability: pd.DataFrame) -> go.Figure:
    """Draw predicted against true gain, and predicted deviation against the error that was made.

    Args:
        predictions: Held-out examples: `mean` (predicted gain), `gain` (true). Drawn as means of ten equally large
            groups sorted by prediction, with the standard deviation of the true gains.
        reliability: Groups of held-out examples: `predicted_std`, `rmse`.

    Both tables may hold several critics, told apart by a column `variant`.
    """
    if predictions.empty or reliability.empty:
        return empty_figure("No calibration of the critic to show: it has no held-out examples in this run.")
    predictions, reliability = (
        table if "variant" in table else table.assign(variant="critic") for table in (predictions, reliability)
    )
    variants = list(dict.fromkeys(predictions["variant"]))
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14, subplot_titles=["gain", "uncertainty"])
    lines = dashes(variants)
    errors = []
    ends: list[list[float]] = [[], []]
    for place, variant in enumerate(variants):
        groups = _groups(predictions[predictions["variant"] == variant])
        spread = reliability[reliability["variant"] == variant].sort_values("predicted_std")
        style = {
            "name": plotly_text(label(variant)),
            "legendgroup": plotly_text(variant),
            "line": {"color": _COLOURS[place % len(_COLOURS)], "dash": lines[variant], "width": 2},
            "marker": {"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 8},
            "mode": "lines+markers",
        }
        bars = {"array": groups["deviation"], "thickness": 1, "width": 3}
        hover = "<br>predicted %{x:.3g}<br>found %{y:.3g}<extra></extra>"
        template = plotly_text(label(variant)) + hover
        figure.add_trace(
            go.Scatter(x=groups["predicted"], y=groups["true"], error_y=bars, hovertemplate=template, **style),
            row=1,
            col=1,
        )
        figure.add_trace(
            go.Scatter(x=spread["predicted_std"], y=spread["rmse"], showlegend=False, hovertemplate=template, **style),
            row=1,
            col=2,
        )
        gap = float(np.abs(groups["true"] - groups["predicted"]).mean())
        ratio = float((spread["rmse"] / spread["predicted_std"]).median())
        errors.append(
            f"{label(variant)}: group means {number(gap, 2)} off, errors {number(ratio, 2)} times as large as predicted"
        )
        ends[0] += [*groups["predicted"], *groups["true"]]
        ends[1] += [*spread["predicted_std"], *spread["rmse"]]
    for column, values in enumerate(ends, start=1):
        line = [min(values), max(values)]
        diagonal = {"color": GREY, "dash": "dot", "width": 1.5}
        figure.add_trace(
            go.Scatter(x=line, y=line, mode="lines", line=diagonal, showlegend=False, hoverinfo="skip"),
            row=1,
            col=column,
        )
    figure.update_xaxes(title_text="predicted gain (mean of a tenth)", row=1, col=1)
    figure.update_yaxes(title_text="true gain (mean, ± deviation)", row=1, col=1)
    figure.update_xaxes(title_text="predicted standard deviation", row=1, col=2)
    figure.update_yaxes(title_text="root mean squared error", row=1, col=2)
    text = f"Critic on held-out observed labels; a calibrated one lies on the diagonal. {'; '.join(errors)}."
    return finish(figure, text, height=470)


def _groups(examples: pd.DataFrame) -> pd.DataFrame:
    """Means over equally large groups of examples with similar predictions: `predicted`, `true`, `deviation`."""
    ranked = examples.sort_values("mean", kind="stable")
    group = np.arange(len(ranked)) * min(BINS, len(ranked)) // len(ranked)
    return pd.DataFrame(
        {
            "predicted": ranked.groupby(group)["mean"].mean(),
            "true": ranked.groupby(group)["gain"].mean(),
            "deviation": ranked.groupby(group)["gain"].std(ddof=0),
        }
    )
