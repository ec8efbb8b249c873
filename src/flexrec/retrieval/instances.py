"""Ranking instances: a user at a moment, what the system knows of them by then, and K judged candidates.

The judged pool is every item that the user has a label for in the full data, minus the items of observed interactions
before the query time. What is observed at or after it may be a candidate: those are the observed labels of training.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.errors import InputError
from flexrec.progress import track
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.retrieval.star import StarSettings, star_query, top_k

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Moment:
    """One query time of one user. `events` and `known` are row numbers of the sorted observations."""

    user_id: int
    query_time: int
    turn: int
    key: float
    events: slice
    known: Int[np.ndarray, " known"]


def build_instances(
    observations: pd.DataFrame,
    embeddings: pd.DataFrame,
    *,
    candidates: int,
    history: int,
    instances_per_user: int,
    limits: Mapping[str, int],
    seed: int,
    star: StarSettings,
) -> pd.DataFrame:
    """Choose query times and retrieve each one's candidates.

    Query times of a user are the distinct times of its observed interactions that have an observed one strictly
    earlier; a user without any gets the second after its last observed one. Times whose pool is smaller than K are left
    out, and a user without any time left is dropped. With a limit, every user's first instance comes before any
    user's second. A user's draws depend on the seed and the user alone.

    Args:
        observations: The common table with `observed` and `split`; one row per (user, item).
        embeddings: `item_embeddings`: item_id, embedding (unit norm).
        candidates: K, candidates per instance.
        history: H, the most history items kept.
        instances_per_user: Most query times of a user.
        limits: Most instances per split, for each of train, validation and test; 0 leaves the split out.
        seed: Of the choices of query times and instances.
        star: Settings of the query.

    Returns:
        `instances`, numbered by (split, user, query time); candidates best first.

    Raises:
        InputError: A repeated pair, an item without an embedding, wrong limits, or a split without any instance.
    """
    if set(limits) != set(SPLITS) or min(limits.values()) < 0:
        raise InputError(f"limits needs a number of at least 0 for each of {', '.join(SPLITS)}, got {dict(limits)}")
    repeated = observations.duplicated([Columns.USER_ID, Columns.ITEM_ID])
    if repeated.any():
        pair = observations[repeated].iloc[0]
        raise InputError(
            f"observations: user {pair[Columns.USER_ID]} has item {pair[Columns.ITEM_ID]} twice; "
            "keep one interaction per pair, an item of a pool needs one label"
        )
    table = observations.sort_values([Columns.USER_ID, Columns.TIMESTAMP, Columns.EVENT_ID], ignore_index=True)
    moments = _moments(table, candidates, instances_per_user, limits, seed)

    item_rows, vectors = _item_rows(table, embeddings)
    engagement = table[Columns.ENGAGEMENT].to_numpy()
    item_ids = table[Columns.ITEM_ID].to_numpy()
    chosen = [(split, moment) for split in SPLITS for moment in moments[split]]
    queries = np.zeros((len(chosen), vectors.shape[1]), dtype=np.float32)
    allowed, recent = [], []
    for row, (_, moment) in enumerate(chosen):
        latest = moment.known[-history:]
        recent.append(latest)
        queries[row] = star_query(vectors[item_rows[latest]], star, engagement[latest])
        pool = np.setdiff1d(np.arange(moment.events.start, moment.events.stop), moment.known, assume_unique=True)
        allowed.append(item_rows[pool])
    indices, scores = top_k(queries, vectors, allowed, candidates)
    embedded_ids = embeddings[Columns.ITEM_ID].to_numpy()
    return pd.DataFrame(
        {
            Columns.INSTANCE_ID: np.arange(len(chosen), dtype=np.int64),
            Columns.USER_ID: np.array([moment.user_id for _, moment in chosen], dtype=np.int64),
            Columns.SPLIT: [split for split, _ in chosen],
            Columns.QUERY_TIME: np.array([moment.query_time for _, moment in chosen], dtype=np.int64),
            Columns.HISTORY_ITEMS: [item_ids[rows].tolist() for rows in recent],
            Columns.HISTORY_ENGAGEMENTS: [engagement[rows].tolist() for rows in recent],
            Columns.CANDIDATES: [embedded_ids[rows].tolist() for rows in indices],
            Columns.SIMILARITIES: [values.astype(np.float64).tolist() for values in scores],
        }
    )


def _moments(
    table: pd.DataFrame, candidates: int, instances_per_user: int, limits: Mapping[str, int], seed: int
) -> dict[str, list[_Moment]]:
    """Choose the query times; `table` is sorted by (user, time, event)."""
    users = table[Columns.USER_ID].to_numpy()
    times = table[Columns.TIMESTAMP].to_numpy()
    observed = table[Columns.OBSERVED].to_numpy()
    splits = table[Columns.SPLIT].to_numpy()
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    stops = np.r_[starts[1:], len(users)]

    found: dict[str, list[_Moment]] = {split: [] for split in SPLITS}
    dropped = dict.fromkeys(SPLITS, 0)
    largest = 0
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    for start, stop in track(bounds, description="choosing query times", total=len(starts)):
        split = str(splits[start])
        if limits[split] == 0:
            continue
        own = start + np.flatnonzero(observed[start:stop])
        query_times = np.unique(times[own])
        query_times = query_times[1:] if len(query_times) > 1 else query_times[-1:] + 1
        known = np.searchsorted(times[own], query_times, side="left")
        pools = stop - start - known
        largest = max(largest, int(pools.max(initial=0)))
        usable = np.flatnonzero(pools >= candidates)
        if not usable.size:
            dropped[split] += 1
            continue
        user = int(users[start])
        # a generator per user: no other user's data can change the draw; the mask makes negative ids valid seeds
        rng = np.random.default_rng([seed, user & 0xFFFF_FFFF_FFFF_FFFF])
        for turn, at in enumerate(rng.permutation(usable)[:instances_per_user]):
            found[split].append(
                _Moment(user, int(query_times[at]), turn, rng.random(), slice(start, stop), own[: known[at]])
            )
    for split in SPLITS:
        if limits[split] > 0 and not found[split]:
            raise InputError(
                f"split {split} has no instance: no user of it has {candidates} judged items to choose from "
                f"(the largest pool of any user has {largest}). Lower `candidates`, or use more data."
            )
        first = sorted(found[split], key=lambda moment: (moment.turn, moment.key))[: limits[split]]
        found[split] = sorted(first, key=lambda moment: (moment.user_id, moment.query_time))
        logger.info(
            "%s: %d instances of %d users; %d users dropped, whose pool is smaller than %d",
            split,
            len(first),
            len({moment.user_id for moment in first}),
            dropped[split],
            candidates,
        )
    return found


def _item_rows(
    table: pd.DataFrame, embeddings: pd.DataFrame
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "items d"]]:
    """Return each interaction's row number in the embeddings, and the embeddings as one array."""
    rows = pd.Index(embeddings[Columns.ITEM_ID]).get_indexer(table[Columns.ITEM_ID])
    missing = np.flatnonzero(rows < 0)
    if missing.size:
        raise InputError(
            f"item {table[Columns.ITEM_ID].iloc[missing[0]]} has interactions but no embedding; "
            "embed all items of the same dataset first"
        )
    return rows, np.stack([np.asarray(vector, dtype=np.float32) for vector in embeddings[Columns.EMBEDDING]])
