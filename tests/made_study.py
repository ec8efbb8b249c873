"""Runs of a made-up study: known qualities of rows, measured on the same instances."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from flexrec.evaluation.names import METRICS
from flexrec.study.collection import CellResult, Collected
from flexrec.study.plan import Cell
from flexrec.study.settings import StudyOptions, StudySettings
from flexrec.study.statistics import Resampling, comparisons, row_means
from flexrec.study.tables import StudyTable, study_tables

BASELINES = ("random", "item_mean")
USERS = 12


def metrics_of(quality: Mapping[str, float], *, needs: tuple[str, ...] = ("interest",), seed: int = 0) -> pd.DataFrame:
    """Table `instance_metrics`: two instances per user, every metric the quality of the method plus noise."""
    generator = np.random.default_rng(seed)
    count = 2 * USERS
    # the same for all methods: how hard an instance is
    ease = generator.normal(0, 0.05, count)
    rows = []
    for need in needs:
        for method, value in quality.items():
            values = np.clip(value + ease + generator.normal(0, 0.01, count), 0, 1)
            table = pd.DataFrame(dict.fromkeys(METRICS, values))
            rows.append(
                table.assign(
                    method=method,
                    need=need,
                    instance_id=np.arange(count) + 100 * seed,
                    user_id=np.arange(count) // 2,
                    invalid_rate=0.0,
                )
            )
    return pd.concat(rows, ignore_index=True)


def curves_of(*, steps: int = 4, tokens: bool = True, spread: bool = True) -> pd.DataFrame:
    """Table `rl_curves`."""
    rows = []
    for step in range(1, steps + 1):
        rows.append((step, "validation/ndcg_at_5", 0.5 + 0.1 * step))
        if tokens:
            rows += [(step, "cost/prompt_tokens", 1000.0 * step), (step, "cost/answer_tokens", 10.0 * step)]
        if spread:
            rows += [(step, "advantage/std_at_rank_01", 1.0), (step, "weight/median", 1.0)]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


STAGES = {"random": 0.5, "item_mean": 0.7, "untrained": 0.5, "warmed_up": 0.55}
QUALITY = {"flexrec": 0.8, "rec_r1_critic": 0.6}


def result(method: str, seed: int, *, need: str = "interest", quality: float | None = None, **others) -> CellResult:
    value = QUALITY[method] if quality is None else quality
    values = {
        "cell": Cell(need, method, seed),
        "dataset": "ml-1m",
        "density": 0.1,
        "model": "small",
        "gains": "critic",
        "baselines": BASELINES,
        "made": f"2026-01-0{seed + 1}",
        "seconds": {"train_rl": 100.0 + seed, "train_warm_up": 50.0},
        "metrics": (("test", metrics_of({**STAGES, method: value}, seed=seed, needs=tuple(need.split("+")))),),
        "curves": curves_of(),
    }
    return CellResult(**{**values, **others})


def tables_of(
    collected: Collected, settings: StudySettings, options: StudyOptions, how: Resampling
) -> list[StudyTable]:
    """The tables of what was collected."""
    means = row_means(collected.instances, options.metrics, how)
    compared = comparisons(collected.instances, settings.references, options.primary, how)
    return study_tables(collected.cells, collected.instances, means, compared, settings, options, how)
