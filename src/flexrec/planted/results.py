"""From learning curves to means, intervals and paired tests over seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from flexrec.planted.settings import ReportedStatistics
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test

KEYS = ("experiment", "setting", "choice", "variant", "rate")
"""What a training is: the experiment, what it varies beside the variants, how the learning rate was chosen, the variant
and its rate."""

BEST, COMMON = "own best rate", "common rate"

CURVES = ("ndcg_at_5", "ndcg_at_k", "ndcg_of_tail")
"""Measured along the training; everything else is one number per seed."""

COMPARED = ("area ndcg_at_5", "area ndcg_at_k", "final ndcg_at_5", "final ndcg_at_k", "final ndcg_of_tail")
"""Measures that are tested against the reference."""

COLUMNS = (*KEYS, "need", "measure", "mean", "low", "high", "seeds")
TESTS = ("reference", "difference", "difference_low", "difference_high", "p", "p_holm")

FAMILY = ("experiment", "choice", "measure")
"""What the comparisons have in common over which Holm's correction is made."""


def area(curves: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean height of each curve over the tokens sampled: the area under it (trapezoids) over its width.

    Args:
        curves: Columns `tokens`, `value` and those of `by`; at least two points per curve.
        by: What tells curves apart.

    Returns:
        One row per curve: `by` and `value`.
    """
    rows = []
    for key, curve in curves.groupby(list(by), sort=False, dropna=False):
        ordered = curve.sort_values("tokens")
        tokens, values = ordered["tokens"].to_numpy(dtype=np.float64), ordered["value"].to_numpy()
        rows.append((*key, float(np.trapezoid(values, tokens) / (tokens[-1] - tokens[0]))))
    return pd.DataFrame(rows, columns=[*by, "value"])


def measures(curves: pd.DataFrame) -> pd.DataFrame:
    """One number per training, seed, need and measure.

    Args:
        curves: The tables of `flexrec.planted.study`.

    Returns:
        The columns of `KEYS`, `seed`, `need`, `measure`, `value`. Of a curve: `area ...`, `start ...`, `final ...`.
    """
    by = [*KEYS, "seed", "need"]
    parts = []
    for metric in CURVES:
        own = curves[curves["metric"] == metric].sort_values("tokens", kind="stable")
        if own.empty:
            continue
        grouped = own.groupby(by, sort=False, dropna=False)
        parts.append(area(own, by).assign(measure=f"area {metric}"))
        parts.append(grouped["value"].first().reset_index().assign(measure=f"start {metric}"))
        parts.append(grouped["value"].last().reset_index().assign(measure=f"final {metric}"))
    single = curves[~curves["metric"].isin([*CURVES, "reward"])].rename(columns={"metric": "measure"})
    return pd.concat([*parts, single], ignore_index=True)[[*by, "measure", "value"]]


def summarise_planted(curves: pd.DataFrame, statistics: ReportedStatistics) -> pd.DataFrame:
    """Means over seeds with bootstrap intervals, and differences to references, paired by seed.

    A variant is compared with the first of its experiment, one that is normalised per rank also with the same reward
    pooled; a policy that was asked for a need, with the one that was trained for it.

    Args:
        curves: The tables of `flexrec.planted.study`, stacked.
        statistics: Confidence, resamples, permutations, seed.

    Returns:
        One row per training, need, measure and reference (one row where there is none): `KEYS`, `need`, `measure`,
        `mean`, `low`, `high`, `seeds`; and for the measures of `COMPARED` `reference`, `difference`, `difference_low`,
        `difference_high`, `p` of the paired sign-flip test, and `p_holm`, adjusted over all comparisons of the same
        experiment, choice of rate and measure.
    """
    rows = []
    table = measures(curves)
    first = table.drop_duplicates("experiment").set_index("experiment")["variant"]
    for key, group in table.groupby([*KEYS[:3], "need", "measure"], sort=False):
        experiment, setting, choice, need, measure = map(str, key)
        wide = group.set_index(["seed", "variant"])["value"].unstack(sort=False)
        rates = group.drop_duplicates("variant").set_index("variant")["rate"]
        for variant in wide.columns:
            mean, low, high = _interval(wide[variant], statistics)
            row = {
                **dict(zip(KEYS, (experiment, setting, choice, variant, float(rates[variant])), strict=True)),
                **{"need": need, "measure": measure, "mean": mean, "low": low, "high": high, "seeds": len(wide)},
            }
            others = _references(experiment, variant, need, first[experiment]) if measure in COMPARED else []
            tests = [_test(wide, variant, other, statistics) for other in others if other in wide]
            rows += [row | test for test in tests] or [row]
    results = pd.DataFrame(rows, columns=[*COLUMNS, *TESTS])
    for _, family in results.dropna(subset=["p"]).groupby(list(FAMILY)):
        results.loc[family.index, "p_holm"] = holm(family["p"].to_numpy())
    numbers = ["difference", "difference_low", "difference_high", "p", "p_holm"]
    return results.astype(dict.fromkeys(numbers, "float64"))


def _interval(values: pd.Series, statistics: ReportedStatistics) -> tuple[float, float, float]:
    return bootstrap_interval(
        values.to_numpy(),
        values.index.to_numpy(),
        confidence=statistics.confidence,
        resamples=statistics.resamples,
        seed=statistics.seed,
    )


def _references(experiment: str, variant: str, need: str, first: str) -> list[str]:
    wanted = [need] if experiment == "transfer" else [first, variant.replace("per rank", "pooled")]
    return [other for other in dict.fromkeys(wanted) if other != variant]


def _test(wide: pd.DataFrame, variant: str, other: str, statistics: ReportedStatistics) -> dict[str, str | float]:
    difference, low, high = _interval(wide[variant] - wide[other], statistics)
    p = paired_test(
        wide[variant].to_numpy(),
        wide[other].to_numpy(),
        wide.index.to_numpy(),
        resamples=statistics.permutations,
        seed=statistics.seed,
    )
    return {"reference": other, "difference": difference, "difference_low": low, "difference_high": high, "p": p}
