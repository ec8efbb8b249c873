"""Figures of training: curves, the spread of the advantages over ranks, and the uncertainty weights.

All of them read one tidy table, the curves that the trainer returns, stacked over methods: `method`, `step`, `metric`,
`value`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.reporting.style import GRID, dashes, empty_figure, finish, label, looks, number, ordered, plotly_text

VALIDATION = "validation/ndcg_at_5"
REWARD, LOSS = "reward", "loss"
SPREAD = "advantage/std_at_rank_"
WEIGHTS = ("weight/low", "weight/median", "weight/high")

PANELS = {
    REWARD: "reward of a rollout (mean)",
    VALIDATION: "validation NDCG@5",
    "kl": "KL to the reference",
    "entropy": "entropy of the tokens",
    "answer/invalid_rate": "invalid identifiers per candidate",
    "gradient_norm": "norm of the gradient",
    LOSS: "loss, nats per token of an optimal list",
}
"""Curves drawn, in the order of the panels, and their titles."""

_COLUMNS = ["step", "metric", "value"]
_PER_ROW = 2


def stack_curves(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Stack the curves of several trainings into one table.

    Args:
        curves: By method, the table `step`, `metric`, `value` of its training.

    Returns:
        Columns `method`, `step`, `metric`, `value`.

    Raises:
        InputError: A table without one of the columns.
    """
    parts = []
    for method, table in curves.items():
        absent = [name for name in _COLUMNS if name not in table]
        if absent:
            raise InputError(f"training curves of '{method}': column {absent[0]} is missing; it has {list(table)}.")
        parts.append(table[_COLUMNS].assign(**{Columns.METHOD: method}))
    columns = [Columns.METHOD, *_COLUMNS]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def training_figure(curves: pd.DataFrame, *, methods: Sequence[str] = ()) -> go.Figure:
    """Draw the training curves, one panel per quantity and one line per method.

    Where a policy is trained for several needs, the validation panel has one line per need.

    Args:
        curves: Table of `stack_curves`.
        methods: Order of all methods, for their colours.
    """
    drawn = curves[curves["metric"].map(_panel).isin(PANELS)] if len(curves) else curves
    if len(drawn):
        # the loss of RL measures nothing: its advantages have mean 0
        drawn = drawn[(drawn["metric"] != LOSS) | ~drawn[Columns.METHOD].isin(_rewarded(drawn))]
    if drawn.empty:
        return empty_figure("No training curves: no policy was trained in this run.")
    drawn = drawn.assign(panel=drawn["metric"].map(_panel), need=drawn["metric"].map(_need))
    # the mean over needs says nothing more where there is only one
    several = drawn["need"].nunique() > 2
    drawn = drawn[(drawn["panel"] != VALIDATION) | ((drawn["need"] != "") == several)]
    panels = [name for name in PANELS if (drawn["panel"] == name).any()]
    names = ordered(drawn[Columns.METHOD], methods)
    styles = looks(names, methods)
    lines = {**dashes(need for need in drawn["need"] if need), "": "solid"}
    count = -(-len(panels) // _PER_ROW)
    figure = make_subplots(
        rows=count,
        cols=min(_PER_ROW, len(panels)),
        horizontal_spacing=0.1,
        vertical_spacing=0.28 / count,
        subplot_titles=[PANELS[name] for name in panels],
    )
    shown: set[str] = set()
    for key, part in drawn.groupby(["panel", Columns.METHOD, "need"], sort=False):
        panel, name, need = map(str, key)
        line = part.sort_values("step")
        look, place = styles[name], panels.index(panel)
        text = plotly_text(f"{look.label}, {need}" if need else look.label)
        figure.add_trace(
            go.Scatter(
                x=line["step"],
                y=line["value"],
                mode="lines+markers" if len(line) <= 25 else "lines",
                name=text,
                legendgroup=text,
                legendrank=1000 + names.index(name),
                showlegend=text not in shown,
                line={"color": look.colour, "dash": lines[need], "width": 2},
                marker={"symbol": look.symbol, "size": 6},
                hovertemplate=f"{text}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            ),
            row=place // _PER_ROW + 1,
            col=place % _PER_ROW + 1,
        )
        shown.add(text)
    figure.update_xaxes(rangemode="tozero")
    for place in range(max(0, len(panels) - _PER_ROW), len(panels)):
        figure.update_xaxes(title_text="optimiser step", row=place // _PER_ROW + 1, col=place % _PER_ROW + 1)
    return finish(figure, _training_title(drawn, names, styles), height=110 + 240 * count)


def _panel(metric: str) -> str:
    return VALIDATION if metric.startswith(f"{VALIDATION}/") else metric


def _need(metric: str) -> str:
    return metric.removeprefix(f"{VALIDATION}/") if metric.startswith(f"{VALIDATION}/") else ""


def _training_title(drawn: pd.DataFrame, names: Sequence[str], styles: Mapping) -> str:
    """Say where validation (else the reward) starts and ends."""
    for panel in (VALIDATION, REWARD, LOSS):
        parts = []
        for name in names:
            rows = drawn[(drawn["panel"] == panel) & (drawn[Columns.METHOD] == name)]
            for need in dict.fromkeys(rows["need"]):
                line = rows[rows["need"] == need]
                values = line.sort_values("step")["value"].to_numpy()
                who = f"{styles[name].label}, {need}" if need else styles[name].label
                parts.append(f"{who} {number(values[0])} to {number(values[-1])} by step {int(line['step'].max())}")
        if parts:
            return f"Training: {PANELS[panel]} from start to end. {'; '.join(parts)}."
    return "Training curves."


def _rewarded(curves: pd.DataFrame) -> set[str]:
    """Methods that learn from rewards."""
    return set(curves.loc[curves["metric"] == REWARD, Columns.METHOD])


def _nothing_of(what: str, curves: pd.DataFrame) -> go.Figure:
    """An empty figure that says why no training has what it would show."""
    if curves.empty:
        return empty_figure(f"No {what}: no policy was trained in this run.")
    names = list(dict.fromkeys(curves[Columns.METHOD]))
    who = ", ".join(map(label, names))
    if _rewarded(curves).isdisjoint(names):
        return empty_figure(f"No {what}: {who} learned from optimal lists, not from rewards.")
    return empty_figure(f"No {what}: the training by {who} has none.")


def _spread(curves: pd.DataFrame) -> pd.DataFrame:
    """Rows of the curves that hold the spread of a rank, with the column `rank` (1 is the first position)."""
    if curves.empty:
        return curves.assign(rank=0)
    rows = curves[curves["metric"].str.startswith(SPREAD)]
    return rows.assign(rank=rows["metric"].str.removeprefix(SPREAD).astype(int))


def advantage_spread_figure(curves: pd.DataFrame, *, methods: Sequence[str] = ()) -> go.Figure:
    """Draw the spread of the advantages at each rank, averaged over the training, one line per method.

    Args:
        curves: Table of `stack_curves`; the standard deviations under `advantage/std_at_rank_01`, `..._02`, ...
        methods: Order of all methods, for their colours.
    """
    spread = _spread(curves)
    if spread.empty:
        return _nothing_of("spread of advantages", curves)
    names = ordered(spread[Columns.METHOD], methods)
    styles = looks(names, methods)
    figure = go.Figure()
    facts = []
    for name in names:
        line = spread[spread[Columns.METHOD] == name].groupby("rank")["value"].mean()
        # a rank without any spread has no place on a logarithmic axis
        drawn = line[line > 0]
        figure.add_trace(
            go.Scatter(
                x=drawn.index,
                y=drawn.to_numpy(),
                mode="lines+markers",
                name=plotly_text(styles[name].label),
                line={"color": styles[name].colour, "width": 2},
                marker={"symbol": styles[name].symbol, "size": 7},
                hovertemplate=f"{plotly_text(styles[name].label)}<br>rank %{{x}}: %{{y:.3g}}<extra></extra>",
            )
        )
        if len(drawn) > 1:
            ratio = drawn.iloc[0] / drawn.iloc[-1]
            facts.append(
                f"{styles[name].label}, rank {drawn.index[0]} has {ratio:.3g} times that of rank {drawn.index[-1]}"
            )
    figure.update_xaxes(title_text="rank")
    figure.update_yaxes(title_text="standard deviation", type="log", dtick=1)
    text = "How much learning signal reaches each rank: spread of the advantages. "
    return finish(figure, text + "; ".join(facts) + "." if facts else text, height=420)


def advantage_spread_heatmap(curves: pd.DataFrame, *, method: str) -> go.Figure:
    """Draw the spread of the advantages of one method over steps and ranks, on a logarithmic colour scale.

    Args:
        curves: As for `advantage_spread_figure`.
        method: The method drawn.
    """
    spread = _spread(curves)
    rows = spread[spread[Columns.METHOD] == method] if len(spread) else spread
    if rows.empty:
        return empty_figure(f"No spread of the advantages of {label(method)} to show.")
    grid = rows.pivot_table(index="rank", columns="step", values="value", aggfunc="mean").sort_index()
    values = grid.to_numpy(dtype=np.float64)
    shades = np.log10(np.where(values > 0, values, np.nan))
    figure = go.Figure(
        go.Heatmap(
            x=grid.columns,
            y=grid.index,
            z=shades,
            customdata=values,
            colorscale="Viridis",
            hoverongaps=False,
            hovertemplate="step %{x}, rank %{y}<br>spread %{customdata:.3g}<extra></extra>",
            colorbar={"title": {"text": "spread"}, **_decades(shades)},
        )
    )
    figure.update_xaxes(title_text="optimiser step")
    figure.update_yaxes(title_text="rank", autorange="reversed")
    text = f"{label(method)}: spread of the advantages per rank, step by step. Bright: signal; blank: none at all."
    return finish(figure, text, height=420, legend=False)


def _decades(shades: np.ndarray) -> dict[str, list]:
    """Colour-bar ticks at powers of ten, or at the two ends where the range holds fewer than two of them."""
    finite = shades[np.isfinite(shades)]
    if not finite.size:
        return {}
    ticks = np.arange(np.ceil(finite.min()), np.floor(finite.max()) + 1)
    if len(ticks) < 2:
        ticks = np.unique([finite.min(), finite.max()])
    return {"tickvals": ticks.tolist(), "ticktext": [f"{10**tick:.3g}" for tick in ticks]}


def uncertainty_weights_figure(curves: pd.DataFrame, *, methods: Sequence[str] = ()) -> go.Figure:
    """Draw the middle 80% of the rollouts' uncertainty weights over the training, one band per method.

    Args:
        curves: Table of `stack_curves`; the 10%, 50% and 90% quantiles under `weight/low`, `.../median`, `.../high`.
        methods: Order of all methods, for their colours.
    """
    rows = curves[curves["metric"].isin(WEIGHTS)] if len(curves) else curves
    if rows.empty:
        return _nothing_of("uncertainty weights", curves)
    names = ordered(rows[Columns.METHOD], methods)
    styles = looks(names, methods)
    figure = go.Figure()
    facts = []
    for name in names:
        bands = rows[rows[Columns.METHOD] == name].pivot_table(index="step", columns="metric", values="value")
        look = styles[name]
        for metric in WEIGHTS:
            median = metric == "weight/median"
            figure.add_trace(
                go.Scatter(
                    x=bands.index,
                    y=bands[metric],
                    mode="lines",
                    name=plotly_text(look.label),
                    legendgroup=plotly_text(name),
                    showlegend=median,
                    line={"color": look.colour, "width": 2.5 if median else 1, "dash": "solid" if median else "dot"},
                    hovertemplate=f"{plotly_text(look.label)}, {metric.removeprefix('weight/')}"
                    "<br>step %{x}: %{y:.3f}<extra></extra>",
                )
            )
        low, high = bands["weight/low"].mean(), bands["weight/high"].mean()
        equal = np.isclose(low, 1.0) and np.isclose(high, 1.0)
        facts.append(f"{look.label}: {'all 1' if equal else f'{number(low, 2)} to {number(high, 2)}'}")
    figure.add_hline(y=1, line={"color": GRID, "width": 2, "dash": "dash"})
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    figure.update_xaxes(title_text="optimiser step", rangemode="tozero")
    figure.update_yaxes(
        title_text="weight (1: average)", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    text = f"How far the critic's uncertainty moves the weight of a rollout: the middle 80%. {'; '.join(facts)}."
    return finish(figure, text, height=400)
