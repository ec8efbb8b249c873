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

    Returns:
        Float64 columns: log(1 + count), and the shrunken mean gain `(sum + strength * mean) / (count + strength)`,
        where count and sum are over the others' observations of the item and mean over all their observations (0
        without any).
    """
    item_codes, query_codes = _codes(items, query_items)
    user_codes, asking_codes = _codes(users, query_users)
    width = 1 + max(user_codes.max(initial=0), asking_codes.max(initial=0))
    count, total = _grouped(item_codes, query_codes, gains)
    own_count, own_total = _grouped(item_codes * width + user_codes, query_codes * width + asking_codes, gains)
    user_count, user_total = _grouped(user_codes, asking_codes, gains)
    others = len(gains) - user_count
    mean = np.divide(gains.sum() - user_total, others, out=np.zeros(len(others)), where=others > 0)
    count, total = count - own_count, total - own_total
    return np.stack([np.log1p(count), (total + strength * mean) / (count + strength)], axis=1)


def _codes(
    keys: Int[np.ndarray, " m"], queries: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"]]:
    """Number the values that occur in either array from 0."""
    _, codes = np.unique(np.concatenate([keys, queries]), return_inverse=True)
    return codes[: len(keys)], codes[len(keys) :]


def _grouped(
    keys: Int[np.ndarray, " m"], queries: Int[np.ndarray, " n"], values: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Count and sum of the values whose key equals each query."""
    of_key, of_query = _codes(keys, queries)
    groups = 1 + max(of_key.max(initial=0), of_query.max(initial=0))
    count = np.bincount(of_key, minlength=groups).astype(np.float64)
    total = np.bincount(of_key, weights=values, minlength=groups)
    return count[of_query], total[of_query]
