"""Uncertainty of means over seeds and instances, and paired comparisons of the rows of a study.

Training with another seed gives another model, and other users give other instances: an interval has to cover both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from flexrec.errors import InputError
from flexrec.evaluation.names import DIAGNOSTIC_METRICS
from flexrec.ranking.columns import Columns
from flexrec.ranking.statistics import CHUNK_CELLS, bootstrap_interval, paired_test

GROUP = ["dataset", "density", "model", Columns.NEED, "sample"]
"""Rows with these in common were measured on the same instances, and stand in one table."""

ROW = [*GROUP, "trained_on", Columns.METHOD, "kind"]
"""What makes a row of a table."""


def where(table: pd.DataFrame, values: Mapping[Any, object]) -> pd.DataFrame:
    """The part of a table with these values, by column."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def interval_over_seeds(
    values: Float[np.ndarray, "n"],
    seeds: Int[np.ndarray, "n"],
    clusters: Shaped[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
) -> tuple[float, float, float]:
    r"""Mean over seeds of the means over instances, and the percentile interval of a two-stage bootstrap.

    Draws the S seeds S times with replacement; for each seed drawn, its C clusters (users) C times with replacement,
    each with all its instances; takes the mean over the instances drawn, then over the S draws. Without users the
    variance of the resampled means would be that of the seeds' means over S; the second stage adds the mean variance
    within a seed over C.

    Edge cases:
        - one seed: the interval is over instances only, `bootstrap_interval`;
        - few seeds: the bootstrap's variance between S seeds is (S - 1) / S of the unbiased one, so the interval of
          three seeds is a little too narrow.

    Args:
        values: One finite number per instance and seed.
        seeds: The seed of each.
        clusters: The cluster of each, any comparable kind; one cluster in two seeds is drawn in each by itself.
        confidence: Between 0 and 1, exclusive.
        resamples: Number of bootstrap samples, at least 1.
        seed: Seed of the draws; the same seed gives the same interval bit for bit.

    Returns:
        Mean, lower end, upper end; the ends are NaN for one cluster of one seed.

    Raises:
        InputError: If there is no value, a value is not finite, lengths differ, or a parameter is out of range.

    Source: Davison and Hinkley (1997), "Bootstrap Methods and their Application", section 3.8 (nested data).
    """
    numbers, groups, labels = np.asarray(values, dtype=np.float64), np.asarray(seeds), np.asarray(clusters)
    if not numbers.shape == groups.shape == labels.shape:
        raise InputError(f"values, seeds and clusters must align: {numbers.shape}, {groups.shape}, {labels.shape}")
    names = np.unique(groups)
    if len(names) <= 1:
        return bootstrap_interval(numbers, labels, confidence=confidence, resamples=resamples, seed=seed)
    # checks what is asked, and gives the mean of each seed
    means = [
        bootstrap_interval(numbers[groups == name], labels[groups == name], confidence=confidence, resamples=1, seed=0)
        for name in names
    ]
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}")
    parts = [_sums(numbers[groups == name], labels[groups == name]) for name in names]
    generator = np.random.default_rng(seed)
    S = len(names)
    drawn_seeds = generator.integers(0, S, size=(resamples, S))
    total = np.zeros(resamples)
    for place, (sums, sizes) in enumerate(parts):
        # how often this seed was drawn in each sample: as many draws of its clusters
        for _, rows in _repeated((drawn_seeds == place).sum(axis=1)):
            total[rows] += _drawn_means(sums, sizes, len(rows), generator)
    low, high = np.quantile(total / S, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(np.mean([mean for mean, _, _ in means])), float(low), float(high)


def _repeated(counts: Int[np.ndarray, "b"]) -> Iterator[tuple[int, Int[np.ndarray, "r"]]]:
    """For 1, 2, ...: the samples that need at least so many draws."""
    for number in range(1, int(counts.max(initial=0)) + 1):
        yield number, np.flatnonzero(counts >= number)


def _drawn_means(
    sums: Float[np.ndarray, "C"], sizes: Float[np.ndarray, "C"], count: int, generator: np.random.Generator
) -> Float[np.ndarray, "count"]:
    """Means over the instances of C clusters drawn with replacement, `count` times."""
    C = len(sums)
    means = np.empty(count)
    step = max(1, CHUNK_CELLS // C)
    for start in range(0, count, step):
        drawn = generator.integers(0, C, size=(min(step, count - start), C))
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _sums(
    values: Float[np.ndarray, "n"], clusters: Shaped[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    _, members = np.unique(clusters, return_inverse=True)
    return np.bincount(members, weights=values), np.bincount(members).astype(np.float64)


def paired_test_over_seeds(
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    seeds: Int[np.ndarray, "n"],
    clusters: Shaped[np.ndarray, "n"],
    *,
    resamples: int = 10000,
    seed: int,
) -> float:
    """Two-sided p value of a paired sign-flip permutation test; a cluster counts once over all seeds.

    Every seed has the same weight, whatever its number of instances: the tested difference is that of the means of
    `interval_over_seeds`. The test is about other users for the models that were trained, not about other seeds: the
    signs of three seeds could never give a p value below 1/4. The interval of the difference covers both.

    Args:
        a: One finite number per instance and seed.
        b: The other row's number on the same instance.
        seeds: The seed of each.
        clusters: The cluster (user) of each.
        resamples: Number of random sign patterns.
        seed: Seed of the draws.

    Raises:
        InputError: As `flexrec.ranking.statistics.paired_test`.
    """
    groups = np.asarray(seeds)
    names, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = len(groups) / (len(names) * counts[places])
    return paired_test(np.asarray(a) * weights, np.asarray(b) * weights, clusters, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class Resampling:
    """How intervals and tests are made."""

    confidence: float = 0.95
    resamples: int = 2000
    permutations: int = 10000
    seed: int = 0


def row_means(instances: pd.DataFrame, metrics: Sequence[str], how: Resampling) -> pd.DataFrame:
    """Means with intervals of every row and metric.

    Args:
        instances: Table `study_instances`.
        metrics: Metrics with an interval; the diagnostic ones are added with theirs.
        how: Resampling.

    Returns:
        `ROW`, `metric`, `mean`, `low`, `high`, `spread` (standard deviation of the seeds' means, NaN for one seed),
        `seeds` (their number), `n` (instances over all seeds), `users`; rows in the order of `instances`.
    """
    rows = []
    for key, part in instances.groupby(ROW, sort=False, dropna=False):
        seeds, users = part["seed"].to_numpy(), part[Columns.USER_ID].to_numpy()
        for metric in (*metrics, *DIAGNOSTIC_METRICS):
            values = part[metric].to_numpy(dtype=np.float64)
            mean, low, high = interval_over_seeds(
                values, seeds, users, confidence=how.confidence, resamples=how.resamples, seed=how.seed
            )
            own = [float(values[seeds == name].mean()) for name in np.unique(seeds)]
            rows.append(
                (
                    *key,
                    metric,
                    mean,
                    low,
                    high,
                    float(np.std(own, ddof=1)) if len(own) > 1 else float("nan"),
                    len(own),
                    len(values),
                    len(np.unique(users)),
                )
            )
    return pd.DataFrame(rows, columns=[*ROW, "metric", "mean", "low", "high", "spread", "seeds", "n", "users"])


def compare(row: pd.DataFrame, reference: pd.DataFrame, metric: str, how: Resampling) -> dict[str, float]:
    """A row against another, paired by seed and instance.

    Args:
        row: Instances of one row of `study_instances`.
        reference: Those of another with the same dataset, density and need.
        metric: The metric compared.
        how: Resampling.

    Returns:
        `difference` (row minus reference, mean over the seeds that both have), `difference_low`, `difference_high`,
        `p`, and `paired_seeds`, their number; NaN and 0 where they have no seed in common.

    Raises:
        InputError: Of one seed, the two were measured on different instances.
    """
    keys = ["seed", Columns.INSTANCE_ID]
    common = sorted(set(row["seed"]) & set(reference["seed"]))
    if not common:
        nothing = float("nan")
        return {
            "difference": nothing,
            "difference_low": nothing,
            "difference_high": nothing,
            "p": nothing,
            "paired_seeds": 0,
        }
    sides = [part[part["seed"].isin(common)].sort_values(keys).reset_index(drop=True) for part in (row, reference)]
    if not sides[0][keys].equals(sides[1][keys]):
        names = [f"'{part[Columns.METHOD].iloc[0]}'" for part in sides]
        raise InputError(
            f"study: {' and '.join(names)} were measured on different instances for need "
            f"'{row[Columns.NEED].iloc[0]}'; a paired comparison needs the same ones, so run the older one again."
        )
    a, b = (part[metric].to_numpy(dtype=np.float64) for part in sides)
    seeds, users = sides[0]["seed"].to_numpy(), sides[0][Columns.USER_ID].to_numpy()
    difference, low, high = interval_over_seeds(
        a - b, seeds, users, confidence=how.confidence, resamples=how.resamples, seed=how.seed
    )
    p = paired_test_over_seeds(a, b, seeds, users, resamples=how.permutations, seed=how.seed)
    return {
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "p": p,
        "paired_seeds": len(common),
    }


def comparisons(instances: pd.DataFrame, references: Sequence[str], metric: str, how: Resampling) -> pd.DataFrame:
    """Every row against the reference rows of its group.

    A reference is the row of that method that was trained for the need itself; where it was only trained for others,
    there is none. A row is not compared with itself.

    Args:
        instances: Table `study_instances`.
        references: Methods.
        metric: The metric compared.
        how: Resampling.

    Returns:
        `ROW`, `reference` and the values of `compare`, without `p_holm`: how many tests there are is known to a table
        only.
    """
    columns = [*ROW, "reference", "difference", "difference_low", "difference_high", "p", "paired_seeds"]
    rows = []
    for _, group in instances.groupby(GROUP, sort=False, dropna=False):
        members = dict(tuple(group.groupby(ROW, sort=False, dropna=False)))
        for reference in references:
            base = next((key for key in members if _is(key, reference)), None)
            if base is None:
                continue
            rows += [
                dict(zip(ROW, key, strict=True)) | {"reference": reference} | compare(part, members[base], metric, how)
                for key, part in members.items()
                if key != base
            ]
    return pd.DataFrame(rows, columns=columns)


def _is(key: tuple[object, ...], method: str) -> bool:
    """Whether a row is that of a method for its own need, or of one that is not trained."""
    named = dict(zip(ROW, key, strict=True))
    return named[Columns.METHOD] == method and named["trained_on"] in ("", named[Columns.NEED])
