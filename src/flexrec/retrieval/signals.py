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
from flexrec.sources.sparsify import observed_training_rows
from flexrec.tabular import DAY, Table, as_table

DAYS_PER_YEAR = 365.2425
NEVER = 2**62
"""A time after all others."""


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
    observations: Table | pd.DataFrame,
    items: pd.DataFrame,
    *,
    trend_window_days: float,
    quality_strength: float,
    quality_midpoint: float,
    seed: int,
    daily_counts: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shuffle each instance's candidates and give every one its signals.

    - similarity: the retriever's cosine.
    - niche: 1 if the item has topics and none of them is among those of the history's items.
    - trend: interactions of the item with T - window <= timestamp < T, of all other users, observed or not. Where the
      platform's own daily counts are given, their sum over the days that end within (T - window, T].
    - popularity: observed interactions of the item before T, of training users.
    - quality: (sum + strength * m) / (count + strength) over the same interactions, m the mean of all such interactions
      before T, or `quality_midpoint` where there is none.
    - recency: 1 / (1 + age), the age at T in years, at least 0; 0 where the year is unknown.
    - observed_engagement: the label where it is observed, training instances only, else NaN.

    Of the observations, those of training users that are observed, the candidates' own, and counts come into memory.

    Args:
        instances: As `build_instances` makes them.
        observations: The common table with `observed` and `split`.
        items: The common table.
        trend_window_days: Window of the trend in days, above 0.
        quality_strength: Pseudo-count of the prior, above 0.
        quality_midpoint: Prior where nothing is observed yet, on the scale of the engagement.
        seed: Of the shuffles; each instance has its own generator.
        daily_counts: The common table; without rows, or None, the trend counts interactions.

    Returns:
        labelled_instances, and true_labels (validation and test only), aligned with the shuffled candidates.

    Raises:
        InputError: A setting out of range, a window of parts of days over daily counts, an unknown candidate, or a
            candidate without a label.
    """
    if trend_window_days <= 0 or quality_strength <= 0:
        raise InputError(
            f"trend_window_days and quality_strength must be above 0, got {trend_window_days} and {quality_strength}"
        )
    if daily_counts is not None and len(daily_counts) and not float(trend_window_days).is_integer():
        raise InputError(
            f"trend_window_days {trend_window_days:g}: the platform counts its plays by the day, so the window has to "
            "be a whole number of days"
        )
    table = as_table(observations)
    _refuse_unknown_items(table, items)
    flat = _Candidates.of(instances, table, seed)
    item_ids = pd.Index(items[Columns.ITEM_ID])
    places = item_ids.get_indexer(pd.Index(flat.items))
    recent = _counts_within(flat, table, [trend_window_days], daily_counts)[:, 0]

    counted = observed_training_rows(table)
    user_ids = pd.Index(np.union1d(counted[Columns.USER_ID], flat.users))
    users = user_ids.get_indexer(pd.Index(flat.users))
    times, values = counted[Columns.TIMESTAMP].to_numpy(), counted[Columns.ENGAGEMENT].to_numpy(dtype=np.float64)
    by_item = AsOf(item_ids.get_indexer(counted[Columns.ITEM_ID]), times, values)
    by_user = AsOf(user_ids.get_indexer(counted[Columns.USER_ID]), times, values)
    overall = AsOf(np.zeros(len(values), dtype=np.int64), times, values)
    # a training user's own interactions count for others, never for itself
    own = flat.training & flat.observed & (flat.taken < flat.times)
    popularity = by_item.count(places, flat.times) - own
    item_sum = by_item.sum(places, flat.times) - np.where(own, flat.label, 0.0)
    only = np.zeros(len(flat.items), dtype=np.int64)
    total = overall.count(only, flat.times) - flat.training * by_user.count(users, flat.times)
    total_sum = overall.sum(only, flat.times) - flat.training * by_user.sum(users, flat.times)
    prior = np.where(total > 0, total_sum / np.maximum(total, 1), quality_midpoint)
    quality = (item_sum + quality_strength * prior) / (popularity + quality_strength)

    columns: dict[str, np.ndarray] = {
        Columns.CANDIDATES: flat.items,
        Columns.SIMILARITY: flat.similarity,
        Columns.NICHE: _niche(instances, items, places, flat),
        Columns.TREND: recent,
        Columns.POPULARITY: popularity,
        Columns.QUALITY: quality,
        Columns.RECENCY: recency(items[Columns.RELEASED].to_numpy(dtype=np.float64)[places], flat.times),
        Columns.OBSERVED_ENGAGEMENT: np.where(flat.training & flat.observed, flat.label, np.nan),
    }
    kept = [Columns.INSTANCE_ID, Columns.USER_ID, Columns.SPLIT, Columns.QUERY_TIME, Columns.QUERY]
    labelled = instances[[*kept, Columns.HISTORY_ITEMS, Columns.HISTORY_ENGAGEMENTS]].reset_index(drop=True)
    for name, column in columns.items():
        labelled[name] = flat.lists(column)
    # an array keeps its type on disk, also where no label of the whole table is known
    labels = [np.asarray(row) for row in labelled[Columns.OBSERVED_ENGAGEMENT]]
    labelled[Columns.OBSERVED_ENGAGEMENT] = pd.Series(labels, dtype=object)
    held_out = (labelled[Columns.SPLIT] != SPLITS[0]).to_numpy()
    true_labels = pd.DataFrame(
        {Columns.INSTANCE_ID: labelled[Columns.INSTANCE_ID], Columns.ENGAGEMENT: flat.lists(flat.label)}
    )
    return labelled, true_labels[held_out].reset_index(drop=True)


def recency(released: Float[np.ndarray, " m"], times: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """How new an item is: 1 / (1 + age in years), the age at least 0; 0 where the year is unknown.

    Args:
        released: Years, with a fraction where the day is known; NaN where unknown.
        times: Epoch seconds.
    """
    age = np.maximum(1970.0 + times / (DAYS_PER_YEAR * DAY) - released, 0.0)
    return np.where(np.isnan(released), 0.0, 1.0 / (1.0 + age))


def trend_coverage(
    instances: pd.DataFrame,
    observations: Table | pd.DataFrame,
    days: Sequence[float] = (1, 7),
    daily_counts: pd.DataFrame | None = None,
) -> dict[float, float]:
    """Return, for each window in days, the share of candidates whose trend is above 0 with that window."""
    flat = _Candidates.of(instances, as_table(observations), None)
    counts = _counts_within(flat, as_table(observations), days, daily_counts)
    return {window: float(np.mean(counts[:, place] > 0)) for place, window in enumerate(days)}


def _counts_within(
    flat: "_Candidates", table: Table, days: Sequence[float], daily_counts: pd.DataFrame | None
) -> Int[np.ndarray, "m windows"]:
    """The trend of every candidate for several windows in days."""
    starts = [flat.times - round(window * DAY) for window in days]
    if daily_counts is not None and len(daily_counts):
        items = pd.Index(np.union1d(daily_counts[Columns.ITEM_ID], flat.items))
        ends = daily_counts[Columns.TIMESTAMP].to_numpy() + DAY
        plays = AsOf(
            items.get_indexer(daily_counts[Columns.ITEM_ID]), ends, daily_counts[Columns.COUNT].to_numpy(np.float64)
        )
        codes = items.get_indexer(pd.Index(flat.items))
        # sums of whole numbers are exact; a day that ends at T is over by then
        total = plays.sum(codes, flat.times + 1)
        return np.stack([total - plays.sum(codes, start + 1) for start in starts], axis=1).astype(np.int64)
    before = _counts_before(table, flat.items, np.stack([flat.times, *starts]))
    own = np.stack([(flat.taken >= start) & (flat.taken < flat.times) for start in starts])
    return np.asarray((before[0] - before[1:] - own).T)


def _counts_before(table: Table, items: Int[np.ndarray, " m"], times: Int[np.ndarray, "k m"]) -> Int[np.ndarray, "k m"]:
    """Interactions of each item strictly before each time; only differences between times of one item mean something.

    The engine counts along: events and points in time are sorted together per item, and only the points come back.
    """
    import ibis

    ids = np.tile(items, len(times))
    points = pd.DataFrame({Columns.ITEM_ID: ids, Columns.TIMESTAMP: times.ravel()}).drop_duplicates(ignore_index=True)
    first, last = int(points[Columns.TIMESTAMP].min()), int(points[Columns.TIMESTAMP].max())
    time = table[Columns.TIMESTAMP]
    events = table.filter((time >= first) & (time < last)).select(Columns.ITEM_ID, Columns.TIMESTAMP, event=1)
    both = events.union(ibis.memtable(points.assign(event=0)).mutate(event=ibis._.event.cast("int8")))
    # of one second the points come first: what happens in it is not before it
    window = ibis.window(
        group_by=both[Columns.ITEM_ID], order_by=[both[Columns.TIMESTAMP], both["event"]], rows=(None, 0)
    )
    counted = both.mutate(before=both["event"].sum().over(window))
    found = counted.filter(counted["event"] == 0).drop("event").to_pandas()
    index = pd.MultiIndex.from_frame(found[[Columns.ITEM_ID, Columns.TIMESTAMP]])
    order = index.get_indexer(pd.MultiIndex.from_arrays([ids, times.ravel()]))
    return found["before"].to_numpy(dtype=np.int64)[order].reshape(times.shape)


def _refuse_unknown_items(table: Table, items: pd.DataFrame) -> None:
    used = table.select(Columns.ITEM_ID).distinct().to_pandas()[Columns.ITEM_ID].to_numpy()
    if (unknown := np.setdiff1d(used, items[Columns.ITEM_ID].to_numpy())).size:
        raise InputError(f"observations: item {unknown[0]} is not in the items table")


@dataclass(frozen=True)
class _Candidates:
    """All candidates of all instances, one row each, with their user's interaction."""

    ends: Int[np.ndarray, " instances"]
    rows: Int[np.ndarray, " m"]
    users: Int[np.ndarray, " m"]
    items: Int[np.ndarray, " m"]
    times: Int[np.ndarray, " m"]
    training: Bool[np.ndarray, " m"]
    similarity: Float[np.ndarray, " m"]
    label: Float[np.ndarray, " m"]
    observed: Bool[np.ndarray, " m"]
    taken: Int[np.ndarray, " m"]
    """When the user engaged with the candidate."""

    @classmethod
    def of(cls, instances: pd.DataFrame, table: Table, seed: int | None) -> "_Candidates":
        """Shuffled by a seed and the instance's id. With None in the order given, without similarities or labels: then
        a candidate that the user never took up is one like any other.
        """
        candidates = [np.asarray(ids, dtype=np.int64) for ids in instances[Columns.CANDIDATES]]
        sizes = np.array([len(ids) for ids in candidates], dtype=np.int64)
        similarities = [np.zeros(size) for size in sizes]
        if seed is not None:
            similarities = [np.asarray(cosines, dtype=np.float64) for cosines in instances[Columns.SIMILARITIES]]
            for row, instance_id in enumerate(instances[Columns.INSTANCE_ID].tolist()):
                order = np.random.default_rng([seed, int(instance_id)]).permutation(sizes[row])
                candidates[row], similarities[row] = candidates[row][order], similarities[row][order]
        rows = np.repeat(np.arange(len(instances)), sizes)
        pairs = pd.DataFrame(
            {
                Columns.USER_ID: instances[Columns.USER_ID].to_numpy()[rows],
                Columns.ITEM_ID: np.concatenate(candidates),
            }
        )
        known = _interactions_of(pairs, table)
        if seed is None:
            known = known.fillna({Columns.OBSERVED: False, Columns.TIMESTAMP: NEVER})
        elif (bad := np.flatnonzero(known[Columns.ENGAGEMENT].isna())).size:
            row = instances.iloc[rows[bad[0]]]
            raise InputError(
                f"instance {row[Columns.INSTANCE_ID]}: candidate {pairs[Columns.ITEM_ID].iloc[bad[0]]} has no label of "
                f"user {row[Columns.USER_ID]}; instances, observations and items must come from the same dataset"
            )
        return cls(
            ends=np.cumsum(sizes),
            rows=rows,
            users=pairs[Columns.USER_ID].to_numpy(),
            items=pairs[Columns.ITEM_ID].to_numpy(),
            times=instances[Columns.QUERY_TIME].to_numpy()[rows],
            training=(instances[Columns.SPLIT] == SPLITS[0]).to_numpy()[rows],
            similarity=np.concatenate(similarities),
            label=known[Columns.ENGAGEMENT].to_numpy(dtype=np.float64),
            observed=known[Columns.OBSERVED].to_numpy(dtype=bool),
            taken=known[Columns.TIMESTAMP].to_numpy(dtype=np.int64),
        )

    def lists(self, column: np.ndarray) -> list[list[float]]:
        """Cut a flat column into one list per instance."""
        return [part.tolist() for part in np.split(column, self.ends[:-1])]


