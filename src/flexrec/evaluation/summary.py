"""Means with intervals per method, need and metric, and paired comparisons with the rows a method claims to beat."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.names import METRICS, QUALITY_METRICS
from flexrec.ranking.columns import Columns
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test

COLUMNS = (
    Columns.METHOD,
    Columns.NEED,
    "metric",
    "mean",
    "low",
    "high",
    "n",
    "users",
    "reference",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
)


def summarise(
    instance_metrics: pd.DataFrame,
    *,
    references: Mapping[str, Sequence[str]],
    confidence: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10000,
    seed: int,
    metrics: Sequence[str] = METRICS,
    tested: Sequence[str] = QUALITY_METRICS,
) -> pd.DataFrame:
    """Summarise the metrics of instances, with users as the unit of resampling.

    Every statistic uses the same seed, so a row does not depend on which other rows are in the table (`p_holm`
    excepted, which depends on how many claims are made).

    Args:
        instance_metrics: The `instance_metrics` table.
        references: For each method that makes a claim, the methods it is compared with. A reference that was not
            evaluated for a need gives no row there.
        confidence: Coverage of the percentile bootstrap intervals, in (0, 1).
        resamples: Bootstrap resamples of the users.
        permutations: Sign flips of the paired test.
        seed: Seed of both.
        metrics: Columns to summarise.
        tested: Those of them that are compared.

    Returns:
        One row per method, need and metric, or one per reference where the method is compared: `method`, `need`,
        `metric`, `mean`, `low`, `high`, `n` (instances), `users`, `reference` (missing where not compared),
        `difference` (paired mean, method minus reference) with `difference_low` and `difference_high`, `p`
        (two-sided, paired, clustered by user) and `p_holm` (Holm over all comparisons of the same metric). Methods
        and needs keep the order of their first appearance.

    Raises:
        InputError: A method, or a reference, that occurs nowhere; or two compared methods that were evaluated on
            different instances.
    """
    present = list(dict.fromkeys(instance_metrics[Columns.METHOD]))
    for method, others in references.items():
        for name in (method, *others):
            if name not in present:
                raise InputError(
                    f"instance_metrics has no method '{name}' (named in the references of '{method}'); "
                    f"it has {', '.join(present)}."
                )
    groups = {
        key: group.sort_values(Columns.INSTANCE_ID)
        for key, group in instance_metrics.groupby([Columns.NEED, Columns.METHOD], sort=False)
    }
    needs = list(dict.fromkeys(instance_metrics[Columns.NEED]))
    rows: list[dict[str, object]] = []
    for need in needs:
        for method in present:
            if (need, method) not in groups:
                continue
            group = groups[need, method]
            users = group[Columns.USER_ID].to_numpy()
            others = [name for name in references.get(method, ()) if (need, name) in groups]
            for metric in metrics:
                values = group[metric].to_numpy(dtype=np.float64)
                mean, low, high = bootstrap_interval(
                    values, users, confidence=confidence, resamples=resamples, seed=seed
                )
                row: dict[str, object] = {
                    Columns.METHOD: method,
                    Columns.NEED: need,
                    "metric": metric,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "n": len(values),
                    "users": len(np.unique(users)),
                }
                if not others or metric not in tested:
                    rows.append(row)
                    continue
                for other in others:
                    _refuse_other_instances(group, groups[need, other], method, other, need)
                    base = groups[need, other][metric].to_numpy(dtype=np.float64)
                    difference, difference_low, difference_high = bootstrap_interval(
                        values - base, users, confidence=confidence, resamples=resamples, seed=seed
                    )
                    compared = {
                        "reference": other,
                        "difference": difference,
                        "difference_low": difference_low,
                        "difference_high": difference_high,
                        "p": paired_test(values, base, users, resamples=permutations, seed=seed),
                    }
                    rows.append(row | compared)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["reference"] = table["reference"].astype("str")
    numbers = ["difference", "difference_low", "difference_high", "p", "p_holm"]
    table[numbers] = table[numbers].astype(np.float64)
    for _, claims in table[table["p"].notna()].groupby("metric"):
        table.loc[claims.index, "p_holm"] = holm(claims["p"].to_numpy())
    return table


def headline_metrics(summary: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Nest the means of a summary as need -> method -> metric, as plain numbers for JSON."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    columns = (summary[name] for name in (Columns.NEED, Columns.METHOD, "metric", "mean"))
    for need, method, metric, mean in zip(*columns, strict=True):
        nested.setdefault(need, {}).setdefault(method, {})[metric] = float(mean)
    return nested


def _refuse_other_instances(group: pd.DataFrame, base: pd.DataFrame, method: str, other: str, need: str) -> None:
    mine, theirs = set(group[Columns.INSTANCE_ID]), set(base[Columns.INSTANCE_ID])
    if mine != theirs:
        example = min(mine ^ theirs)
        raise InputError(
            f"instance_metrics: '{method}' and '{other}' were evaluated on different instances for need '{need}' "
            f"({len(mine)} and {len(theirs)}, for example {example}); a paired comparison needs the same ones."
        )
