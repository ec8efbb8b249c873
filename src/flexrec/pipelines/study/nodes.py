"""A study."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.baselines import BASELINES
from flexrec.errors import InputError
from flexrec.evaluation.names import UNTRAINED
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.pipelines.study.look import Look, look, not_run, results
from flexrec.pipelines.study.project import Project
from flexrec.pipelines.study.runs import run_missing
from flexrec.pipelines.study.times import Times, plan_text
from flexrec.reporting.figures import (
    advantage_spread_figure,
    critic_calibration_figure,
    uncertainty_weights_figure,
)
from flexrec.reporting.figures.study import forest_figure, learning_figure, mean_curves
from flexrec.reporting.figures.training import LOSS, REWARD, SPREAD, WEIGHTS
from flexrec.reporting.provenance import provenance
from flexrec.reporting.study_page import render_study
from flexrec.study.collection import TRAINED, CellResult, collect, with_own_warm_up
from flexrec.study.parts import Part, joined, read_parts, taken
from flexrec.study.plan import Cell, cells_of, refuse_unknown_rows
from flexrec.study.printing import failures, study_facts, study_markdown, study_text, write_tables
from flexrec.study.settings import StudyOptions, StudySettings
from flexrec.study.statistics import Resampling, comparisons, row_means
from flexrec.study.tables import study_tables

logger = logging.getLogger(__name__)


def run_cells(
    name: str,
    settings: StudySettings,
    options: StudyOptions,
    datasets: dict[str, Any],
    methods: dict[str, Any],
    models: dict[str, Any],
    layouts: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, bool]:
    """Run what is missing of the grid, and collect what all of it left."""
    project = Project.current()
    grid = _look(name, settings, options, datasets, methods, models, layouts, project)
    logger.info("%s", grid.plan(name), extra={"markup": False})
    lacking, parts = grid.taken()
    looks, failed = grid.here, dict[Cell, str]()
    if any(one.stale for one in looks):
        logs = project.folder / options.log_folder / name / "logs"
        failed = run_missing(name, looks, grid.times, project, logs)
        # what has run may have changed what others read
        looks = look([one.cell for one in looks], project)
    found = joined(collect([*results(looks, failed, project), *lacking]), parts)
    return (
        found.cells,
        found.instances,
        found.curves,
        found.critic_predictions,
        found.critic_reliability,
        found.switching,
        found.input_order,
        True,
    )


def print_plan(
    name: str,
    settings: StudySettings,
    options: StudyOptions,
    datasets: dict[str, Any],
    methods: dict[str, Any],
    models: dict[str, Any],
    layouts: dict[str, Any],
) -> None:
    """Say what the study would run, and how long that may take."""
    grid = _look(name, settings, options, datasets, methods, models, layouts, Project.current())
    grid.taken()
    print(f"\n{grid.plan(name)}", flush=True)


@dataclass(frozen=True)
class _Grid:
    """The cells of a study: those that are run here, and those of seeds that parts hold."""

    here: list[Look]
    elsewhere: list[Look]
    parts: list[Part]
    times: Times

    def plan(self, name: str) -> str:
        """What is run here, how long that may take, and what is taken from where."""
        seeds = [f"  taken from {part.name}: seed {', '.join(map(str, part.seeds))}" for part in self.parts]
        return "\n".join([plan_text(name, self.here, self.times), *seeds])

    def taken(self) -> tuple[list[CellResult], list[Part]]:
        """The cells that parts lack, and the parts; refuses what does not belong to this study."""
        lacking, parts = [], []
        for part in self.parts:
            own = [not_run(one) for one in self.elsewhere if one.cell.seed in part.seeds]
            missing, kept = taken(part, own)
            lacking += missing
            parts.append(kept)
        return lacking, parts


def _look(
    name: str,
    settings: StudySettings,
    options: StudyOptions,
    datasets: Mapping[str, Any],
    methods: Mapping[str, Any],
    models: Mapping[str, Any],
    layouts: Mapping[str, Any],
    project: Project,
) -> _Grid:
    if unknown := [table for table in settings.tables or () if table not in options.tables]:
        raise InputError(f"study '{name}': unknown table '{unknown[0]}'. Allowed: {', '.join(options.tables)}.")
    refuse_unknown_rows(name, settings, options, methods, (*BASELINES, UNTRAINED))
    gains = {method: str(entry.get("gains", "critic")) for method, entry in methods.items()}
    cells = cells_of(
        name, settings, given=project.given, datasets=datasets, methods=gains, models=models, layouts=layouts
    )
    parts = read_parts(project.folder / place for place in options.parts)
    held = {seed for part in parts for seed in part.seeds}
    seeds = {cell.seed for cell in cells}
    if unknown_seeds := [seed for seed in (*(options.seeds or ()), *sorted(held)) if seed not in seeds]:
        raise InputError(f"study '{name}' has no seed {unknown_seeds[0]}, only {', '.join(map(str, sorted(seeds)))}.")
    wanted = seeds if options.seeds is None else {*options.seeds}
    looks = look([cell for cell in cells if cell.seed in wanted | held], project)
    here = [one for one in looks if one.cell.seed not in held]
    times = Times(options.seconds)
    times.learn(here)
    return _Grid(here, [one for one in looks if one.cell.seed in held], parts, times)


def compare_rows(
    instances: pd.DataFrame, settings: StudySettings, options: StudyOptions, evaluate: EvaluationSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means of every row with intervals over seeds and users, and paired comparisons with the references."""
    how = _resampling(options, evaluate)
    return (
        row_means(instances, options.metrics, how),
        comparisons(instances, settings.references, options.primary, how),
    )


