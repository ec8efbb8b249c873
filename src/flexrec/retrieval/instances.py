"""Ranking instances: a user at a moment, what the system knows of them by then, and K judged candidates.

The judged pool is every item that the user has a label for in the full data, minus the items of observed interactions
before the query time. What is observed at or after it may be a candidate: those are the observed labels of training.

A user that asks in words has one instance: no history, the embedded words as the query, all judged items as the pool.
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
from flexrec.retrieval.collaborative import Audiences, Request, collaborative_score
from flexrec.retrieval.search import ExactSearch, SearchSettings, search_pools
from flexrec.retrieval.star import Score, StarSettings, star_query
from flexrec.tabular import Table, as_table

logger = logging.getLogger(__name__)

_EXACT = ExactSearch()

Counts = dict[str, dict[str, int]]
"""Split -> what -> how many."""

DROPPED = "users dropped"
"""Of the counts: users all of whose query times have fewer judged items than K to choose from."""

FEWEST = 2
"""Fewest candidates of a query; one alone cannot be ranked."""


@dataclass(frozen=True)
class _Moment:
    """One query time of one user; `known` are row numbers of the observed interactions."""

    user_id: int
    query_time: int
    turn: int
    key: float
    known: Int[np.ndarray, " known"]


def build_instances(
    observations: Table | pd.DataFrame,
    embeddings: pd.DataFrame,
    *,
    candidates: int,
    history: int,
    instances_per_user: int,
    limits: Mapping[str, int],
    seed: int,
    star: StarSettings,
    search: SearchSettings = _EXACT,
    queries: pd.DataFrame | None = None,
    query_embeddings: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, Counts]:
    """Choose query times and retrieve each one's candidates.

    Query times of a user are the distinct times of its observed interactions that have an observed one strictly
    earlier; a user without any gets the second after its last observed one. Times whose pool is smaller than K are left
    out, and a user without any time left is dropped. With a limit, every user's first instance comes before any
    user's second. A user's draws depend on the seed and the user alone.

    A user with a query has one query time, the second after its last interaction, and all its judged items where these
    are fewer than K.

    Of the observations, the observed ones, the number per user, and the pools of the chosen users come into memory.

    Args:
        observations: The common table with `observed` and `split`; one row per (user, item).
        embeddings: `item_embeddings`: item_id, embedding (unit norm).
        candidates: K, candidates per instance.
        history: H, the most history items kept.
        instances_per_user: Most query times of a user.
        limits: Most instances per split, for each of train, validation and test; 0 leaves the split out.
        seed: Of the choices of query times and instances.
        star: Settings of the query.
        search: How large pools are searched.
        queries: The common table, or None.
        query_embeddings: The common table; needed for every query.

    Returns:
        `instances`, numbered by (split, user, query time), candidates best first; and what each split has: instances,
        users, dropped users, query times left out.

    Raises:
        InputError: A repeated pair, an item or a query without an embedding, wrong limits, or a split without any
            instance.
    """
    if set(limits) != set(SPLITS) or min(limits.values()) < 0:
        raise InputError(f"limits needs a number of at least 0 for each of {', '.join(SPLITS)}, got {dict(limits)}")
    table = as_table(observations)
    texts = {} if queries is None else dict(zip(queries[Columns.USER_ID], queries[Columns.QUERY], strict=True))
    seen = _observed(table)
    users = _users(table)
    moments, counts = _moments(seen, users, set(texts), candidates, instances_per_user, limits, seed)

    embedded_ids = embeddings[Columns.ITEM_ID].to_numpy()
    vectors = np.stack([np.asarray(vector, dtype=np.float32) for vector in embeddings[Columns.EMBEDDING]])
    _refuse_unembedded(table, embedded_ids)
    rows_of = pd.Index(embedded_ids)
    chosen = [(split, moment) for split in SPLITS for moment in moments[split]]
    pools = _pools(table, np.array([moment.user_id for _, moment in chosen], dtype=np.int64), rows_of)
    asked = _query_vectors(query_embeddings, [moment.user_id for _, moment in chosen if moment.user_id in texts])
    engagement = seen[Columns.ENGAGEMENT].to_numpy()
    item_ids = seen[Columns.ITEM_ID].to_numpy()
    item_rows = rows_of.get_indexer(pd.Index(item_ids))
    requests = np.zeros((len(chosen), vectors.shape[1]), dtype=np.float32)
    allowed, recent = [], []
    for row, (_, moment) in enumerate(chosen):
        latest = moment.known[-history:]
        recent.append(latest)
        if moment.user_id in texts:
            requests[row] = asked[moment.user_id]
        else:
            requests[row] = star_query(vectors[item_rows[latest]], star, engagement[latest])
        allowed.append(np.setdiff1d(pools[moment.user_id], item_rows[moment.known], assume_unique=True))
    score = None
    if star.collaborative > 0:
        made = zip(chosen, requests, recent, strict=True)
        asking = [
            Request(moment.user_id, moment.query_time, query, item_rows[latest], engagement[latest])
            for (_, moment), query, latest in made
        ]
        score = collaborative_score(_audiences(seen, users, item_rows, len(vectors)), vectors, asking, star)
    best = _retrieve(requests, vectors, allowed, candidates, search, score)
    instances = pd.DataFrame(
        {
            Columns.INSTANCE_ID: np.arange(len(chosen), dtype=np.int64),
            Columns.USER_ID: np.array([moment.user_id for _, moment in chosen], dtype=np.int64),
            Columns.SPLIT: [split for split, _ in chosen],
            Columns.QUERY_TIME: np.array([moment.query_time for _, moment in chosen], dtype=np.int64),
            Columns.HISTORY_ITEMS: [item_ids[rows].tolist() for rows in recent],
            Columns.HISTORY_ENGAGEMENTS: [engagement[rows].tolist() for rows in recent],
            Columns.CANDIDATES: [embedded_ids[rows].tolist() for rows, _ in best],
            Columns.QUERY: [texts.get(moment.user_id, "") for _, moment in chosen],
            Columns.SIMILARITIES: [scores.astype(np.float64).tolist() for _, scores in best],
        }
    )
    return instances, counts


def _observed(table: Table) -> pd.DataFrame:
    """The observed interactions, by user, time and event."""
    columns = [Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP, Columns.ENGAGEMENT, Columns.EVENT_ID]
    frame = table.filter(table[Columns.OBSERVED]).select(columns).to_pandas()
    return frame.sort_values([Columns.USER_ID, Columns.TIMESTAMP, Columns.EVENT_ID], ignore_index=True)


def _users(table: Table) -> pd.DataFrame:
    """Every user's split, number of judged items, and last time, by user."""
    users = table.group_by(Columns.USER_ID).aggregate(
        split=table[Columns.SPLIT].min(), size=table.count(), last=table[Columns.TIMESTAMP].max()
    )
    return users.to_pandas().sort_values(Columns.USER_ID, ignore_index=True)


