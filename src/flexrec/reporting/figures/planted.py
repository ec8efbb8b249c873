"""Figures of the planted-truth study: learning curves, the effect of the weights, transfer, spreads over ranks.

They read the tables of `flexrec.planted.study` and `flexrec.planted.results.summarise_planted`.
"""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.reporting.style import GRID, empty_figure, finish, metric_label, number, plotly_text

# by reward, darkened from Okabe and Ito's to a contrast of 3:1 on white and on near-black alike
_COLOURS = ("#D55E00", "#0072B2", "#00916A", "#B8608F", "#8A6D3B", "#7A6BD1", "#808080")
_DASHES = {"pooled": "solid", "per rank": "dot"}
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "hexagon")


def planted_curves_figure(curves: pd.DataFrame, *, experiment: str, metric: str = "ndcg_at_5") -> go.Figure:
    """Draw learning curves, the mean over seeds against sampled tokens: one panel per choice of the learning rate.

    Args:
        curves: The `planted_curves` table.
        experiment: `rewards`, `tail` or `reasoning`.
        metric: Measured along the training.
    """
    rows = curves[(curves["experiment"] == experiment) & (curves["metric"] == metric)]
    if rows.empty:
        return empty_figure(f"No learning curves of the experiment '{experiment}'.")
    choices = list(dict.fromkeys(rows["choice"]))
    names = list(dict.fromkeys(rows["variant"]))
    styles = _line_styles(names)
    figure = make_subplots(
        rows=1,
        cols=len(choices),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"each at its {choice}" if "own" in choice else f"all at the {choice}" for choice in choices],
    )
    ends: dict[str, dict[str, float]] = {}
    for place, choice in enumerate(choices, start=1):
        for name in names:
            part = rows[(rows["choice"] == choice) & (rows["variant"] == name)]
            if part.empty:
                continue
            line = part.groupby("tokens")["value"].mean()
            rate = float(part["rate"].iloc[0])
            figure.add_trace(
                _line(line, name, styles[name], place == 1, f", rate {rate:g}<br>%{{x:,}} tokens: %{{y:.4f}}"),
                row=1,
                col=place,
            )
            ends.setdefault(choice, {})[name] = float(line.mean())
    figure.update_xaxes(title_text="tokens sampled", rangemode="tozero")
    figure.update_yaxes(title_text=metric_label(metric), col=1)
    seeds = rows["seed"].nunique()
    winners = "; ".join(f"{choice}: {max(means, key=lambda name: means[name])}" for choice, means in ends.items())
    text = f"Held-out {metric_label(metric)} against tokens, mean of {seeds} seeds. Highest on average, {winners}."
    return finish(figure, text, height=520)