def tabulate(
    cells: pd.DataFrame,
    instances: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    curves: pd.DataFrame,
    switching: pd.DataFrame,
    input_order: pd.DataFrame,
    name: str,
    settings: StudySettings,
    options: StudyOptions,
    evaluate: EvaluationSettings,
) -> tuple[str, str, Callable[[Path], None]]:
    """The tables as Markdown, as text for the terminal, and as files of numbers."""
    how = _resampling(options, evaluate)
    tables = study_tables(
        cells, instances, means, compared, settings, options, how,
        switching=switching, input_order=input_order, own_warm_up=with_own_warm_up(curves),
    )  # fmt: skip
    return (
        study_markdown(settings.title, tables, provenance(**study_facts(name, cells))),
        study_text(tables, cells),
        partial(write_tables, tables),
    )


def draw_study(
    means: pd.DataFrame,
    curves: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    critic_reliability: pd.DataFrame,
    options: StudyOptions,
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure, go.Figure, go.Figure]:
    """Every row with its interval, learning by steps and by tokens, the critic, and what training acted on."""
    methods = list(dict.fromkeys(means.loc[means["kind"] == TRAINED, "method"]))
    return (
        forest_figure(means, metric=options.primary, methods=methods),
        learning_figure(curves, by="steps", methods=methods),
        learning_figure(curves, by="tokens", methods=methods),
        critic_calibration_figure(critic_predictions, critic_reliability),
        # a figure without its own curve says why there is none, by those that there are
        advantage_spread_figure(mean_curves(curves, [SPREAD, REWARD, LOSS]), methods=methods),
        uncertainty_weights_figure(mean_curves(curves, [*WEIGHTS, REWARD, LOSS]), methods=methods),
    )


def write_page(
    cells: pd.DataFrame,
    instances: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    curves: pd.DataFrame,
    switching: pd.DataFrame,
    input_order: pd.DataFrame,
    results_figure: go.Figure,
    steps_figure: go.Figure,
    tokens_figure: go.Figure,
    critic_figure: go.Figure,
    advantage_figure: go.Figure,
    weights_figure: go.Figure,
    name: str,
    settings: StudySettings,
    options: StudyOptions,
    evaluate: EvaluationSettings,
) -> str:
    """Everything as one HTML page."""
    how = _resampling(options, evaluate)
    tables = study_tables(
        cells, instances, means, compared, settings, options, how,
        switching=switching, input_order=input_order, own_warm_up=with_own_warm_up(curves),
    )  # fmt: skip
    figures = {
        "Every row with its interval": results_figure,
        "Learning by steps": steps_figure,
        "Learning by tokens": tokens_figure,
        "Calibration of the critic": critic_figure,
        "Spread of the advantage over ranks": advantage_figure,
        "Uncertainty weights": weights_figure,
    }
    facts = provenance(**study_facts(name, cells))
    return render_study(settings.title, tables, figures, facts, failures(cells))


def finish(text: str, cells: pd.DataFrame, tables: Path, page: str) -> None:
    """Show the results.

    The tables and the page are read so that they are there before this node fails.

    Raises:
        InputError: A run is not done.
    """
    print(f"\n{text}", flush=True)
    if left := failures(cells):
        raise InputError(f"{left}\nThe tables hold what is done; the same command tries the rest again.")


def _resampling(options: StudyOptions, evaluate: EvaluationSettings) -> Resampling:
    return Resampling(**evaluate.resampling(options.seed))
