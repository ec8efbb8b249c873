"""Observed interactions of training users -> what the critic is trained on; no torch.

Leaks are excluded by construction: rows of other users and unobserved rows are dropped in the first line, the context of an
interaction ends strictly before its time, and its item statistics leave its user out.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse

from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import engagement_gain

Gain = Literal["linear", "exponential"]
PARTS = ("fit", "validation", "test")


@dataclass(frozen=True, eq=False)
class ItemEmbeddings:
    """Item embeddings as one matrix, ordered by item id."""

    item_ids: Int[np.ndarray, " m"]
    matrix: Float[np.ndarray, "m d"]

    @classmethod
    def from_table(cls, item_embeddings: pd.DataFrame) -> "ItemEmbeddings":
        """Read the table `item_embeddings`; refuses an empty one, repeated items and ragged or non-finite vectors."""
        if item_embeddings.empty:
            raise InputError("item_embeddings is empty: the critic needs the embedding of every item")
        table = item_embeddings.sort_values(Columns.ITEM_ID)
        item_ids = table[Columns.ITEM_ID].to_numpy(np.int64)
        repeated = item_ids[1:][item_ids[1:] == item_ids[:-1]]
        if len(repeated):
            raise InputError(f"item_embeddings: item {repeated[0]} occurs more than once; keep one row per item")
        sizes = {len(vector) for vector in table[Columns.EMBEDDING]}
        if len(sizes) != 1:
            raise InputError(f"item_embeddings: embeddings have different lengths {sorted(sizes)}")
        matrix = np.stack([np.asarray(vector, dtype=np.float32) for vector in table[Columns.EMBEDDING]])
        bad = ~np.isfinite(matrix).all(axis=1)
        if bad.any():
            raise InputError(f"item_embeddings: the embedding of item {item_ids[bad][0]} is not finite")
        return cls(item_ids, matrix)

    def rows(self, item_ids: Int[np.ndarray, "*shape"], *, table: str) -> Int[np.ndarray, "*shape"]:
        """Row of each item in `matrix`; an item without embedding is an error that names `table`."""
        rows = np.minimum(np.searchsorted(self.item_ids, item_ids), len(self.item_ids) - 1)
        unknown = self.item_ids[rows] != item_ids
        if unknown.any():
            raise InputError(
                f"{table}: item {np.asarray(item_ids)[unknown].ravel()[0]} has no row in item_embeddings; "
                "make the embeddings of the same items again"
            )
        return rows


@dataclass(frozen=True, eq=False)
class CriticExamples:
    """Arrays aligned by example, ordered by event."""

    event_id: Int[np.ndarray, " n"]
    user_id: Int[np.ndarray, " n"]
    candidate: Int[np.ndarray, " n"]
    """Row of the candidate in `embeddings`."""
    history: Float[np.ndarray, "n d"]
    """Unit norm, or zeros without history; float32."""
    statistics: Float[np.ndarray, "n 2"]
    """log(1 + count) and shrunken mean gain of the candidate among other users; float32."""
    target: Float[np.ndarray, " n"]
    """Engagement gain; float32."""
    part: Int[np.ndarray, " n"]
    """Index into `PARTS`."""
    embeddings: Float[np.ndarray, "m d"]
    """Item embeddings; float32."""
    gain: Gain
    """Transform that turned engagement into `target`."""

    def select(self, part: str) -> "CriticExamples":
        """The examples of one part, one of `PARTS`."""
        keep = self.part == PARTS.index(part)
        arrays = ("event_id", "user_id", "candidate", "history", "statistics", "target", "part")
        return replace(self, **{name: getattr(self, name)[keep] for name in arrays})


def history_embeddings(
    items: Int[np.ndarray, "n H"],
    engagements: Float[np.ndarray, "n H"],
    embeddings: Float[np.ndarray, "m d"],
    decay: float,
) -> Float[np.ndarray, "n d"]:
    """Embed histories as STAR embeds its query: `normalise(sum_j w_j * decay^t_j * e_j)`.

    Source: STAR (arXiv 2410.16458), section 3.1; `t_j` counts steps back from the most recent item. A common factor
    disappears in the norm, so counting from 0 or from 1 is the same.

    Args:
        items: Rows of `embeddings`, most recent FIRST; -1 where there is no item.
        engagements: Raw engagement `w_j`, any value where `items` is -1.
        embeddings: Item embeddings.
        decay: Factor per step back, in (0, 1].

    Returns:
        Float32, unit norm; zeros for an empty history or one whose weighted sum vanishes.
    """
    present = items >= 0
    weights = np.where(present, engagements, 0.0) * decay ** np.arange(items.shape[1])
    # a sparse product never materialises the (n, H, d) array
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    mixing = sparse.csr_array(
        (weights[present].astype(np.float32), items[present], indptr), shape=(len(items), len(embeddings))
    )
    summed: np.ndarray = mixing @ embeddings.astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("nd,nd->n", summed, summed))[:, None]
    return np.divide(summed, norms, out=np.zeros_like(summed), where=norms > 1e-12)


def observed_training(observations: pd.DataFrame) -> pd.DataFrame:
    """Observed interactions of training users: the only labels that training may read.

    Ordered by event, whatever the order of the input. An empty result or a non-finite engagement is an error.
    """
    keep = observations[Columns.OBSERVED].to_numpy(bool) & (observations[Columns.SPLIT] == "train").to_numpy()
    observed = observations.loc[keep].sort_values(Columns.EVENT_ID, ignore_index=True)
    if observed.empty:
        raise InputError("observations: no observed interaction of a training user; raise the observed share")
    bad = ~np.isfinite(observed[Columns.ENGAGEMENT].to_numpy(np.float64))
    if bad.any():
        raise InputError(
            f"observations: event {observed[Columns.EVENT_ID][bad].iloc[0]} is observed and has no finite engagement"
        )
    return observed


def build_examples(
    observations: pd.DataFrame, item_embeddings: pd.DataFrame, gain: Gain, settings: CriticSettings
) -> CriticExamples:
    """One example per observed interaction of a training user.

    Context of an interaction: its user's most recent `history_length` observed interactions with a strictly earlier time (ties
    of the second are no context). The split into fit, validation and test is a seeded permutation of the events.

    Args:
        observations: Table `observations`; only observed rows of training users are read.
        item_embeddings: Table `item_embeddings`, covering every observed item.
        gain: Transform of engagement, see `engagement_gain`.
        settings: Context, statistics, shares and seed.

    Raises:
        InputError: No or too few observed training interactions, unknown items, non-finite engagement.
    """
    observed = observed_training(observations)
    if len(observed) < len(PARTS):
        raise InputError(
            f"observations: {len(observed)} observed training interactions cannot be split into {', '.join(PARTS)}; "
            "raise the observed share"
        )
    embeddings = ItemEmbeddings.from_table(item_embeddings)
    users = observed[Columns.USER_ID].to_numpy(np.int64)
    engagement = observed[Columns.ENGAGEMENT].to_numpy(np.float64)
    candidate = embeddings.rows(observed[Columns.ITEM_ID].to_numpy(np.int64), table="observations")
    target = engagement_gain(engagement, gain)
    context = _previous_rows(users, observed[Columns.TIMESTAMP].to_numpy(np.int64), settings.history_length)
    history = history_embeddings(
        np.where(context >= 0, candidate[context], -1), engagement[context], embeddings.matrix, settings.decay
    )
    statistics = item_statistics(candidate, users, candidate, users, target, settings.statistics_strength)
    return CriticExamples(
        event_id=observed[Columns.EVENT_ID].to_numpy(np.int64),
        user_id=users,
        candidate=candidate,
        history=history,
        statistics=statistics.astype(np.float32),
        target=target.astype(np.float32),
        part=_split(len(observed), settings),
        embeddings=embeddings.matrix,
        gain=gain,
    )


def _previous_rows(users: Int[np.ndarray, " n"], times: Int[np.ndarray, " n"], length: int) -> Int[np.ndarray, "n H"]:
    """Rows of the same user's `length` latest strictly earlier interactions, most recent first; -1 for none."""
    rows = np.arange(len(users))
    # rows come in the order of events, which settles ties of the second
    order = np.lexsort((rows, times, users))
    new_user = np.concatenate([[True], users[order][1:] != users[order][:-1]])
    new_time = new_user | np.concatenate([[True], times[order][1:] != times[order][:-1]])
    user_start = np.maximum.accumulate(np.where(new_user, rows, 0))
    tie_start = np.maximum.accumulate(np.where(new_time, rows, 0))
    places = tie_start[:, None] - 1 - np.arange(length)
    context = np.empty((len(users), length), dtype=np.int64)
    context[order] = np.where(places >= user_start[:, None], order[places], -1)
    return context


def _split(count: int, settings: CriticSettings) -> Int[np.ndarray, " n"]:
    """Part of each example; validation and test get at least one."""
    order = np.random.default_rng(settings.seed).permutation(count)
    held_out = [max(1, round(share * count)) for share in settings.shares[1:]]
    part = np.zeros(count, dtype=np.int8)
    part[order[: held_out[0]]] = 1
    part[order[held_out[0] : sum(held_out)]] = 2
    return part
