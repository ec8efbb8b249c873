"""The experiments of the planted-truth study, cell by cell; an interrupted one goes on after its last whole cell."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from flexrec.config import Settings
from flexrec.files import replacing
from flexrec.planted.results import BEST, COMMON, KEYS, area
from flexrec.planted.settings import (
    Cell,
    ComparisonSettings,
    FeedbackSettings,
    GradientSettings,
    LearnerSettings,
    ShowingSettings,
    Taught,
    TransferSettings,
    WeightingSettings,
    WorldSettings,
)
from flexrec.planted.world import fabricate, ideal_taus
from flexrec.progress import track
from flexrec.rl.settings import UncertaintySettings

logger = logging.getLogger(__name__)

JOINT = "all needs"
"""The policy that is trained for every need in turn."""

IDEAL = "ideal lists"
"""What stands beside the policies where the needs' own lists are compared."""

RATES = ("experiment", "setting", "variant", "rate", "area", "best", "edge")
"""Columns of the tables of learning rates."""

Labels = Mapping[str, object]
"""What a training is in the tables: `experiment`, `setting`, `choice`, `variant`, `rate`."""


def compare(
    experiment: str,
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: ComparisonSettings,
    folder: Path,
    *,
    setting: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train variants side by side, each at the learning rate that suits it best and all at a common one (if given).

    The rate of a variant is that of the largest mean area under the curve of NDCG@5 on the tuning seeds, which nothing
    else is made of.

    Args:
        experiment: Its name in the tables.
        world: The world; the settings may change its number of candidates.
        feedback: What training sees.
        learner: The learner; the settings may change its steps and views.
        settings: Variants, rates and seeds.
        folder: Finished cells, by the digest of their settings.
        setting: What the experiment varies beside the variants.

    Returns:
        The curves, and a table of the rates: `experiment`, `setting`, `variant`, `rate`, `area`, `best`, `edge` (the
        best rate is the smallest or largest that was tried).
    """
    world = _but(world, candidates=settings.candidates)
    learner = _but(learner, steps=settings.steps, prompts_per_step=settings.prompts_per_step, views=settings.views)

    def trained(variant: Taught, rate: float, seeds: Sequence[int]) -> Cell:
        return Cell(
            world=world,
            feedback=feedback,
            learner=learner,
            warm_up=settings.warm_up,
            method=variant.method(),
            learning_rate=rate,
            trained=(settings.need,),
            asked=(settings.need,),
            seeds=tuple(seeds),
        )

    named = f"{experiment}, {setting}" if setting else experiment
    tries = [(variant, rate) for variant in settings.variants for rate in settings.rates]
    tuning = run_cells(
        [
            (
                {"experiment": experiment, "variant": variant.name, "rate": rate},
                trained(variant, rate, settings.tuning.all),
            )
            for variant, rate in tries
        ],
        folder,
        f"{named}: learning rates",
    )
    rates = _rates(tuning, experiment, settings).assign(setting=setting)[list(RATES)]
    best = rates[rates["best"]].set_index("variant")["rate"]
    chosen = [(BEST, variant, float(best[variant.name])) for variant in settings.variants]
    if settings.common_rate is not None:
        chosen += [(COMMON, variant, settings.common_rate) for variant in settings.variants]
    cells = []
    for choice, variant, rate in chosen:
        labels = {"experiment": experiment, "setting": setting, "choice": choice, "variant": variant.name, "rate": rate}
        cells.append((labels, trained(variant, rate, settings.seeds.all)))
    return run_cells(cells, folder, named), rates


def show_or_reward(
    world: WorldSettings, learner: LearnerSettings, settings: ShowingSettings, folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reward lists and show them, after the same warm-up; every critic, with few requests and with many.

    Returns:
        As `compare` does; a setting is a critic and a number of requests.
    """
    parts = [
        compare(
            "showing",
            _but(world, train=requests),
            critic,
            learner,
            settings,
            folder,
            setting=f"{critic.label}, {requests:,} requests",
        )
        for requests in settings.requests
        for critic in settings.critics
    ]
    curves, rates = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    return curves, rates


def weigh(world: WorldSettings, learner: LearnerSettings, settings: WeightingSettings, folder: Path) -> pd.DataFrame:
    """Train with critics of several kinds and noise levels, with and without weights by their uncertainty."""
    cells = []
    for critic in settings.critics:
        for noise in settings.noises:
            for scope in settings.scopes:
                weights = UncertaintySettings(
                    scope=scope, low=settings.low, high=settings.high, epsilon=settings.epsilon
                )
                cell = Cell(
                    world=world,
                    feedback=_but(critic, noise=noise),
                    learner=learner,
                    method=settings.variant.method(weights),
                    learning_rate=settings.learning_rate,
                    trained=(settings.need,),
                    asked=(settings.need,),
                    seeds=settings.seeds.all,
                )
                labels = {"experiment": "uncertainty", "setting": f"{critic.name}, noise {noise:g}", "variant": scope}
                cells.append(({**labels, "rate": settings.learning_rate}, cell))
    return run_cells(cells, folder, "uncertainty")


def transfer(
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: TransferSettings,
    folder: Path,
) -> pd.DataFrame:
    """Train for each need alone and for all in turn; ask every policy for every need."""
    needs = tuple(need.name for need in world.needs)
    learner = _but(learner, steps=settings.steps)
    trainings = {need: (need,) for need in needs} | ({JOINT: needs} if len(needs) > 1 else {})
    cells = []
    for name, trained in trainings.items():
        cell = Cell(
            world=world,
            feedback=feedback,
            learner=learner,
            method=settings.variant.method(),
            learning_rate=settings.learning_rate,
            trained=trained,
            asked=needs,
            seeds=settings.seeds.all,
        )
        cells.append(({"experiment": "transfer", "variant": name, "rate": settings.learning_rate}, cell))
    curves = run_cells(cells, folder, "transfer")
    ideal = [
        pd.DataFrame({"seed": settings.seeds.all, "need": a, "metric": f"tau/{b}", "value": values})
        for (a, b), values in ideal_taus(fabricate(world, feedback, settings.seeds.all), needs).items()
    ]
    if not ideal:
        return curves
    table = pd.concat(ideal, ignore_index=True).assign(step=0, tokens=0)
    return pd.concat([curves, _labelled(table, {"experiment": "transfer", "variant": IDEAL})], ignore_index=True)


def directions(
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: GradientSettings,
    folder: Path,
) -> pd.DataFrame:
    """Measure where each reward pushes, at the start of the training and later."""
    from flexrec.planted.gradients import alignments

    cell = Cell(
        world=world,
        feedback=feedback,
        learner=learner,
        method=settings.variants[0].method(),
        learning_rate=settings.learning_rate,
        trained=(settings.need,),
        asked=(settings.need,),
        seeds=settings.seeds.all,
    )
    parts = []
    for start in settings.start:
        name = f"{cell_key(cell)}-{cell_key(settings)}-{start}"
        table = _kept(
            folder / f"{name}.parquet",
            partial(
                alignments,
                cell,
                [(variant.name, variant.method()) for variant in settings.variants],
                start=start,
                batches=settings.batches,
                reference_batches=settings.reference_batches,
            ),
            f"gradients after {start} steps",
        )
        labels = {"experiment": "gradients", "setting": f"after {start} steps", "rate": settings.learning_rate}
        parts.append(_labelled(table, labels))
    return pd.concat(parts, ignore_index=True)


def run_cells(cells: Sequence[tuple[Labels, Cell]], folder: Path, description: str) -> pd.DataFrame:
    """Train every cell that has not been trained before; the same cell under two labels is trained once."""
    from flexrec.planted.learning import train

    tables = []
    for place, (labels, cell) in enumerate(track(cells, description=description, total=len(cells)), start=1):
        told = f"{description}: {place} of {len(cells)}, {labels['variant']}, rate {labels['rate']:g}"
        table = _kept(folder / f"{cell_key(cell)}.parquet", partial(train, cell), told)
        tables.append(_labelled(table, labels))
    return pd.concat(tables, ignore_index=True)


def cell_key(settings: Settings) -> str:
    """The digest of settings, for a file's name."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:20]


def _kept(path: Path, make: Callable[[], pd.DataFrame], told: str) -> pd.DataFrame:
    """The table at `path`, made if it is not there; a file is there whole or not at all."""
    if path.is_file():
        return pd.read_parquet(path)
    start = perf_counter()
    table = make()
    with replacing(path, "wb") as file:
        table.to_parquet(file)
    logger.info("%s: %.1f s", told, perf_counter() - start)
    return table


def _labelled(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    empty: dict[str, str | float] = dict.fromkeys(KEYS, "") | {"rate": np.nan}
    given: dict[str, Any] = {key: labels.get(key, empty[key]) for key in KEYS if key not in table}
    return table.assign(**given)[[*KEYS, *(name for name in table.columns if name not in KEYS)]]


def _rates(tuning: pd.DataFrame, experiment: str, settings: ComparisonSettings) -> pd.DataFrame:
    areas = area(tuning[tuning["metric"] == "ndcg_at_5"], ["variant", "rate", "seed"])
    means = areas.groupby(["variant", "rate"], sort=False)["value"].mean()
    rows = []
    for variant in settings.variants:
        own = means.loc[variant.name]
        # of equal areas the smaller rate
        best = float(own.sort_index().idxmax())
        ends = (min(settings.rates), max(settings.rates))
        rows += [
            (experiment, variant.name, float(rate), float(value), rate == best, rate == best and best in ends)
            for rate, value in own.items()
        ]
    return pd.DataFrame(rows, columns=["experiment", "variant", "rate", "area", "best", "edge"])


def _but(settings: Any, **changes: Any) -> Any:
    """The settings with some values replaced, where one is given; checked again."""
    given = {name: value for name, value in changes.items() if value is not None}
    return type(settings).model_validate(settings.model_dump() | given)
