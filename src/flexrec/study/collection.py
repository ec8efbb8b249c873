"""What the runs of a study left behind, collected into tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.names import METRICS
from flexrec.evaluation.switching import OTHER_NEED
from flexrec.ranking.columns import Columns
from flexrec.study.plan import Cell

BASELINE, UNTRAINED, WARMED_UP, TRAINED, OTHER = "baseline", "untrained", "warmed_up", "trained", "other"
"""Kinds of rows: no language model; the model before, during and after training; a model that is not trained here."""

CRITIC_SEED = ", seed "
"""Stands before the seed in the name of a critic."""

COSTS = ("updates", "rollouts", "prompt_tokens", "answer_tokens")
"""Totals of a training, as its curves count them under `cost/`."""

CELL_COLUMNS = (
    "dataset",
    "density",
    "model",
    Columns.NEED,
    Columns.METHOD,
    "gains",
    "seed",
    "environment",
    "also",
    "overrides",
    "state",
    "reason",
    "made",
    "part",
    "commit",
    "dtype",
    "parameters",
    "warm_up_seconds",
    "training_seconds",
    *COSTS,
)

INSTANCE_COLUMNS = (
    "dataset",
    "density",
    "model",
    "sample",
    "seed",
    "trained_on",
    Columns.METHOD,
    "kind",
    Columns.NEED,
    Columns.INSTANCE_ID,
    Columns.USER_ID,
    *METRICS,
)

CURVE_COLUMNS = ("dataset", "density", "model", "trained_on", Columns.METHOD, "seed", "step", "metric", "value")

_PROBED = ("dataset", "density", "model", "seed", "trained_on", Columns.METHOD, "kind", Columns.NEED)

SWITCHING_COLUMNS = (
    *_PROBED,
    "other_need",
    Columns.INSTANCE_ID,
    Columns.USER_ID,
    "pairs",
    "tau",
    "ideal_tau",
    "turned",
    "swayed",
)

INPUT_ORDER_COLUMNS = (
    *_PROBED,
    "arrangement",
    Columns.INSTANCE_ID,
    Columns.USER_ID,
    "ndcg_at_5",
    "kendall_tau",
)

_KEY = ["dataset", "density", "model", "sample", "seed", "trained_on", Columns.METHOD, Columns.NEED]


@dataclass(frozen=True)
class CellResult:
    """One cell of a study, with what its run left where it is up to date.

    Attributes:
        cell: The cell.
        dataset: What it was run with, as are density, model and gains: the environment's where the cell leaves it.
        density: Share of the interactions that is observed.
        model: Base model.
        gains: What stood for unobserved labels.
        baselines: Methods that are no language model.
        state: `done`, `failed` or `not run`.
        reason: Why it is not done.
        made: Day on which it was evaluated, `2026-01-31`.
        commit: Of the code that it is up to date with; empty outside git.
        dtype: What the base model computes in; empty where it has not been made.
        parameters: Digest of everything that its nodes are configured with.
        seconds: Of its nodes, when they ran.
        metrics: Its tables of metrics per instance, each with the name of its sample of instances.
        curves: Its table `rl_curves`; None where the method has none.
        critic: Its tables `critic_test_predictions` and `critic_reliability`; None where there are none.
        switching: Its table `probe_switching`; None where it was not probed.
        input_order: Its table `probe_input_order`; None where it was not probed.
    """

    cell: Cell
    dataset: str
    density: float
    model: str
    gains: str = ""
    baselines: tuple[str, ...] = ()
    state: str = "done"
    reason: str = ""
    made: str = ""
    commit: str = ""
    dtype: str = ""
    parameters: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[tuple[str, pd.DataFrame], ...] = ()
    curves: pd.DataFrame | None = None
    critic: tuple[pd.DataFrame, pd.DataFrame] | None = None
    switching: pd.DataFrame | None = None
    input_order: pd.DataFrame | None = None


@dataclass(frozen=True)
class Collected:
    """Tables of a study.

    Attributes:
        cells: One row per cell, see `CELL_COLUMNS`.
        instances: One row per row of a table, seed and instance, see `INSTANCE_COLUMNS`. `sample` is `test`, or
            `probe` for the instances that the probe drew; `trained_on` is the need that a cell asked for, empty for
            what is not trained.
        curves: Training curves, see `CURVE_COLUMNS`.
        critic_predictions: Held-out predictions of one critic per dataset, told apart by `variant`.
        critic_reliability: The same critics' groups of examples.
        switching: What the probe found about two needs of the same candidates, see `SWITCHING_COLUMNS`.
        input_order: What it found about orders of the candidates, see `INPUT_ORDER_COLUMNS`.
    """

    cells: pd.DataFrame
    instances: pd.DataFrame
    curves: pd.DataFrame
    critic_predictions: pd.DataFrame
    critic_reliability: pd.DataFrame
    switching: pd.DataFrame
    input_order: pd.DataFrame


def collect(results: Sequence[CellResult]) -> Collected:
    """Collect what the cells of a study left; a cell that is not done gives its row in `cells` and nothing else.

    Rows that several cells have in common (baselines, the untrained and the warmed-up model) are taken once, from the
    first cell in which they stand.

    Raises:
        InputError: Two cells hold different rankings of what they should share.
    """
    cells: list[dict[str, object]] = []
    instances: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    predictions: list[pd.DataFrame] = []
    reliability: list[pd.DataFrame] = []
    taken: dict[tuple[object, ...], tuple[pd.Series, Cell]] = {}
    critics: set[tuple[str, float]] = set()
    for result in results:
        cells.append(_cell_row(result))
        if not result.metrics:
            continue
        for part in _parts(result):
            key = tuple(part.iloc[0][_KEY])
            values = part.set_index(Columns.INSTANCE_ID)["ndcg_at_30"].sort_index()
            if key in taken:
                _refuse_other_values(values, *taken[key], result.cell, key)
                continue
            taken[key] = values, result.cell
            instances.append(part)
        if result.curves is not None and len(result.curves):
            curves.append(
                result.curves[["step", "metric", "value"]].assign(
                    dataset=result.dataset,
                    density=result.density,
                    model=result.model,
                    trained_on=result.cell.need,
                    method=result.cell.method,
                    seed=result.cell.seed,
                )
            )
        if result.critic is not None and (result.dataset, result.density) not in critics:
            critics.add((result.dataset, result.density))
            name = f"{result.dataset}, density {result.density:g}{CRITIC_SEED}{result.cell.seed}"
            for tables, table in zip((predictions, reliability), result.critic, strict=True):
                tables.append(_variants(table, name))
    return Collected(
        cells=pd.DataFrame(cells, columns=list(CELL_COLUMNS)),
        instances=_stacked(instances, INSTANCE_COLUMNS),
        curves=_stacked(curves, CURVE_COLUMNS),
        critic_predictions=_stacked(predictions, ("variant", "mean", "gain")),
        critic_reliability=_stacked(reliability, ("variant", "predicted_std", "rmse")),
        switching=_probed([(result, result.switching) for result in results], SWITCHING_COLUMNS),
        input_order=_probed([(result, result.input_order) for result in results], INPUT_ORDER_COLUMNS),
    )


def _probed(found: Sequence[tuple[CellResult, pd.DataFrame | None]], columns: Sequence[str]) -> pd.DataFrame:
    """What probes found, what several cells have in common once."""
    parts: list[pd.DataFrame] = []
    taken: set[tuple[object, ...]] = set()
    for result, table in found:
        if table is None:
            continue
        # cells may have been probed for different pairs of needs
        other = [OTHER_NEED] if OTHER_NEED in table else []
        for (method, *_), rows in table.groupby([Columns.METHOD, Columns.NEED, *other], sort=False):
            part = rows.assign(**_names(str(method), result))
            key = tuple(part.iloc[0][[*_PROBED, *other]])
            if key not in taken:
                taken.add(key)
                parts.append(part)
    return _stacked(parts, columns)


def _names(method: str, result: CellResult) -> dict[str, Any]:
    """What tells the rows of a study apart, of a method that stands in the tables of a cell."""
    kind = _kind(method, result)
    # the warm-up of other gains is another model
    apart = kind == WARMED_UP and result.gains not in ("", "critic")
    return {
        "dataset": result.dataset,
        "density": result.density,
        "model": result.model,
        "seed": result.cell.seed,
        "trained_on": "" if kind in (BASELINE, UNTRAINED, OTHER) else result.cell.need,
        Columns.METHOD: f"{method}_{result.gains}" if apart else method,
        "kind": kind,
    }


def _variants(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The critic that training reads, of those that a run compares: the last one."""
    own = table[table["variant"] == table["variant"].iloc[-1]] if "variant" in table and len(table) else table
    return own.assign(variant=name)


