"""Observed interactions of training users -> what the critic is trained on; no torch.

Leaks are excluded by construction: unobserved rows and rows of other users are dropped in the first line, the context
of an interaction ends strictly before its time, and its item statistics leave its own user out.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse

from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.settings import CriticSettings
from flexrec.critic.taste import Histories, Observed, taste
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain

logger = logging.getLogger(__name__)

PARTS = ("fit", "validation", "test")
_LARGEST_GAIN = 1e30  # of what can be standardised in float32


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Embeddings as one matrix, ordered by id: of the items, or of the texts of queries."""

    item_ids: Int[np.ndarray, " m"]
    matrix: Float[np.ndarray, "m d"]
    """Float32."""

    @classmethod
    def of(
        cls, embeddings: pd.DataFrame, *, table: str = "item_embeddings", key: str = Columns.ITEM_ID
    ) -> "ItemVectors":
        """Read the table `item_embeddings`, or another of its kind with its name and the column of its ids.

        Raises:
            InputError: No row, an id twice, or embeddings of different lengths or with values that are not finite.
        """
        if embeddings.empty:
            raise InputError(f"{table} is empty; make the embeddings first")
        what = key.removesuffix("_id")
        rows = embeddings.sort_values(key)
        ids = rows[key].to_numpy(np.int64)
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise InputError(f"{table}: {what} {twice[0]} occurs more than once; keep one row per {what}")
        vectors = [np.asarray(vector, dtype=np.float32) for vector in rows[Columns.EMBEDDING]]
        sizes = sorted({len(vector) for vector in vectors})
        if len(sizes) > 1:
            raise InputError(f"{table}: embeddings have different lengths {sizes}; make the table again")
        matrix = np.stack(vectors)
        finite = np.isfinite(matrix).all(axis=1)
        if not finite.all():
            raise InputError(f"{table}: the embedding of {what} {ids[~finite][0]} is not finite")
        return cls(ids, matrix)

    def rows(self, item_ids: Int[np.ndarray, " n"], *, table: str) -> Int[np.ndarray, " n"]:
        """Row of each item in `matrix`.

        Raises:
            InputError: An item without embedding; the message names `table`, where it comes from.
        """
        rows = np.minimum(np.searchsorted(self.item_ids, item_ids), len(self.item_ids) - 1)
        unknown = self.item_ids[rows] != item_ids
        if unknown.any():
            raise InputError(
                f"{table}: item {item_ids[unknown][0]} has no row in item_embeddings; embed the same items again"
            )
        return rows


@dataclass(frozen=True, eq=False)
class CriticExamples:
    """One row per observed training interaction, ordered by event."""

    event_id: Int[np.ndarray, " n"]
    user_id: Int[np.ndarray, " n"]
    candidate: Int[np.ndarray, " n"]
    """Row of the candidate in `embeddings`."""
    history: Float[np.ndarray, "n d"]
    """Float32; unit norm, or zeros without history."""
    statistics: Float[np.ndarray, "n s"]
    """Float32; `item_statistics` of the candidate, and its `taste` if asked for."""
    target: Float[np.ndarray, " n"]
    """Float32; engagement gain."""
    part: Int[np.ndarray, " n"]
    """Index into `PARTS`."""
    embeddings: Float[np.ndarray, "m d"]
    """Float32; of all items."""
    gain: GainKind
    """What turned engagement into `target`."""

    def rows(self, part: str) -> Int[np.ndarray, " k"]:
        """Rows of one of `PARTS`, ascending."""
        return np.flatnonzero(self.part == PARTS.index(part))

    def select(self, part: str) -> "CriticExamples":
        """A copy with the examples of one of `PARTS`."""
        rows = self.rows(part)
        aligned = ("event_id", "user_id", "candidate", "history", "statistics", "target", "part")
        return replace(self, **{name: getattr(self, name)[rows] for name in aligned})


