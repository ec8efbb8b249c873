"""STAR retrieval (arXiv 2410.16458): a decayed history query and an exact nearest-neighbour search by cosine."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.progress import track


class StarSettings(Settings):
    """How a history becomes a query."""

    decay: float = Field(default=0.7, gt=0, le=1, description="Weight of an item relative to the next more recent one.")
    engagement_weights: bool = Field(default=False, description="Weight history items by their engagement.")


def star_query(
    history: Float[np.ndarray, "H d"], settings: StarSettings, engagements: Float[np.ndarray, " H"] | None = None
) -> Float[np.ndarray, " d"]:
    """Combine the embeddings of a history into one query.

    q = normalise( sum_j w_j * decay^(t_j) * e_j ),  t_j = 1 for the most recent item  (STAR, section 3.2).

    Args:
        history: Unit-norm embeddings, oldest first, most recent last.
        settings: Decay, and whether w_j is the engagement or 1.
        engagements: w_j; needed only with `engagement_weights`.

    Returns:
        A unit vector, or zeros where the sum vanishes (no history, or no engagement at all).

    Raises:
        InputError: `engagement_weights` without engagements.
    """
    if settings.engagement_weights and engagements is None:
        raise InputError("engagement_weights needs the engagements of the history")
    weights = settings.decay ** np.arange(len(history), 0, -1, dtype=np.float64)
    if settings.engagement_weights:
        weights = weights * np.asarray(engagements, dtype=np.float64)
    query = weights @ history.astype(np.float64)
    norm = np.linalg.norm(query)
    return (query / norm if norm > 0 else query).astype(np.float32)


def top_k(
    queries: Float[np.ndarray, "n d"],
    items: Float[np.ndarray, "m d"],
    allowed: Sequence[Int[np.ndarray, " pool"]],
    k: int,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Find each query's k most similar items among those allowed to it, exactly.

    A block is one query with its own pool: its scores then depend on nothing but its own data, down to the last bit,
    whereas in one large product they would change with the other queries of the batch.

    Args:
        queries: Unit-norm queries.
        items: Unit-norm items.
        allowed: Per query the row numbers of `items` that it may return.
        k: Number of items to return.

    Returns:
        Row numbers and cosines in [-1, 1], best first; equal cosines in the order of the row numbers.

    Raises:
        InputError: A pool smaller than k.
    """
    indices = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for row in track(range(len(queries)), description="retrieving", total=len(queries)):
        pool = np.sort(allowed[row])
        if len(pool) < k:
            raise InputError(f"query {row}: its pool has {len(pool)} items, fewer than the {k} to return")
        cosines = items[pool] @ queries[row]
        best = np.argsort(-cosines, kind="stable")[:k]
        indices[row], scores[row] = pool[best], cosines[best]
    return indices, np.clip(scores, -1.0, 1.0)
