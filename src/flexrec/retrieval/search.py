"""Nearest neighbours by cosine among very many items: exactly, or through a FAISS index.

Judged pools are small, and `star.top_k` searches each of them exactly. This is for a whole catalogue (the 1.8 million
products of ESCI), and for pools that are almost one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.progress import track
from flexrec.retrieval.star import Score, top_k

logger = logging.getLogger(__name__)

_MEBIBYTE = 1 << 20
_POINTS_PER_CELL = 40  # what the library asks for as the least to learn a cell from


class ExactSearch(Settings):
    """Compare with every item."""

    kind: Literal["exact"] = "exact"
    block_mib: int = Field(default=256, ge=1, description="Memory of one block of cosines.")


class FaissSearch(Settings):
    """Compare with the items of the nearest cells only (FAISS, IndexIVFFlat): faster, and now and then wrong."""

    kind: Literal["faiss"] = "faiss"
    cells: int | None = Field(default=None, ge=1, description="Cells of the index; None: twice the root of the items.")
    probes: int = Field(default=32, ge=1, description="Cells that a query looks into: more find more, and cost more.")
    rounds: int = Field(default=10, ge=1, description="Rounds of k-means that place the cells.")
    seed: int = Field(default=0, ge=0, description="Of the k-means.")
    exact_up_to: int = Field(default=100_000, ge=0, description="Pools of up to so many items are searched exactly.")


SearchSettings = Annotated[ExactSearch | FaissSearch, Field(discriminator="kind")]


class CellIndex:
    """A FAISS index of items by cells."""

    def __init__(self, items: Float[np.ndarray, "m d"], settings: FaissSearch) -> None:
        """Place the cells and sort the items into them; the same items and settings give the same index.

        Args:
            items: Float32, unit norm. The index holds a copy.
            settings: Cells and probes.

        Raises:
            InputError: FAISS is not installed.
        """
        try:
            import faiss
        except ImportError as error:
            raise InputError("search of the kind faiss needs FAISS: pip install -e '.[faiss]'") from error

        self.items = np.ascontiguousarray(items, dtype=np.float32)
        self._faiss: Any = faiss
        count, size = items.shape
        wanted = settings.cells or round(2 * count**0.5)
        self.cells = max(1, min(wanted, count // _POINTS_PER_CELL))
        self.probes = min(settings.probes, self.cells)
        quantizer = faiss.IndexFlatIP(size)
        self._index = faiss.IndexIVFFlat(quantizer, size, self.cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed = settings.seed
        self._index.cp.niter = settings.rounds
        self._index.cp.spherical = True
        self._index.cp.min_points_per_centroid = 1
        self._index.cp.max_points_per_centroid = _POINTS_PER_CELL
        self._index.train(self.items)
        self._index.add(self.items)
        logger.info("FAISS index: %d items in %d cells, %d looked into", count, self.cells, self.probes)

    def search(
        self, queries: Float[np.ndarray, "n d"], k: int, pool: Int[np.ndarray, " pool"] | None = None
    ) -> list[Int[np.ndarray, " found"]]:
        """The row numbers of up to `k` items of each query, in no particular order.

        Args:
            queries: Float32, unit norm.
            k: Number of items.
            pool: Row numbers among which to search; None: all.
        """
        options = {"nprobe": self.probes}
        if pool is not None:
            options["sel"] = self._faiss.IDSelectorBatch(pool)
        parameters = self._faiss.SearchParametersIVF(**options)
        _, found = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k, params=parameters)
        return [row[row >= 0] for row in found]


def search_all(
    queries: Float[np.ndarray, "n d"], items: Float[np.ndarray, "m d"], k: int, settings: SearchSettings
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Find each query's `k` most similar items among all.

    Each pair's cosine depends on the pair alone, to the last bit, whatever is searched beside it.

    Args:
        queries: Float32, unit norm.
        items: Float32, unit norm.
        k: Number of items to return.
        settings: Exactly or with an index.

    Returns:
        Row numbers and cosines in [-1, 1], best first; equal cosines in the order of the row numbers.

    Raises:
        InputError: Fewer than `k` items, or FAISS is not installed.
    """
    if len(items) < k:
        raise InputError(f"there are {len(items)} items, fewer than the {k} to return")
    if isinstance(settings, ExactSearch):
        return _exactly(queries, items, k, settings.block_mib)
    found = CellIndex(items, settings).search(queries, k)
    short = [row for row, near in enumerate(found) if len(near) < k]
    if short:
        logger.info("%d of %d queries looked into cells with fewer than %d items: exactly", len(short), len(found), k)
        exact, _ = _exactly(queries[short], items, k, ExactSearch().block_mib)
        for row, near in zip(short, exact, strict=True):
            found[row] = near
    return ordered(found, queries, items, k)