def _stacked(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=list(columns))
    return pd.concat([part[list(columns)] for part in parts], ignore_index=True)


def _cell_row(result: CellResult) -> dict[str, object]:
    cell = result.cell
    return {
        "dataset": result.dataset,
        "density": result.density,
        "model": result.model,
        Columns.NEED: cell.need,
        Columns.METHOD: cell.method,
        "gains": result.gains,
        "seed": cell.seed,
        "environment": cell.environment or "",
        "also": ", ".join(cell.also),
        "overrides": ", ".join(cell.overrides),
        "state": result.state,
        "reason": result.reason,
        "made": result.made,
        "part": "",
        "commit": result.commit,
        "dtype": result.dtype,
        "parameters": result.parameters,
        "warm_up_seconds": result.seconds.get("train_warm_up", float("nan")),
        "training_seconds": result.seconds.get("train_rl", float("nan")),
        **costs(result.curves),
    }


def costs(curves: pd.DataFrame | None) -> dict[str, float]:
    """Totals of a training: the last point of every curve under `cost/`, which counts from the start.

    Args:
        curves: Table `rl_curves`; None where a method has none.

    Returns:
        One number per name of `COSTS`; NaN where it was not counted.
    """
    totals = dict.fromkeys(COSTS, float("nan"))
    if curves is None:
        return totals
    for name in COSTS:
        points = curves[curves["metric"] == f"cost/{name}"].sort_values("step")["value"]
        if len(points):
            totals[name] = float(points.iloc[-1])
    return totals


