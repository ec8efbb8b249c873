"""STAR retrieval (arXiv 2410.16458): a decayed history query, its collaborative part, and an exact search by cosine."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.progress import track

Score = Callable[[int, Int[np.ndarray, " pool"]], Float[np.ndarray, " pool"]]
"""Scores of a query's pool, from the number of the query and the row numbers of the pool."""


class StarSettings(Settings):
    """How a history becomes a query."""

    decay: float = Field(default=0.7, gt=0, le=1, description="Weight of an item relative to the next more recent one.")
    engagement_weights: bool = Field(default=False, description="Weight history items by their engagement.")
    collaborative: float = Field(
        default=0.0, ge=0, le=1, description="Share of what users have in common, beside the texts (1 - a in STAR)."
    )


class StarScoringSettings(StarSettings):
    """STAR as a ranking of its own, with its authors' values."""

    engagement_weights: bool = Field(default=True, description="Weight history items by their engagement.")
    collaborative: float = Field(default=0.5, ge=0, le=1, description="Share of what users have in common (1 - a).")
    history: int = Field(default=3, ge=1, description="Most recent history items that count.")


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
    weights = star_weights(len(history), settings, engagements)
    query = weights @ history.astype(np.float64)
    norm = np.linalg.norm(query)
    return (query / norm if norm > 0 else query).astype(np.float32)


def star_weights(
    length: int, settings: StarSettings, engagements: Float[np.ndarray, " H"] | None = None
) -> Float[np.ndarray, " H"]:
    """The weight w_j * decay^(t_j) of each history item, oldest first; arguments and errors as `star_query`.

    An engagement below 0 weighs nothing: what was disliked says nothing about what is like what was liked.
    """
    if settings.engagement_weights and engagements is None:
        raise InputError("engagement_weights needs the engagements of the history")
    weights = settings.decay ** np.arange(length, 0, -1, dtype=np.float64)
    if settings.engagement_weights:
        weights = weights * np.maximum(np.asarray(engagements, dtype=np.float64), 0.0)
    return weights


def star_scores(
    semantic: Float[np.ndarray, "p H"],
    collaborative: Float[np.ndarray, "p H"],
    weights: Float[np.ndarray, " H"],
    share: float,
) -> Float[np.ndarray, " p"]:
    r"""Score items by their likeness to each history item, in text and in audience.

    .. math:: s(x) = \frac{\sum_j w_j \gamma^{t_j} [(1-c) R_S(x, j) + c R_C(x, j)]}{\sum_j w_j \gamma^{t_j}}

    STAR (arXiv 2410.16458), section 3.2, with `c` = 1 - a, divided by the sum of the weights instead of their number:
    that orders the items of one history alike and keeps scores in [-1, 1]. With `c` = 0 the order is that of the cosine
    with `star_query`.

    Args:
        semantic: R_S, cosines of the texts' embeddings.
        collaborative: R_C, `Audiences.cosines`.
        weights: `star_weights`, not negative.
        share: c, in [0, 1].

    Returns:
        Scores; zeros where no weight is above 0.
    """
    total = weights.sum()
    if total <= 0:
        return np.zeros(len(semantic))
    return ((1 - share) * semantic + share * collaborative) @ weights / total


def top_k(
    queries: Float[np.ndarray, "n d"],
    items: Float[np.ndarray, "m d"],
    allowed: Sequence[Int[np.ndarray, " pool"]],
    k: int,
    score: Score | None = None,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Find each query's k most similar items among those allowed to it, exactly.

    A block is one query with its own pool: its scores then depend on nothing but its own data, down to the last bit,
    whereas in one large product they would change with the other queries of the batch.

    Args:
        queries: Unit-norm queries.
        items: Unit-norm items.
        allowed: Per query the row numbers of `items` that it may return.
        k: Number of items to return.
        score: What counts instead of the cosine.

    Returns:
        Row numbers and cosines (or scores) in [-1, 1], best first; equal ones in the order of the row numbers.

    Raises:
        InputError: A pool smaller than k.
    """
    indices = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for row in track(range(len(queries)), description="retrieving", total=len(queries)):
        pool = np.sort(allowed[row])
        if len(pool) < k:
            raise InputError(f"query {row}: its pool has {len(pool)} items, fewer than the {k} to return")
        cosines = items[pool] @ queries[row] if score is None else score(row, pool)
        best = np.argsort(-cosines, kind="stable")[:k]
        indices[row], scores[row] = pool[best], cosines[best]
    return indices, np.clip(scores, -1.0, 1.0)