def planted_showing_figure(curves: pd.DataFrame) -> go.Figure:
    """Draw rewarded and shown lists by steps, the mean over seeds: a panel per critic and number of requests.

    Args:
        curves: The `planted_curves` table.
    """
    rows = curves[(curves["experiment"] == "showing") & (curves["metric"] == "ndcg_at_5")]
    if rows.empty:
        return empty_figure("No lists were shown in the place of rewards.")
    settings, names = list(dict.fromkeys(rows["setting"])), list(dict.fromkeys(rows["variant"]))
    columns = min(4, len(settings))
    lines = -(-len(settings) // columns)
    # a range of its own each: the noise decides what can be reached
    figure = make_subplots(
        rows=lines,
        cols=columns,
        horizontal_spacing=0.05,
        vertical_spacing=0.16,
        subplot_titles=["<br>".join(map(plotly_text, setting.rsplit(", ", 1))) for setting in settings],
    )
    styles, highest = _line_styles(names), []
    for place, setting in enumerate(settings):
        panel = {"row": place // columns + 1, "col": place % columns + 1}
        means = rows[rows["setting"] == setting].groupby(["variant", "step"], sort=False)["value"].mean()
        for name in names:
            line = means[name].sort_index()
            figure.add_trace(
                _line(line, name, styles[name], place == 0, "<br>step %{x}: %{y:.4f}"),
                **panel,
            )
        highest.append(str(means.groupby("variant", sort=False).last().idxmax()))
    figure.update_xaxes(title_text="step", row=lines)
    figure.update_yaxes(title_text=metric_label("ndcg_at_5"), col=1)
    counts = "; ".join(f"{name} in {highest.count(name)}" for name in dict.fromkeys(highest))
    text = (
        f"Lists rewarded and shown: held-out {metric_label('ndcg_at_5')}, mean of {rows['seed'].nunique()} seeds, each "
        f"at its own best rate. Highest at the end, of {len(settings)} panels: {counts}."
    )
    drawn = finish(figure, text, height=180 + 260 * lines)
    # panels' titles have two lines, and four panels stand in a row
    drawn.update_annotations(font_size=12)
    return drawn.update_layout(margin_t=drawn.layout.margin.t + 20)


def _line(values: pd.Series, name: str, style: tuple[str, str], in_legend: bool, hover: str) -> go.Scatter:
    """The values over their index, in the name's style, with one entry in the legend for all panels."""
    colour, dash = style
    return go.Scatter(
        x=values.index,
        y=values.to_numpy(),
        mode="lines",
        name=plotly_text(name),
        legendgroup=name,
        showlegend=in_legend,
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate=f"{plotly_text(name)}{hover}<extra></extra>",
    )


def _line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour per reward and a dash per normalisation, from names such as `swap causal, pooled`."""
    rewards = list(dict.fromkeys(name.partition(", ")[0] for name in names))
    styles = {}
    for name in names:
        reward, _, rest = name.partition(", ")
        dash = "dash" if "items only" in rest else _DASHES.get(rest, "solid")
        styles[name] = (_COLOURS[rewards.index(reward) % len(_COLOURS)], dash)
    return styles


def planted_weights_figure(results: pd.DataFrame) -> go.Figure:
    """Draw what weighting by uncertainty changes: the paired difference in area under the curve, per critic.

    Args:
        results: The `planted_results` table.
    """
    rows = results[(results["experiment"] == "uncertainty") & (results["measure"] == "area ndcg_at_5")]
    rows = rows.dropna(subset=["difference"])
    if rows.empty:
        return empty_figure("No weighting by uncertainty was compared.")
    settings = list(dict.fromkeys(rows["setting"]))
    figure = go.Figure()
    for place, scope in enumerate(dict.fromkeys(rows["variant"])):
        own = rows[rows["variant"] == scope].set_index("setting").reindex(settings)
        figure.add_trace(
            go.Scatter(
                x=own["difference"],
                y=[plotly_text(setting) for setting in settings],
                error_x={
                    "array": own["difference_high"] - own["difference"],
                    "arrayminus": own["difference"] - own["difference_low"],
                    "thickness": 2,
                    "width": 4,
                },
                mode="markers",
                name=f"weights of mean 1 over the {plotly_text(scope)}",
                marker={"color": _COLOURS[place], "symbol": _SYMBOLS[place], "size": 9},
                hovertemplate=f"%{{y}}, {plotly_text(scope)}: %{{x:.4f}}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": GRID, "width": 2})
    figure.update_layout(scattermode="group")
    figure.update_xaxes(title_text="difference in mean NDCG@5 over the training, to equal weights")
    figure.update_yaxes(categoryorder="array", categoryarray=[plotly_text(setting) for setting in settings[::-1]])
    by_size = rows.sort_values("difference", kind="stable")
    worst, best = by_size.iloc[0], by_size.iloc[-1]
    text = (
        f"What weights by uncertainty change. Most: {best['difference']:+.4f} ({best['variant']}; {best['setting']}); "
        f"least: {worst['difference']:+.4f} ({worst['variant']}; {worst['setting']}). Bars: intervals over "
        f"{int(rows['seeds'].max())} seeds."
    )
    return finish(figure, text, height=160 + 34 * len(settings))


def planted_transfer_figure(results: pd.DataFrame) -> go.Figure:
    """Draw the transfer matrix: final NDCG@5, trained for a row and asked for a column.

    Args:
        results: The `planted_results` table.
    """
    rows = results[(results["experiment"] == "transfer") & (results["measure"] == "final ndcg_at_5")]
    if rows.empty:
        return empty_figure("No transfer between needs was measured.")
    grid = rows.pivot_table(index="variant", columns="need", values="mean", sort=False)
    values = grid.to_numpy()
    figure = go.Figure(
        go.Heatmap(
            x=[plotly_text(name) for name in grid.columns],
            y=[plotly_text(name) for name in grid.index],
            z=values,
            text=[[number(value) for value in row] for row in values],
            texttemplate="%{text}",
            colorscale="Viridis",
            hovertemplate="trained for %{y}, asked for %{x}: %{z:.3f}<extra></extra>",
            colorbar={"title": {"text": "NDCG@5"}},
        )
    )
    figure.update_xaxes(title_text="asked for")
    figure.update_yaxes(title_text="trained for", autorange="reversed")
    alone = rows[rows["variant"].isin(rows["need"])].drop_duplicates(["variant", "need"])
    same = alone["variant"] == alone["need"]
    own, others = alone[same]["mean"].mean(), alone[~same]["mean"].mean()
    text = (
        f"Trained for one need, asked for another: NDCG@5 {number(float(own))} on the need trained for, "
        f"{number(float(others))} on others (means of {int(rows['seeds'].max())} seeds)."
    )
    return finish(figure, text, height=140 + 60 * len(grid), legend=False)


def planted_spread_figure(results: pd.DataFrame, *, experiment: str = "tail") -> go.Figure:
    """Draw the spread of rewards and of advantages at each rank, over the rollouts of a group.

    Args:
        results: The `planted_results` table.
        experiment: Which training they are of.
    """
    own = results[results["experiment"] == experiment]
    own = own[own["choice"] == own["choice"].iloc[0]] if len(own) else own
    rows = own[own["measure"].str.contains("/std_at_rank_")] if len(own) else own
    if rows.empty:
        return empty_figure("No spread of rewards to show.")
    kinds = {"reward": "of the rewards", "advantage": "of the advantages"}
    names = list(dict.fromkeys(rows["variant"]))
    styles = _line_styles(names)
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.08, subplot_titles=list(kinds.values()))
    facts = []
    for place, kind in enumerate(kinds, start=1):
        for name in names:
            part = rows[(rows["variant"] == name) & rows["measure"].str.startswith(f"{kind}/")]
            line = part.assign(rank=part["measure"].str[-2:].astype(int)).sort_values("rank")
            line = line[line["mean"] > 0]
            if line.empty:
                continue
            ranks = line.set_index("rank")["mean"]
            figure.add_trace(
                _line(ranks, name, styles[name], kind == "advantage", "<br>rank %{x}: %{y:.3g}"),
                row=1,
                col=place,
            )
            if kind == "advantage":
                facts.append(f"{name} {line['mean'].iloc[0] / line['mean'].iloc[-1]:.3g}")
    figure.update_xaxes(title_text="rank")
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(title_text="standard deviation in a group", col=1)
    text = f"Signal at each rank. Advantages, first rank over the last with any: {'; '.join(facts)}."
    return finish(figure, text, height=480)