def _interactions_of(pairs: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Engagement, `observed` and time of every pair, in their order; NaN where a pair has no interaction."""
    import ibis

    keys = [Columns.USER_ID, Columns.ITEM_ID]
    wanted = ibis.memtable(pairs.drop_duplicates(ignore_index=True))
    values = [Columns.ENGAGEMENT, Columns.OBSERVED, Columns.TIMESTAMP]
    found = table.semi_join(wanted, keys).select(*keys, *values).to_pandas().drop_duplicates(keys)
    return found.set_index(keys).reindex(pd.MultiIndex.from_frame(pairs)).reset_index(drop=True)


def _niche(
    instances: pd.DataFrame, items: pd.DataFrame, places: Int[np.ndarray, " m"], flat: _Candidates
) -> Int[np.ndarray, " m"]:
    topics = [frozenset(names) for names in items[Columns.TOPICS]]
    place_of = {int(item): place for place, item in enumerate(items[Columns.ITEM_ID])}
    known = [
        frozenset[str]().union(*(topics[place_of[int(item)]] for item in history))
        for history in instances[Columns.HISTORY_ITEMS]
    ]
    return np.array(
        [
            int(bool(topics[item]) and topics[item].isdisjoint(known[row]))
            for item, row in zip(places.tolist(), flat.rows.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
