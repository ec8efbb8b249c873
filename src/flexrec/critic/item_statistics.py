"""How items were received by the observed training interactions; no torch."""

import numpy as np
from jaxtyping import Float, Int


def item_statistics(
    query_items: Int[np.ndarray, " n"],
    query_users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " m"],
    users: Int[np.ndarray, " m"],
    gains: Float[np.ndarray, " m"],
    strength: float,
    *,
    turns: Int[np.ndarray, " m"] | None = None,
    query_turns: Int[np.ndarray, " n"] | None = None,
    mean: float | None = None,
) -> Float[np.ndarray, "n 2"]:
    """How often and how well all *other* users received an item.

    The asking user's own observations are left out, so that a training example never reads its own label, nor the
    labels of the same user's other viewings of the item.

    Args:
        query_items: Item that is asked about; any integers.
        query_users: User who asks; one without observations has nothing to leave out.
        items: Item of each observed training interaction.
        users: User of each observed training interaction.
        gains: Gain of each observed training interaction, finite.
        strength: Pseudo-observations of the mean gain, > 0.
        turns: Of each observation, not negative: only those of an earlier turn than the question count, as *ordered
            target statistics* (CatBoost, arXiv 1706.09516, section 3.2) want it of the examples of a training.
        query_turns: Of each question; None (and `turns`): all observations count.
        mean: The mean gain to shrink to; None: that of all others' observations (0 without any).

    Returns:
        Float64 columns: log(1 + count), and the shrunken mean gain `(sum + strength * mean) / (count + strength)`,
        where count and sum are over the others' observations of the item.
    """
    item_codes, query_codes = _codes(items, query_items)
    user_codes, asking_codes = _codes(users, query_users)
    width = 1 + max(user_codes.max(initial=0), asking_codes.max(initial=0))
    count, total = _grouped(item_codes, query_codes, gains, turns, query_turns)
    own = item_codes * width + user_codes, query_codes * width + asking_codes
    own_count, own_total = _grouped(*own, gains, turns, query_turns)
    count, total = count - own_count, total - own_total
    if mean is None:
        user_count, user_total = _grouped(user_codes, asking_codes, gains)
        others = len(gains) - user_count
        prior = np.divide(gains.sum() - user_total, others, out=np.zeros(len(others)), where=others > 0)
    else:
        prior = np.full(len(count), mean)
    return np.stack([np.log1p(count), (total + strength * prior) / (count + strength)], axis=1)


def _codes(
    keys: Int[np.ndarray, " m"], queries: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"]]:
    """Number the values that occur in either array from 0."""
    _, codes = np.unique(np.concatenate([keys, queries]), return_inverse=True)
    return codes[: len(keys)], codes[len(keys) :]


def _grouped(
    keys: Int[np.ndarray, " m"],
    queries: Int[np.ndarray, " n"],
    values: Float[np.ndarray, " m"],
    turns: Int[np.ndarray, " m"] | None = None,
    query_turns: Int[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Count and sum of the values whose key equals each query, of earlier turns if there are any."""
    of_key, of_query = _codes(keys, queries)
    if turns is not None and query_turns is not None:
        width = 1 + max(turns.max(initial=0), query_turns.max(initial=0))
        order = np.argsort(of_key * width + turns, kind="stable")
        sorted_keys = (of_key * width + turns)[order]
        first, last = (np.searchsorted(sorted_keys, of_query * width + turn) for turn in (0, query_turns))
        sums = np.r_[0.0, values[order].cumsum()]
        return (last - first).astype(np.float64), sums[last] - sums[first]
    groups = 1 + max(of_key.max(initial=0), of_query.max(initial=0))
    count = np.bincount(of_key, minlength=groups).astype(np.float64)
    total = np.bincount(of_key, weights=values, minlength=groups)
    return count[of_query], total[of_query]