def build_examples(
    observations: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    gain: GainKind,
    settings: CriticSettings,
    *,
    seed: int,
    query_embeddings: pd.DataFrame | None = None,
) -> CriticExamples:
    """Make one example of every observed interaction of a training user.

    Its context is its user's most recent `history_length` observed interactions with a strictly earlier time; what
    falls into the same second is no context. A user that is a query has the query's text as its context instead. The
    split into fit, validation and test is a permutation of the events. The item statistics of an example are of the
    examples before it in that permutation: of all others they would tell, by what they lack, the example's own label
    (CatBoost, arXiv 1706.09516, section 3.2), and those that the critic is measured on.

    Args:
        observations: Table `observations`; only observed rows of training users are read.
        item_embeddings: Table `item_embeddings`, with every observed item.
        gain: How engagement becomes gain.
        settings: Context, statistics and shares.
        seed: Seed of the split, and of the draw where there are more than `max_interactions`; >= 0.
        query_embeddings: Table `query_embeddings`: user_id, embedding; None or empty where no user is a query.

    Raises:
        InputError: Too few observed training interactions, one without finite engagement, or an item without embedding.
    """
    observed = observed_training(observations)
    if len(observed) < len(PARTS):
        raise InputError(
            f"observations: {len(observed)} observed interactions of training users cannot be split into "
            f"{', '.join(PARTS)}; raise the density"
        )
    vectors = ItemVectors.of(item_embeddings)
    users = observed[Columns.USER_ID].to_numpy(np.int64)
    engagement = observed[Columns.ENGAGEMENT].to_numpy(np.float64)
    item = vectors.rows(observed[Columns.ITEM_ID].to_numpy(np.int64), table="observations")
    gains = engagement_gain(engagement, gain)
    if (largest := float(gains.max())) > _LARGEST_GAIN:
        row = int(gains.argmax())
        raise InputError(
            f"observations: event {observed[Columns.EVENT_ID].iloc[row]} has engagement {engagement[row]:g}, "
            f"an {gain} gain of {largest:.3g}, which is too large for the critic; set the dataset's gain to linear"
        )
    rows = _drawn(len(observed), settings.max_interactions, seed)
    part, turns = _split(len(rows), settings.shares, seed)
    context = _earlier_rows(users, observed[Columns.TIMESTAMP].to_numpy(np.int64), settings.history_length, rows)
    history = history_embeddings(
        np.where(context >= 0, item[context], -1), engagement[context], vectors.matrix, settings.decay
    )
    # what nothing is fitted to comes first, and what it is measured on comes last
    turn = np.zeros(len(observed), dtype=np.int64)
    turn[rows] = turns
    fitted = np.ones(len(observed), dtype=bool)
    fitted[rows] = part == PARTS.index("fit")
    statistics = item_statistics(
        item[rows], users[rows], item, users, gains, settings.statistics_strength,
        turns=turn, query_turns=turns, mean=float(gains[fitted].mean()),
    )  # fmt: skip
    if settings.taste is not None:
        histories = Histories(np.where(context >= 0, item[context], -1), gains[context])
        known = Observed(users[fitted], item[fitted], gains[fitted])
        predicted = taste(users[rows], histories, np.arange(len(rows)), item[rows], known, settings.taste)
        statistics = np.column_stack([statistics, predicted])
    return CriticExamples(
        event_id=observed[Columns.EVENT_ID].to_numpy(np.int64)[rows],
        user_id=users[rows],
        candidate=item[rows],
        history=with_queries(history, users[rows], query_embeddings),
        statistics=statistics.astype(np.float32),
        target=gains[rows].astype(np.float32),
        part=part,
        embeddings=vectors.matrix,
        gain=gain,
    )


def with_queries(
    history: Float[np.ndarray, "n d"], users: Int[np.ndarray, " n"], query_embeddings: pd.DataFrame | None
) -> Float[np.ndarray, "n d"]:
    """Put the embedding of the query's text in place of the history of every user that is a query.

    Args:
        history: Float32 history embeddings; overwritten in place.
        users: User of each row.
        query_embeddings: Table `query_embeddings`; None or empty where no user is a query.

    Returns:
        `history`.

    Raises:
        InputError: Query embeddings of another length than the items', or as `ItemVectors.of`.
    """
    if query_embeddings is None or query_embeddings.empty:
        return history
    queries = ItemVectors.of(query_embeddings, table="query_embeddings", key=Columns.USER_ID)
    if queries.matrix.shape[1] != history.shape[1]:
        raise InputError(
            f"query_embeddings have {queries.matrix.shape[1]} dimensions, item_embeddings {history.shape[1]}; "
            "embed both with the same embedder"
        )
    places = np.minimum(np.searchsorted(queries.item_ids, users), len(queries.item_ids) - 1)
    asks = queries.item_ids[places] == users
    history[asks] = queries.matrix[places[asks]]
    return history


