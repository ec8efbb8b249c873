"""Which items are taken up by the same users: the collaborative half of STAR (arXiv 2410.16458)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from flexrec.ranking.columns import SPLITS, Columns
from flexrec.retrieval.star import Score, StarSettings, star_scores, star_weights


class Audiences:
    """The users who took up each item, from observed interactions of training users."""

    def __init__(
        self,
        items: Int[np.ndarray, " n"],
        users: Int[np.ndarray, " n"],
        times: Int[np.ndarray, " n"],
        *,
        item_count: int,
    ) -> None:
        """Sort once.

        Args:
            items: Row number of each interaction's item, from 0.
            users: Its user; any integers, at most one interaction per pair.
            times: Its time.
            item_count: Number of items, with or without interactions.
        """
        order = np.argsort(items, kind="stable")
        self.user_ids, codes = np.unique(users, return_inverse=True)
        self._users, self._times = codes[order], times[order]
        counts = np.bincount(items, minlength=item_count)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    @classmethod
    def of(cls, observations: pd.DataFrame, item_ids: Int[np.ndarray, " m"]) -> Audiences:
        """Read the observed interactions of training users from the table `observations`; all others do not count.

        Args:
            observations: The table.
            item_ids: The item of each row number; interactions with other items do not count.
        """
        keep = observations[Columns.OBSERVED].to_numpy(bool) & (observations[Columns.SPLIT] == SPLITS[0]).to_numpy(bool)
        rows = pd.Index(item_ids).get_indexer(observations[Columns.ITEM_ID])
        keep &= rows >= 0
        return cls(
            rows[keep],
            observations[Columns.USER_ID].to_numpy(np.int64)[keep],
            observations[Columns.TIMESTAMP].to_numpy(np.int64)[keep],
            item_count=len(item_ids),
        )

    def cosines(
        self,
        candidates: Int[np.ndarray, " p"],
        history: Int[np.ndarray, " H"],
        *,
        user: int,
        before: int | None = None,
    ) -> Float[np.ndarray, "p H"]:
        r"""Cosine of candidates and history items as vectors of users, 1 for who took the item up.

        .. math:: R_C(x, j) = |U_x \cap U_j| / \sqrt{|U_x| |U_j|}

        Source: STAR (arXiv 2410.16458), section 3.1. The asking user is in no `U`: its own interactions would tell
        which candidates it took up.

        Args:
            candidates: Row numbers of the candidates.
            history: Row numbers of the history items.
            user: Who asks.
            before: Count only what happened before this time; None: all times.

        Returns:
            In [0, 1]; 0 for an item that nobody else took up.
        """
        members = np.zeros((len(history), len(self.user_ids)), dtype=bool)
        for row, item in enumerate(history):
            part = slice(self._starts[item], self._ends[item])
            users = self._users[part]
            members[row, users[self._counts(users, self._times[part], user, before)]] = True
        sizes = (self._ends - self._starts)[candidates]
        # all interactions of all candidates in a row
        firsts = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(self._starts[candidates] - firsts, sizes)
        rows = np.repeat(np.arange(len(candidates)), sizes)
        counting = self._counts(self._users[places], self._times[places], user, before)
        rows, users = rows[counting], self._users[places[counting]]
        own = np.bincount(rows, minlength=len(candidates)).astype(np.float64)
        shared = np.zeros((len(candidates), len(history)))
        for column, member in enumerate(members):
            shared[:, column] = np.bincount(rows[member[users]], minlength=len(candidates))
        norms = np.sqrt(own[:, None] * members.sum(axis=1)[None, :])
        return np.divide(shared, norms, out=np.zeros(shared.shape), where=norms > 0)

    def _counts(
        self, users: Int[np.ndarray, " n"], times: Int[np.ndarray, " n"], user: int, before: int | None
    ) -> Bool[np.ndarray, " n"]:
        at = np.searchsorted(self.user_ids, user)
        known = at < len(self.user_ids) and self.user_ids[at] == user
        keep = users != at if known else np.ones(len(users), dtype=bool)
        return keep if before is None else keep & (times < before)


@dataclass(frozen=True)
class Request:
    """What a score of an instance's pool is made of."""

    user: int
    time: int
    query: Float[np.ndarray, " d"]
    """Unit norm; what counts where there is no history."""
    history: Int[np.ndarray, " H"]
    """Row numbers of the history items, oldest first."""
    engagements: Float[np.ndarray, " H"]


def collaborative_score(
    audiences: Audiences, items: Float[np.ndarray, "m d"], requests: Sequence[Request], settings: StarSettings
) -> Score:
    """Scores of pools in text and in audience, as of each request's time, for `star.top_k`.

    Args:
        audiences: Of the same rows as `items`.
        items: Unit-norm embeddings.
        requests: By the number of the query.
        settings: Decay, weights and the collaborative share.
    """

    def score(row: int, pool: Int[np.ndarray, " pool"]) -> Float[np.ndarray, " pool"]:
        asked = requests[row]
        if not len(asked.history):
            return items[pool] @ asked.query
        weights = star_weights(len(asked.history), settings, asked.engagements)
        shared = audiences.cosines(pool, asked.history, user=asked.user, before=asked.time)
        return star_scores(items[pool] @ items[asked.history].T, shared, weights, settings.collaborative)

    return score