def search_pools(
    queries: Float[np.ndarray, "n d"],
    items: Float[np.ndarray, "m d"],
    allowed: Sequence[Int[np.ndarray, " pool"]],
    k: int,
    settings: SearchSettings,
    score: Score | None = None,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Find each query's `k` best items in its own pool: `star.top_k`, or an index where it asks for one.

    With an index, pools above `exact_up_to` go through it. Scores other than cosines have no index.

    Args:
        queries: Float32, unit norm.
        items: Float32, unit norm.
        allowed: Per query the row numbers of its pool.
        k: Number of items to return.
        settings: Exactly or with an index.
        score: As in `top_k`.

    Returns:
        As `top_k`.

    Raises:
        InputError: A pool smaller than `k`, or FAISS is needed and not installed.
    """
    large = (
        [row for row, pool in enumerate(allowed) if len(pool) > settings.exact_up_to]
        if isinstance(settings, FaissSearch) and score is None
        else []
    )
    if not large:
        return top_k(queries, items, allowed, k, score)
    assert isinstance(settings, FaissSearch)
    index = CellIndex(items, settings)
    through = set(large)
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    for row in track(range(len(queries)), description="retrieving", total=len(queries)):
        one, pool = queries[row : row + 1], np.asarray(allowed[row])
        near = index.search(one, k, pool)[0] if row in through else pool[:0]
        if len(near) < k:
            indices[row], cosines[row] = (part[0] for part in top_k(one, items, [pool], k))
        else:
            indices[row], cosines[row] = (part[0] for part in ordered([near], one, items, k))
    return indices, cosines


def recall(found: Int[np.ndarray, "n k"], exact: Int[np.ndarray, "n k"]) -> float:
    """Share of the exact neighbours that were found, in [0, 1]."""
    shares = [len(np.intersect1d(some, right)) / len(right) for some, right in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def _exactly(
    queries: Float[np.ndarray, "n d"], items: Float[np.ndarray, "m d"], k: int, block_mib: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    count = len(items)
    # two float32 cosines of the same pair differ by less than this, however they were summed up
    margin = 2 * items.shape[1] * float(np.finfo(np.float32).eps)
    step = max(1, block_mib * _MEBIBYTE // (4 * count))
    near = []
    for start in track(range(0, len(queries), step), description="searching"):
        for cosines in queries[start : start + step] @ items.T:
            least = np.partition(cosines, count - k)[count - k]
            near.append(np.flatnonzero(cosines >= least - margin))
    return ordered(near, queries, items, k)


def ordered(
    near: Sequence[Int[np.ndarray, " found"]],
    queries: Float[np.ndarray, "n d"],
    items: Float[np.ndarray, "m d"],
    k: int,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """The `k` best of the items found for each query, by cosines that depend on the pair alone.

    Args:
        near: Per query the row numbers found, at least `k`.
        queries: Float32, unit norm.
        items: Float32, unit norm.
        k: Number of items to return.

    Returns:
        Row numbers and cosines in [-1, 1], best first; equal cosines in the order of the row numbers.
    """
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    for row, found in enumerate(near):
        rows = np.sort(found)
        values = np.einsum("md,d->m", items[rows].astype(np.float64), queries[row].astype(np.float64))
        values = values.astype(np.float32)
        best = np.argsort(-values, kind="stable")[:k]
        indices[row], cosines[row] = rows[best], values[best]
    return indices, np.clip(cosines, -1.0, 1.0)
