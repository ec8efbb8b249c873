"""How items were received by the observed training interactions; no torch."""

import numpy as np
from jaxtyping import Float, Int


def shrunken_mean(
    total: Float[np.ndarray, "*shape"],
    count: Float[np.ndarray, "*shape"],
    prior: float,
    strength: float,
) -> Float[np.ndarray, "*shape"]:
    """Mean of a sum over a count, drawn towards `prior` as if `strength` further observations had that value.

    Args:
        total: Sum of the observed values.
        count: Number of observed values, >= 0; 0 gives `prior`.
        prior: Value without any observation.
        strength: Number of pseudo-observations, > 0.
    """
    return (total + strength * prior) / (count + strength)


def item_statistics(
    query_items: Int[np.ndarray, " n"],
    query_users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " m"],
    users: Int[np.ndarray, " m"],
    gains: Float[np.ndarray, " m"],
    strength: float,
) -> Float[np.ndarray, "n 2"]:
    """What all other users did with an item: log(1 + count) and shrunken mean gain.

    The observations of the asking user are left out, so that a training example never reads its own label, nor the label of
    the user's other viewings of the same item.

    Args:
        query_items: Item of each query, any integers.
        query_users: User who asks; a user without observations has nothing to leave out.
        items: Item of each observed training interaction.
        users: User of each observed training interaction.
        gains: Gain of each observed training interaction, finite.
        strength: Pseudo-observations of the global mean gain, > 0.

    Returns:
        Float64 columns: log(1 + number of others' observations), their shrunken mean gain.
    """
    count, total = _grouped(query_items[:, None], items[:, None], gains)
    own_count, own_total = _grouped(
        np.stack([query_items, query_users], axis=1), np.stack([items, users], axis=1), gains
    )
    others = count - own_count
    prior = float(gains.mean()) if len(gains) else 0.0
    return np.stack([np.log1p(others), shrunken_mean(total - own_total, others, prior, strength)], axis=1)


def _grouped(
    queries: Int[np.ndarray, "n k"], keys: Int[np.ndarray, "m k"], values: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Count and sum of `values` over the rows of `keys` equal to each row of `queries`."""
    groups, inverse = np.unique(np.concatenate([keys, queries]), axis=0, return_inverse=True)
    of_key, of_query = np.split(inverse.ravel(), [len(keys)])
    count = np.bincount(of_key, minlength=len(groups)).astype(np.float64)
    total = np.bincount(of_key, weights=values, minlength=len(groups))
    return count[of_query], total[of_query]