def _moments(
    seen: pd.DataFrame,
    every_user: pd.DataFrame,
    with_query: set[int],
    candidates: int,
    instances_per_user: int,
    limits: Mapping[str, int],
    seed: int,
) -> tuple[dict[str, list[_Moment]], Counts]:
    """Choose and count the query times; `seen` is sorted by (user, time, event), `every_user` by user."""
    users, times = seen[Columns.USER_ID].to_numpy(), seen[Columns.TIMESTAMP].to_numpy()
    starts = np.searchsorted(users, every_user[Columns.USER_ID].to_numpy(), side="left").tolist()
    stops = np.searchsorted(users, every_user[Columns.USER_ID].to_numpy(), side="right").tolist()

    found: dict[str, list[_Moment]] = {split: [] for split in SPLITS}
    dropped, left_out = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    largest = dict.fromkeys(SPLITS, 0)
    asked = dict.fromkeys(SPLITS, candidates)
    known_users = zip(*(every_user[name].tolist() for name in every_user.columns), starts, stops, strict=True)
    for user, split, size, last, start, stop in track(
        known_users, description="choosing query times", total=len(every_user)
    ):
        if limits[split] == 0:
            continue
        own = np.arange(start, stop)
        if user in with_query:
            query_times, known, fewest = np.array([last + 1]), np.zeros(1, dtype=np.int64), min(FEWEST, candidates)
        else:
            query_times = np.unique(times[own])
            query_times = query_times[1:] if len(query_times) > 1 else query_times[-1:] + 1
            known = np.searchsorted(times[own], query_times, side="left")
            fewest = candidates
        asked[split] = fewest
        pools = size - known
        largest[split] = max(largest[split], int(pools.max(initial=0)))
        usable = np.flatnonzero(pools >= fewest)
        left_out[split] += len(pools) - len(usable)
        if not usable.size:
            dropped[split] += 1
            continue
        # a generator per user: no other user's data can change the draw; the mask makes negative ids valid seeds
        rng = np.random.default_rng([seed, user & 0xFFFF_FFFF_FFFF_FFFF])
        for turn, at in enumerate(rng.permutation(usable)[:instances_per_user]):
            found[split].append(_Moment(user, int(query_times[at]), turn, rng.random(), own[: known[at]]))
    counts: Counts = {}
    for split in SPLITS:
        if limits[split] > 0 and not found[split]:
            raise InputError(
                f"split {split} has no instance: no user of it has {asked[split]} judged items to choose from "
                f"(the largest pool of its users has {largest[split]}). Lower `candidates`, or use more data."
            )
        first = sorted(found[split], key=lambda moment: (moment.turn, moment.key))[: limits[split]]
        found[split] = sorted(first, key=lambda moment: (moment.user_id, moment.query_time))
        counts[split] = {
            "instances": len(first),
            "users": len({moment.user_id for moment in first}),
            DROPPED: dropped[split],
            "query times left out": left_out[split],
        }
        logger.info(
            "%s: %d instances of %d users; %d users dropped, whose pool is smaller than %d",
            split,
            len(first),
            counts[split]["users"],
            dropped[split],
            asked[split],
        )
    return found, counts