def observed_training(observations: pd.DataFrame) -> pd.DataFrame:
    """Observed interactions of training users, the only labels that training may read, ordered by event.

    Raises:
        InputError: There is none, or one has no finite engagement.
    """
    keep = observations[Columns.OBSERVED].to_numpy(bool) & (observations[Columns.SPLIT] == "train").to_numpy(bool)
    observed = observations.loc[keep].sort_values(Columns.EVENT_ID, ignore_index=True)
    if observed.empty:
        raise InputError("observations: no interaction of a training user is observed; raise the density")
    finite = np.isfinite(observed[Columns.ENGAGEMENT].to_numpy(np.float64))
    if not finite.all():
        raise InputError(
            f"observations: event {observed.loc[~finite, Columns.EVENT_ID].iloc[0]} is observed but its engagement is "
            "not finite; repair or drop the row"
        )
    return observed


def history_embeddings(
    items: Int[np.ndarray, "n H"],
    engagements: Float[np.ndarray, "n H"],
    embeddings: Float[np.ndarray, "m d"],
    decay: float,
) -> Float[np.ndarray, "n d"]:
    r"""Embed many histories at once, each as STAR embeds its query, weighted by engagement.

    .. math:: q = \frac{\sum_j w_j \gamma^{t_j} e_j}{\lVert \sum_j w_j \gamma^{t_j} e_j \rVert}

    Source: STAR (arXiv 2410.16458), section 3.2. `t_j` counts steps back from the most recent item; counting from 0 or
    from 1 is the same after the norm. Unlike the retriever's query, a history points away from what has a negative
    engagement.

    Args:
        items: Rows of `embeddings`, most recent *first*; -1 where there is none.
        engagements: Raw engagement `w_j`; not read where there is no item.
        embeddings: Item embeddings.
        decay: `gamma`, in (0, 1].

    Returns:
        Float32, unit norm; zeros for an empty history, or where the sum vanishes.
    """
    present = items >= 0
    weights = np.where(present, engagements, 0.0) * decay ** np.arange(items.shape[1])
    # a sparse product, because an (n, H, d) array of half a million examples would not fit into memory
    starts = np.concatenate([[0], present.sum(axis=1).cumsum()])
    mixing = sparse.csr_array(
        (weights[present].astype(np.float32), items[present], starts), shape=(len(items), len(embeddings))
    )
    summed: np.ndarray = mixing @ embeddings.astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("nd,nd->n", summed, summed))[:, None]
    return np.divide(summed, norms, out=summed, where=norms > 0)


def _earlier_rows(
    users: Int[np.ndarray, " n"], times: Int[np.ndarray, " n"], length: int, wanted: Int[np.ndarray, " m"]
) -> Int[np.ndarray, "m H"]:
    """Rows of the same user's `length` latest interactions before each wanted one's time, latest first, -1 for none."""
    rows = np.arange(len(users))
    # rows come in the order of events, which settles the order within a second
    order = np.lexsort((rows, times, users))
    new_user = np.r_[True, users[order][1:] != users[order][:-1]]
    new_time = new_user | np.r_[True, times[order][1:] != times[order][:-1]]
    user_start = np.maximum.accumulate(np.where(new_user, rows, 0))
    time_start = np.maximum.accumulate(np.where(new_time, rows, 0))
    place = np.empty(len(users), dtype=np.int64)
    place[order] = rows
    # of those that are asked for alone: histories of all would be gigabytes
    at = place[wanted]
    places = time_start[at][:, None] - 1 - np.arange(length)
    return np.where(places >= user_start[at][:, None], order[np.maximum(places, 0)], -1)


def _drawn(count: int, limit: int | None, seed: int) -> Int[np.ndarray, " n"]:
    """The rows to learn from, ascending: all, or `limit` of them."""
    if limit is None or count <= limit:
        return np.arange(count)
    logger.info("critic: learns from %d of %d observed interactions of training users", limit, count)
    # a stream of its own, so that the split stays what it is without a limit
    return np.sort(np.random.default_rng([seed, 1]).choice(count, limit, replace=False))


def _split(
    count: int, shares: tuple[float, float, float], seed: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Part of each example, as an index into `PARTS`, and its turn from 1 on: fit, then validation, then test.

    Validation and test get at least one.
    """
    validation, test = (max(1, round(share * count)) for share in shares[1:])
    part = np.zeros(count, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(count)
    part[order[:validation]] = PARTS.index("validation")
    part[order[validation : validation + test]] = PARTS.index("test")
    turns = np.empty(count, dtype=np.int64)
    turns[np.concatenate([order[validation + test :], order[: validation + test]])] = np.arange(1, count + 1)
    return part, turns
