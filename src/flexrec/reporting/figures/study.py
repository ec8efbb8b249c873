"""Figures of a study: every method with its interval, and what training cost to get there."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.ranking.columns import Columns
from flexrec.reporting.style import (
    GREY,
    STAGES,
    empty_figure,
    finish,
    label,
    looks,
    metric_label,
    number,
    ordered,
    plotly_text,
)
from flexrec.study.rows import counted, of_most_seeds, row_label

_PANEL = ["dataset", "density", "model", Columns.NEED, "sample"]
_TASK = ["dataset", "density", "model", "trained_on"]
_COLUMNS = 2
_COSTS = ("cost/prompt_tokens", "cost/answer_tokens")
_UPDATES = "cost/updates"
_VALIDATION = "validation/ndcg_at_5"


def forest_figure(means: pd.DataFrame, *, metric: str = "ndcg_at_5", methods: Sequence[str] = ()) -> go.Figure:
    """Draw one metric of every row of a study with its interval over seeds and users, one panel per table.

    Args:
        means: Table of `flexrec.study.statistics.row_means`.
        metric: The metric drawn.
        methods: Order of the trained methods.
    """
    rows = means[means["metric"] == metric]
    if rows.empty:
        return empty_figure(f"No {metric_label(metric)} to show: no run of this study was evaluated.")
    panels = [(key, part) for key, part in rows.groupby(_PANEL, sort=False)]
    styles = looks(rows[Columns.METHOD], methods)
    names = _row_names(rows, methods)
    columns = min(_COLUMNS, len(panels))
    count = -(-len(panels) // columns)
    figure = make_subplots(
        rows=count,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.2 / count,
        subplot_titles=[plotly_text(_panel_name(key, panels)) for key, _ in panels],
    )
    for place, (_, part) in enumerate(panels):
        for _, row in part.iterrows():
            baseline = row["kind"] == "baseline"
            look = styles[row[Columns.METHOD]]
            mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
            text = plotly_text(_row_name(row))
            seeds = counted(int(row["seeds"]), "seed")
            figure.add_trace(
                go.Scatter(
                    x=[mean],
                    y=[text],
                    error_x={"array": [high - mean], "arrayminus": [mean - low], "thickness": 2, "width": 5},
                    mode="markers",
                    marker={"color": GREY if baseline else look.colour, "size": 9,
                            "symbol": "circle-open" if baseline else look.symbol},
                    hovertemplate=f"{text}<br>%{{x:.3f}} [{number(low)}, {number(high)}]<br>{seeds}<extra></extra>",
                ),
                row=place // columns + 1,
                col=place % columns + 1,
            )  # fmt: skip
    labels = [plotly_text(name) for name in names]
    figure.update_yaxes(categoryorder="array", categoryarray=labels, range=[len(labels) - 0.4, -0.7])
    figure.update_xaxes(title_text=metric_label(metric))
    best = [of_most_seeds(part).sort_values("mean", ascending=False, kind="stable").iloc[0] for _, part in panels]
    winners = "; ".join(
        f"on {row[Columns.NEED]} {_row_name(row)} with {number(float(row['mean']))}" for row in best[:4]
    )
    text = f"{metric_label(metric)} over seeds and users. Highest mean: {winners}. Open circles need no LLM."
    return finish(figure, text, height=140 + count * (80 + 30 * len(labels)), legend=False)


def _row_name(row: pd.Series) -> str:
    return row_label(row[Columns.METHOD], row["kind"], row["trained_on"], row[Columns.NEED])


def _row_names(rows: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """The names of the rows, top to bottom: without an LLM, before training, trained."""
    kinds = {name: number for number, name in enumerate(("baseline", "other", *STAGES, "trained"))}
    order = {name: place for place, name in enumerate(ordered(rows[Columns.METHOD], methods))}
    keyed = {
        _row_name(row): (kinds[row["kind"]], order[row[Columns.METHOD]], row["trained_on"])
        for _, row in rows.iterrows()
    }
    return sorted(keyed, key=lambda name: keyed[name])


def _panel_name(key: Sequence[object], panels: Sequence[tuple[Sequence[object], object]]) -> str:
    """The need, with what else tells the panels apart."""
    *task, sample = key
    return _task_name(task, panels) + (", probe" if sample == "probe" else "")


# --- Training ---------------------------------------------------------------------------------------------------------


def learning_figure(curves: pd.DataFrame, *, by: str = "steps", methods: Sequence[str] = ()) -> go.Figure:
    """Draw validation NDCG@5 while training, the mean over seeds and each seed thin, one panel per task.

    Args:
        curves: Table `study_curves`.
        by: `steps`, or `tokens` for those of the prompts and answers that a training had read and written by then.
        methods: Order of the trained methods.
    """
    what = {"steps": "optimiser step", "tokens": "tokens of prompts and answers"}[by]
    points = _points(curves, by) if len(curves) else pd.DataFrame()
    if points.empty:
        return empty_figure(f"No learning curves by {by}: no training of this study recorded them.")
    panels = [(key, part) for key, part in points.groupby(_TASK, sort=False)]
    styles = looks(points[Columns.METHOD], methods)
    columns = min(_COLUMNS, len(panels))
    count = -(-len(panels) // columns)
    figure = make_subplots(
        rows=count,
        cols=columns,
        horizontal_spacing=0.1,
        vertical_spacing=0.28 / count,
        subplot_titles=[plotly_text(_task_name(key, panels)) for key, _ in panels],
    )
    shown: set[str] = set()
    ends: list[list[tuple[float, str]]] = [[] for _ in panels]
    for place, (_, part) in enumerate(panels):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for name in ordered(part[Columns.METHOD], methods):
            own, look = part[part[Columns.METHOD] == name], styles[name]
            text = plotly_text(look.label)
            seeds = list(dict.fromkeys(own["seed"]))
            for seed in seeds if len(seeds) > 1 else []:
                line = own[own["seed"] == seed].sort_values("x")
                figure.add_trace(
                    go.Scatter(
                        x=line["x"], y=line["value"], mode="lines", showlegend=False, legendgroup=text, opacity=0.35,
                        line={"color": look.colour, "width": 1},
                        hovertemplate=f"{text}, seed {seed}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
                    ),
                    **where,
                )  # fmt: skip
            mean = own.groupby("step").agg(x=("x", "mean"), value=("value", "mean")).sort_index()
            figure.add_trace(
                go.Scatter(
                    x=mean["x"], y=mean["value"], mode="lines+markers", name=text, legendgroup=text,
                    showlegend=name not in shown, line={"color": look.colour, "width": 2.5},
                    marker={"symbol": look.symbol, "size": 7},
                    hovertemplate=f"{text}, mean of {len(seeds)}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
                ),
                **where,
            )  # fmt: skip
            shown.add(name)
            end = float(mean["value"].iloc[-1])
            ends[place].append((end, f"{look.label} {number(end)}"))
    figure.update_xaxes(title_text=what, rangemode="tozero")
    figure.update_yaxes(title_text="validation NDCG@5")
    tasks = [_task_name(key, panels) for key, _ in panels]
    # tasks are not compared with each other: of several, the best of each
    if len(panels) == 1:
        best = "; ".join(text for _, text in sorted(ends[0], reverse=True)[:4])
    else:
        best = "; ".join(f"on {task} {max(own)[1]}" for task, own in zip(tasks[:4], ends, strict=False))
    text = (
        f"Learning by {by} after the warm-up on {', '.join(tasks[:4])}. Thick: mean over seeds; thin: each seed. "
        f"At the end: {best}."
    )
    return finish(figure, text, height=120 + 330 * count)


def _points(curves: pd.DataFrame, by: str) -> pd.DataFrame:
    """Validation points with their place `x` on the horizontal axis; trainings without it are left out.

    0 is the end of the warm-up: what a method with an adapter of its own learns again of it lies before, and in the
    figure by tokens is not shown, for it is not counted.
    """
    keys = [*_TASK, Columns.METHOD, "seed"]
    own = curves[curves["metric"] == _UPDATES].groupby(keys)["value"].max()
    last = curves.groupby(keys)["step"].max()
    points = curves[curves["metric"] == _VALIDATION]
    points = points.join((last - own).fillna(0.0).rename("before"), on=keys)
    points = points.assign(x=points["step"] - points["before"])
    if by == "steps":
        return points
    points = points[points["x"] >= 0]
    counted = dict(tuple(curves[curves["metric"].isin(_COSTS)].groupby(keys)))
    parts = []
    for key, part in points.groupby(keys, sort=False):
        if key not in counted:
            continue
        total = counted[key].groupby("step")["value"].sum()
        # the cost of the last step that was counted by then; nothing before the first
        places = np.searchsorted(total.index.to_numpy(), part["step"].to_numpy(), side="right")
        parts.append(part.assign(x=np.concatenate([[0.0], total.to_numpy()])[places]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _task_name(key: Sequence[object], panels: Sequence[tuple[Sequence[object], object]]) -> str:
    dataset, density, model, need = key
    parts = [str(need)]
    for place, text in ((0, dataset), (1, f"density {density:g}"), (2, model)):
        if len({other[place] for other, _ in panels}) > 1:
            parts.append(str(text))
    return ", ".join(parts)


def mean_curves(curves: pd.DataFrame, prefixes: Sequence[str]) -> pd.DataFrame:
    """The curves of each method, averaged over seeds, as the figures of single trainings read them.

    Args:
        curves: Table `study_curves`.
        prefixes: Beginnings of the metrics to keep.

    Returns:
        `method`, `step`, `metric`, `value`; where a method was trained for several tasks, its name says which one.
    """
    kept = curves[curves["metric"].str.startswith(tuple(prefixes))] if len(curves) else curves
    if kept.empty:
        return pd.DataFrame(columns=[Columns.METHOD, "step", "metric", "value"])
    tasks = list(dict.fromkeys(kept[_TASK].itertuples(index=False, name=None)))
    panels = [(task, None) for task in tasks]
    names = {
        (task, method): method if len(tasks) == 1 else f"{label(method)}, {_task_name(task, panels)}"
        for task in tasks
        for method in dict.fromkeys(kept[Columns.METHOD])
    }
    own = [names[tuple(row[:-1]), row[-1]] for row in kept[[*_TASK, Columns.METHOD]].itertuples(index=False, name=None)]
    averaged = kept.assign(**{Columns.METHOD: own}).groupby([Columns.METHOD, "metric", "step"], sort=False)["value"]
    return averaged.mean().reset_index()[[Columns.METHOD, "step", "metric", "value"]]