def _refuse_unembedded(table: Table, embedded: Int[np.ndarray, " items"]) -> None:
    used = table.select(Columns.ITEM_ID).distinct().to_pandas()[Columns.ITEM_ID].to_numpy()
    if (missing := np.setdiff1d(used, embedded)).size:
        raise InputError(
            f"item {missing[0]} has interactions but no embedding; embed all items of the same dataset first"
        )


def _pools(table: Table, users: Int[np.ndarray, " n"], rows_of: pd.Index) -> dict[int, Int[np.ndarray, " pool"]]:
    """Row numbers of every judged item, by user."""
    import ibis

    wanted = ibis.memtable(pd.DataFrame({Columns.USER_ID: np.unique(users)}))
    pairs = table.select(Columns.USER_ID, Columns.ITEM_ID).semi_join(wanted, Columns.USER_ID).to_pandas()
    pairs = pairs.sort_values([Columns.USER_ID, Columns.ITEM_ID], ignore_index=True)
    repeated = pairs.duplicated()
    if repeated.any():
        pair = pairs[repeated].iloc[0]
        raise InputError(
            f"observations: user {pair[Columns.USER_ID]} has item {pair[Columns.ITEM_ID]} twice; "
            "keep one interaction per pair, an item of a pool needs one label"
        )
    owners = pairs[Columns.USER_ID].to_numpy()
    rows = rows_of.get_indexer(pd.Index(pairs[Columns.ITEM_ID]))
    bounds = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    return dict(zip(owners[bounds].tolist(), np.split(rows, bounds[1:]), strict=True))


def _audiences(seen: pd.DataFrame, users: pd.DataFrame, rows: Int[np.ndarray, " n"], items: int) -> Audiences:
    """Who took up what, of the observed interactions of training users alone."""
    training = users.loc[users["split"] == SPLITS[0], Columns.USER_ID]
    kept = seen[Columns.USER_ID].isin(training).to_numpy()
    owners, times = seen[Columns.USER_ID].to_numpy(), seen[Columns.TIMESTAMP].to_numpy()
    return Audiences(rows[kept], owners[kept], times[kept], item_count=items)


def _query_vectors(query_embeddings: pd.DataFrame | None, users: list[int]) -> dict[int, Float[np.ndarray, " d"]]:
    known: dict[int, np.ndarray] = {}
    if query_embeddings is not None:
        pairs = zip(query_embeddings[Columns.USER_ID].tolist(), query_embeddings[Columns.EMBEDDING], strict=True)
        known = {user: np.asarray(vector, dtype=np.float32) for user, vector in pairs}
    if missing := [user for user in users if user not in known]:
        raise InputError(f"the query of user {missing[0]} has no embedding; embed all queries of the dataset first")
    return known


def _retrieve(
    requests: Float[np.ndarray, "n d"],
    vectors: Float[np.ndarray, "m d"],
    allowed: list[Int[np.ndarray, " pool"]],
    candidates: int,
    search: SearchSettings,
    score: Score | None,
) -> list[tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]]:
    """Row numbers and cosines of each request's candidates: K of them, or the whole pool of a query with fewer."""
    sizes = np.array([min(candidates, len(pool)) for pool in allowed])
    best: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(allowed)
    for size in np.unique(sizes).tolist():
        places = np.flatnonzero(sizes == size)
        # the searches count the requests of one size from 0
        own = None if score is None else lambda row, pool, places=places: score(int(places[row]), pool)
        found = search_pools(requests[places], vectors, [allowed[place] for place in places], size, search, own)
        for place, rows, scores in zip(places.tolist(), *found, strict=True):
            best[place] = (rows, scores)
    return best
