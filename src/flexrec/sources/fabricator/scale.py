"""Sizes of made-up worlds."""

import math

import numpy as np
from jaxtyping import Float, Int

from flexrec.errors import InputError


def scaled(published: int, scale: float, *, least: int) -> int:
    """Return `round(published * scale)`, at least `least`, so that a tiny world still has something of everything.

    Raises:
        InputError: The scale is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale must be a positive number, got {scale}")
    return max(least, round(published * scale))


def shared_out(
    total: int, weights: Float[np.ndarray, " n"], room: Int[np.ndarray, " n"], *, least: int = 1
) -> Int[np.ndarray, " n"]:
    """Return whole numbers about in proportion to the weights that add up to `total`.

    Args:
        total: What is shared out; more than all room fills it, less than `n * least` gives everyone `least`.
        weights: Above 0.
        room: Most of each, at least `least`.
        least: Fewest of each.
    """
    total = int(np.clip(total, least * len(weights), room.sum()))
    counts = np.clip((weights / weights.sum() * total).astype(np.int64), least, room)
    while (left := total - int(counts.sum())) != 0:
        free = np.flatnonzero(counts < room if left > 0 else counts > least)
        share = max(1, abs(left) // len(free))
        chosen = free[: abs(left)] if share == 1 else free
        counts[chosen] = np.clip(counts[chosen] + int(np.sign(left)) * share, least, room[chosen])
    return counts
