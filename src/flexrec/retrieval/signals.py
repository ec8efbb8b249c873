"""The signals of every candidate as of its query time, and the labels behind them.

What may count is decided once, here: popularity and quality are made of observed interactions of training users
before the query time (without the user's own, for training instances); the trend is a count of everybody else's
interactions, as a platform knows it, and no label: the user's own would show which candidates it took up unobserved.
Labels of unobserved interactions, and any label of a validation or test user, appear in `true_labels` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.ranking.columns import SPLITS, Columns

DAY = 86_400


class LabelSettings(Settings):
    """How signals are made."""

    quality_strength: float = Field(5.0, gt=0, description="Prior observations in an item's shrunken mean")


class AsOf:
    """Counts and sums per group of everything strictly before a time.

    Sums restart with every group, so that a value depends on earlier values of its own group alone, to the last bit.
    """

    def __init__(
        self,
        groups: Int[np.ndarray, " n"],
        times: Int[np.ndarray, " n"],
        values: Float[np.ndarray, " n"] | None = None,
    ) -> None:
        """Sort once. `groups` are codes from 0; equal times keep the order given; without values only counts work."""
        order = np.lexsort((times, groups))
        groups, times = groups[order], times[order]
        self._low = int(times.min()) if times.size else 0
        self._span = int(times.max()) - self._low + 2 if times.size else 1
        # one sortable integer per (group, time)
        self._keys = groups.astype(np.int64) * self._span + (times - self._low)
        if values is not None:
            bounds = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if groups.size else groups
            self._sums = np.concatenate([np.cumsum(part) for part in np.split(values[order], bounds[1:])])

    def count(self, groups: Int[np.ndarray, " m"], times: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Return how many entries of the group lie before the time."""
        first, end = self._range(groups, times)
        return end - first

    def sum(self, groups: Int[np.ndarray, " m"], times: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Return the sum of the group's values before the time."""
        first, end = self._range(groups, times)
        if not self._sums.size:
            return np.zeros(len(end))
        return np.where(end > first, self._sums[np.maximum(end - 1, 0)], 0.0)

    def _range(self, groups: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = groups.astype(np.int64) * self._span
        offsets = np.clip(times - self._low, 0, self._span - 1)
        return np.searchsorted(self._keys, starts, side="left"), np.searchsorted(
            self._keys, starts + offsets, side="left"
        )


def label_signals(
    instances: pd.DataFrame,
    observations: pd.DataFrame,
    items: pd.DataFrame,
    *,
    trend_window_days: float,
    quality_strength: float,
    quality_midpoint: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shuffle each instance's candidates and give every one its signals.

    - similarity: the retriever's cosine.
    - niche: 1 if the item has topics and none of them is among those of the history's items.
    - trend: interactions of the item with T - window <= timestamp < T, of all other users, observed or not.
    - popularity: observed interactions of the item before T, of training users.
    - quality: (sum + strength * m) / (count + strength) over the same interactions, m the mean of all such interactions
      before T, or `quality_midpoint` where there is none.
    - observed_engagement: the label where it is observed, training instances only, else NaN.

    Args:
        instances: As `build_instances` makes them.
        observations: The common table with `observed` and `split`.
        items: The common table.
        trend_window_days: Window of the trend in days, above 0.
        quality_strength: Pseudo-count of the prior, above 0.
        quality_midpoint: Prior where nothing is observed yet, on the scale of the engagement.
        seed: Of the shuffles; each instance has its own generator.

    Returns:
        labelled_instances, and true_labels (validation and test only), aligned with the shuffled candidates.

    Raises:
        InputError: A setting out of range, an unknown candidate, or a candidate without a label.
    """
    if trend_window_days <= 0 or quality_strength <= 0:
        raise InputError(
            f"trend_window_days and quality_strength must be above 0, got {trend_window_days} and {quality_strength}"
        )
    events = _Events.of(observations, items)
    flat = _Candidates.of(instances, events, seed)
    everyone = AsOf(events.items, events.times)
    window = round(trend_window_days * DAY)
    taken = events.times[flat.pairs]
    own_recent = (taken >= flat.times - window) & (taken < flat.times)
    trend = everyone.count(flat.items, flat.times) - everyone.count(flat.items, flat.times - window) - own_recent

    counted = events.observed & events.training
    times, values = events.times[counted], events.values[counted]
    by_item = AsOf(events.items[counted], times, values)
    by_user = AsOf(events.users[counted], times, values)
    overall = AsOf(np.zeros(len(values), dtype=np.int64), times, values)
    label = events.values[flat.pairs]
    observed = events.observed[flat.pairs]
    # a training user's own interactions count for others, never for itself
    own = flat.training & observed & (events.times[flat.pairs] < flat.times)
    popularity = by_item.count(flat.items, flat.times) - own
    item_sum = by_item.sum(flat.items, flat.times) - np.where(own, label, 0.0)
    only = np.zeros(len(flat.items), dtype=np.int64)
    total = overall.count(only, flat.times) - flat.training * by_user.count(flat.users, flat.times)
    total_sum = overall.sum(only, flat.times) - flat.training * by_user.sum(flat.users, flat.times)
    prior = np.where(total > 0, total_sum / np.maximum(total, 1), quality_midpoint)
    quality = (item_sum + quality_strength * prior) / (popularity + quality_strength)

    columns: dict[str, np.ndarray] = {
        Columns.CANDIDATES: events.item_ids.to_numpy()[flat.items],
        Columns.SIMILARITY: flat.similarity,
        Columns.NICHE: _niche(instances, items, events, flat),
        Columns.TREND: trend,
        Columns.POPULARITY: popularity,
        Columns.QUALITY: quality,
        Columns.OBSERVED_ENGAGEMENT: np.where(flat.training & observed, label, np.nan),
    }
    kept = [Columns.INSTANCE_ID, Columns.USER_ID, Columns.SPLIT, Columns.QUERY_TIME]
    labelled = instances[[*kept, Columns.HISTORY_ITEMS, Columns.HISTORY_ENGAGEMENTS]].reset_index(drop=True)
    for name, column in columns.items():
        labelled[name] = flat.lists(column)
    held_out = (labelled[Columns.SPLIT] != SPLITS[0]).to_numpy()
    true_labels = pd.DataFrame(
        {Columns.INSTANCE_ID: labelled[Columns.INSTANCE_ID], Columns.ENGAGEMENT: flat.lists(label)}
    )
    return labelled, true_labels[held_out].reset_index(drop=True)


def trend_coverage(
    instances: pd.DataFrame, observations: pd.DataFrame, days: Sequence[float] = (1, 7)
) -> dict[float, float]:
    """Return, for each window in days, the share of candidates that another user took up within it before the query."""
    items = pd.Index(np.unique(observations[Columns.ITEM_ID].to_numpy()))
    everyone = AsOf(items.get_indexer(observations[Columns.ITEM_ID]), observations[Columns.TIMESTAMP].to_numpy())
    sizes = instances[Columns.CANDIDATES].map(len).to_numpy()
    ids = np.concatenate([np.asarray(row) for row in instances[Columns.CANDIDATES]])
    users = np.repeat(instances[Columns.USER_ID].to_numpy(), sizes)
    codes = items.get_indexer(ids)
    times = np.repeat(instances[Columns.QUERY_TIME].to_numpy(), sizes)
    taken = observations.set_index([Columns.USER_ID, Columns.ITEM_ID])[Columns.TIMESTAMP]
    own = taken.reindex(pd.MultiIndex.from_arrays([users, ids])).to_numpy(dtype=np.float64)
    # an item that nobody ever touched has no group and no count
    known, last = codes >= 0, everyone.count(np.maximum(codes, 0), times)
    shares = {}
    for window in days:
        start = times - round(window * DAY)
        recent = last - everyone.count(np.maximum(codes, 0), start) - ((own >= start) & (own < times))
        shares[window] = float(np.mean(known & (recent > 0)))
    return shares


@dataclass(frozen=True)
class _Events:
    """The observations in event order, with users and items as codes from 0."""

    user_ids: pd.Index
    item_ids: pd.Index
    users: Int[np.ndarray, " n"]
    items: Int[np.ndarray, " n"]
    times: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    observed: Bool[np.ndarray, " n"]
    training: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, observations: pd.DataFrame, items: pd.DataFrame) -> "_Events":
        table = observations.sort_values(Columns.EVENT_ID, kind="stable", ignore_index=True)
        user_ids = pd.Index(np.unique(table[Columns.USER_ID].to_numpy()))
        item_ids = pd.Index(items[Columns.ITEM_ID])
        codes = item_ids.get_indexer(table[Columns.ITEM_ID])
        if (unknown := np.flatnonzero(codes < 0)).size:
            raise InputError(f"observations: item {table[Columns.ITEM_ID].iloc[unknown[0]]} is not in the items table")
        return cls(
            user_ids=user_ids,
            item_ids=item_ids,
            users=user_ids.get_indexer(table[Columns.USER_ID]),
            items=codes,
            times=table[Columns.TIMESTAMP].to_numpy(),
            values=table[Columns.ENGAGEMENT].to_numpy(dtype=np.float64),
            observed=table[Columns.OBSERVED].to_numpy(),
            training=(table[Columns.SPLIT] == SPLITS[0]).to_numpy(),
        )


@dataclass(frozen=True)
class _Candidates:
    """All candidates of all instances, shuffled, one row each; users and items as the codes of the events."""

    ends: Int[np.ndarray, " instances"]
    rows: Int[np.ndarray, " m"]
    users: Int[np.ndarray, " m"]
    items: Int[np.ndarray, " m"]
    times: Int[np.ndarray, " m"]
    training: Bool[np.ndarray, " m"]
    similarity: Float[np.ndarray, " m"]
    pairs: Int[np.ndarray, " m"]

    @classmethod
    def of(cls, instances: pd.DataFrame, events: _Events, seed: int) -> "_Candidates":
        candidates, similarities = [], []
        for instance_id, ids, cosines in zip(
            instances[Columns.INSTANCE_ID], instances[Columns.CANDIDATES], instances[Columns.SIMILARITIES], strict=True
        ):
            order = np.random.default_rng([seed, int(instance_id)]).permutation(len(ids))
            candidates.append(np.asarray(ids, dtype=np.int64)[order])
            similarities.append(np.asarray(cosines, dtype=np.float64)[order])
        sizes = np.array([len(ids) for ids in candidates], dtype=np.int64)
        rows = np.repeat(np.arange(len(instances)), sizes)
        ids = np.concatenate(candidates)
        items = events.item_ids.get_indexer(pd.Index(ids))
        users = events.user_ids.get_indexer(pd.Index(instances[Columns.USER_ID]))[rows]

        keys = events.users.astype(np.int64) * len(events.item_ids) + events.items
        order = np.argsort(keys, kind="stable")
        wanted = users.astype(np.int64) * len(events.item_ids) + items
        pairs = order[np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)]
        bad = np.flatnonzero((items < 0) | (users < 0) | (keys[pairs] != wanted))
        if bad.size:
            row = instances.iloc[rows[bad[0]]]
            raise InputError(
                f"instance {row[Columns.INSTANCE_ID]}: candidate {ids[bad[0]]} has no label of user "
                f"{row[Columns.USER_ID]}; instances, observations and items must come from the same dataset"
            )
        return cls(
            ends=np.cumsum(sizes),
            rows=rows,
            users=users,
            items=items,
            times=instances[Columns.QUERY_TIME].to_numpy()[rows],
            training=(instances[Columns.SPLIT] == SPLITS[0]).to_numpy()[rows],
            similarity=np.concatenate(similarities),
            pairs=pairs,
        )

    def lists(self, column: np.ndarray) -> list[list[float]]:
        """Cut a flat column into one list per instance."""
        return [part.tolist() for part in np.split(column, self.ends[:-1])]


def _niche(instances: pd.DataFrame, items: pd.DataFrame, events: _Events, flat: _Candidates) -> Int[np.ndarray, " m"]:
    topics = [frozenset(names) for names in items[Columns.TOPICS]]
    places = {int(item): place for place, item in enumerate(events.item_ids)}
    known = [
        frozenset[str]().union(*(topics[places[int(item)]] for item in history))
        for history in instances[Columns.HISTORY_ITEMS]
    ]
    return np.array(
        [
            int(bool(topics[item]) and topics[item].isdisjoint(known[row]))
            for item, row in zip(flat.items.tolist(), flat.rows.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
