"""Uncertainty of measured means: intervals and tests that respect that instances of one user belong together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from flexrec.errors import InputError

CHUNK_CELLS = 1 << 20  # random draws held at once: a few MB, whatever the number of clusters


def bootstrap_interval(
    values: Float[np.ndarray, "n"],
    clusters: Shaped[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
) -> tuple[float, float, float]:
    r"""Mean and percentile interval of a cluster bootstrap.

    Draws the C clusters (users) C times with replacement, each with all its instances, and takes the mean over the
    instances drawn; the interval are the quantiles (1 -+ confidence) / 2 of these means.

    Edge cases:
        - a single cluster says nothing about the spread between users: low and high are NaN;
        - with one instance per cluster this is the ordinary bootstrap.

    Args:
        values: One finite number per instance.
        clusters: The cluster of each instance, any comparable kind.
        confidence: Between 0 and 1, exclusive.
        resamples: Number of bootstrap samples, at least 1.
        seed: Seed of the draws; the same seed gives the same interval bit for bit.

    Returns:
        Mean of the values, lower end, upper end.

    Raises:
        InputError: If there is no value, a value is not finite, lengths differ, or a parameter is out of range.

    Source: Field and Welsh (2007), "Bootstrapping clustered data", JRSS B 69(3); Efron (1979) for the percentiles.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence must lie between 0 and 1, not {confidence:g}")
    sums, sizes = _cluster_sums(values, clusters, resamples)
    mean = float(sums.sum() / sizes.sum())
    C = len(sums)
    if C == 1:
        return mean, float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    equal = bool((sizes == sizes[0]).all())
    means = np.empty(resamples)
    step = max(1, CHUNK_CELLS // C)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = generator.integers(0, C, size=(stop - start, C))
        counted = C * sizes[0] if equal else sizes[drawn].sum(axis=1)
        means[start:stop] = sums[drawn].sum(axis=1) / counted
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return mean, float(low), float(high)


def paired_test(
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    clusters: Shaped[np.ndarray, "n"],
    *,
    resamples: int = 10000,
    seed: int,
) -> float:
    r"""Two-sided p-value of a paired sign-flip permutation test on the mean difference of a and b.

    Under the null hypothesis the two methods are exchangeable per cluster (user), so every sign of a cluster's summed
    difference is equally likely:

    .. math:: p = \frac{1 + \#\{|\sum_c \pm s_c| \ge |\sum_c s_c|\}}{1 + \text{resamples}}, \qquad
        s_c = \sum_{i \in c} (a_i - b_i)

    Edge cases:
        - few clusters (2^C not above `resamples`): all sign patterns are enumerated and p is the exact share;
        - no difference anywhere: 1.

    Args:
        a: One finite number per instance.
        b: The other method's number on the same instance.
        clusters: The cluster of each instance, any comparable kind.
        resamples: Number of random sign patterns, at least 1; no p-value falls below 1 / (resamples + 1).
        seed: Seed of the draws.

    Returns:
        A value in (0, 1].

    Raises:
        InputError: If there is no value, a value is not finite, or lengths differ.

    Source: Good (2005), "Permutation, Parametric and Bootstrap Tests of Hypotheses"; the +1: Phipson and Smyth (2010).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"paired values must align: {first.shape} against {second.shape}")
    sums, _ = _cluster_sums(first - second, clusters, resamples)
    C = len(sums)
    # equal patterns summed in another order must still count as equal
    bound = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    if C < 60 and resamples >= 2**C:
        positive = (np.arange(2**C)[:, None] >> np.arange(C)) & 1
        return float(np.mean(_flipped(positive, sums) >= bound))
    generator = np.random.default_rng(seed)
    extreme = 0
    step = max(1, CHUNK_CELLS // C)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # whole 64-bit words: the generator drops the rest of a partly used one, and results would depend on the chunks
        words = generator.integers(0, 2**64, size=(rows, -(-C // 64)), dtype=np.uint64).astype("<u8")
        positive = np.unpackbits(words.view(np.uint8), axis=1, count=C)
        extreme += int((_flipped(positive, sums) >= bound).sum())
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float] | Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    r"""Holm's step-down adjustment: family-wise error control, uniformly better than Bonferroni.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\bigl(1, (n - j + 1) \, p_{(j)}\bigr)

    Args:
        p_values: Raw p-values in [0, 1]; may be empty.

    Returns:
        Adjusted p-values in the given order, each at least its raw value and at most 1.

    Raises:
        InputError: If a value is NaN or outside [0, 1].

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0.0) & (p <= 1.0)).all():
        raise InputError("p-values must be one list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def _flipped(positive: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """|sum of the cluster sums with signs|, one per row of 0/1 sign patterns (1 keeps the sign)."""
    return np.abs(2.0 * (positive.astype(np.float64) @ sums) - sums.sum())


def _cluster_sums(
    values: Float[np.ndarray, "n"], clusters: Shaped[np.ndarray, "n"], resamples: int
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Sum and number of the values of each cluster."""
    numbers, labels = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != labels.shape:
        raise InputError(f"values and clusters must be lists of one length: {numbers.shape}, {labels.shape}")
    if len(numbers) == 0:
        raise InputError("there is no value to take the mean of; evaluate at least one instance")
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0, 0])
        raise InputError(f"values must be finite; found {numbers[row]} at index {row}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}")
    _, members = np.unique(labels, return_inverse=True)
    return np.bincount(members, weights=numbers), np.bincount(members).astype(np.float64)
