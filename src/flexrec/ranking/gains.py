"""Gains and their discounted sums: what a ranking is worth, before any normalisation."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from flexrec.errors import InputError

GainKind = Literal["linear", "exponential"]


def engagement_gain(engagement: Float[np.ndarray, "*shape"], kind: GainKind) -> Float[np.ndarray, "*shape"]:
    r"""Turn raw engagement into a gain.

    .. math:: g = r \;\text{(linear)}, \qquad g = 2^r - 1 \;\text{(exponential)}

    Args:
        engagement: Raw engagement `r` (watch ratio, rating, ...). NaN stays NaN: it marks what was not observed.
        kind: `linear` (KuaiRec, ESCI) or `exponential` (MovieLens).

    Returns:
        Gains as float64, of the same shape.

    Raises:
        InputError: If the kind is unknown, or a gain is infinite (infinite engagement, or a power that overflows).

    Source: Järvelin and Kekäläinen (2002) for the linear form, Burges et al. (2005) for the exponential one;
    FlexRec (arXiv 2603.11901) uses the first on KuaiRec, the second on MovieLens.
    """
    values = np.asarray(engagement, dtype=np.float64)
    if kind == "linear":
        gains = values.copy()
    elif kind == "exponential":
        with np.errstate(over="ignore"):
            # exp2, not expm1: 2^5 - 1 is exactly 31, as ratings deserve
            gains = np.exp2(values) - 1.0
    else:
        raise InputError(f"gain kind {kind!r} is unknown; choose one of {', '.join(get_args(GainKind))}")
    if np.isinf(gains).any():
        worst = values[np.isinf(gains)].flat[0]
        raise InputError(f"engagement {worst:g} has no finite {kind} gain; repair the value or use the linear gain")
    return gains


def discounts(K: int) -> Float[np.ndarray, "K"]:
    r"""Position discounts, first position first.

    .. math:: d_k = 1 / \log_2(k + 1), \qquad k = 1 \ldots K

    Args:
        K: Number of positions, at least 1.

    Returns:
        Decreasing weights in (0, 1]; the first is 1.

    Raises:
        InputError: If K is below 1.

    Source: Järvelin and Kekäläinen (2002), "Cumulated gain-based evaluation of IR techniques".
    """
    if K < 1:
        raise InputError(f"a ranking needs at least one position, not {K}")
    return 1.0 / np.log2(np.arange(2, K + 2))


def dcg(ranked_gains: Float[np.ndarray, "*batch K"], k: int | None = None) -> Float[np.ndarray, "*batch"]:
    r"""Discounted cumulative gain of the first k positions.

    .. math:: \mathrm{DCG@}k = \sum_{i=1}^{\min(k, K)} d_i \, g_i

    Args:
        ranked_gains: Gains in ranked order (position 0 first).
        k: Cutoff, at least 1; None or anything above K means K.

    Returns:
        One sum per ranking, in the unit of the gains.

    Raises:
        InputError: If a gain is negative or not finite, the cutoff is below 1, or there is no position.
    """
    gains = checked_gains(ranked_gains)
    n = cutoff(k, gains.shape[-1])
    # not a matrix product: BLAS may round a row differently in another batch, and NDCG of the ideal order must be 1
    return (gains[..., :n] * discounts(n)).sum(axis=-1)


def ideal_dcg(gains: Float[np.ndarray, "*batch K"], k: int | None = None) -> Float[np.ndarray, "*batch"]:
    r"""The largest DCG@k that any order of these gains reaches (IDCG@k).

    Args:
        gains: Gains of all candidates, in any order.
        k: Cutoff, at least 1; None or anything above K means K.

    Returns:
        One sum per instance; 0 exactly where every gain is 0.

    Raises:
        InputError: As `dcg`.
    """
    return dcg(-np.sort(-checked_gains(gains), axis=-1), k)


def cutoff(k: int | None, K: int) -> int:
    """The number of positions that `@k` looks at: `min(k, K)`, or K for None.

    Raises:
        InputError: If k or K is below 1.
    """
    if K < 1:
        raise InputError("a ranking needs at least one candidate")
    if k is None:
        return K
    if k < 1:
        raise InputError(f"the cutoff of a ranking metric must be at least 1, not {k}")
    return min(k, K)


def checked_gains(gains: Float[np.ndarray, "*batch K"]) -> Float[np.ndarray, "*batch K"]:
    """The gains as float64, after making sure that they are finite and non-negative.

    Raises:
        InputError: If a gain is NaN, infinite or negative, or there is no candidate axis.
    """
    values = np.asarray(gains, dtype=np.float64)
    if values.ndim == 0:
        raise InputError("gains need a candidate axis")
    wrong = ~(np.isfinite(values) & (values >= 0.0))
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise InputError(f"gains must be finite and not negative; found {values[place]:g} at index {place}")
    return values