def with_own_warm_up(curves: pd.DataFrame) -> frozenset[str]:
    """The methods that made more steps than are counted as their updates: they began with a warm-up of their own.

    Args:
        curves: Table `study_curves`.
    """
    keys = ["dataset", "density", "model", "trained_on", Columns.METHOD, "seed"]
    updates = curves[curves["metric"] == "cost/updates"].groupby(keys)["value"].max()
    more = curves.groupby(keys)["step"].max().reindex(updates.index) > updates
    return frozenset(more[more].index.get_level_values(Columns.METHOD))


def _parts(result: CellResult) -> list[pd.DataFrame]:
    """The instance metrics of a cell by method and need, with what tells rows of a study apart."""
    return [
        rows.assign(**_names(str(method), result), sample=sample)[list(INSTANCE_COLUMNS)]
        for sample, table in result.metrics
        for (method, _), rows in table.groupby([Columns.METHOD, Columns.NEED], sort=False)
    ]


def _kind(method: str, result: CellResult) -> str:
    if method in result.baselines:
        return BASELINE
    if method == result.cell.method:
        return TRAINED
    return method if method in (UNTRAINED, WARMED_UP) else OTHER


def _refuse_other_values(
    values: pd.Series, known: pd.Series, cell_of_known: Cell, cell: Cell, key: tuple[object, ...]
) -> None:
    if values.equals(known):
        return
    # a baseline that draws at random may draw otherwise where several needs are asked together
    if cell.need != cell_of_known.need and values.index.equals(known.index):
        return
    raise InputError(
        f"study: '{key[-2]}' ranks otherwise in {cell.words} than in {cell_of_known.words}, although both should share "
        "it; run the older one again (kedro run with its parameters)"
    )
