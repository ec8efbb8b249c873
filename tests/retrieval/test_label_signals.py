import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.signals import AsOf, label_signals, recency, trend_coverage
from flexrec.retrieval.star import StarSettings
from flexrec.sources.tables import daily_counts_table
from flexrec.tabular import DAY

PER_CANDIDATE = [
    Columns.CANDIDATES,
    Columns.SIMILARITY,
    Columns.NICHE,
    Columns.TREND,
    Columns.POPULARITY,
    Columns.QUALITY,
    Columns.RECENCY,
    Columns.OBSERVED_ENGAGEMENT,
]


def label(instances, observations, items, **changes):
    arguments = {"trend_window_days": 1.0, "quality_strength": 2.0, "quality_midpoint": 3.0, "seed": 0}
    return label_signals(instances, observations, items, **(arguments | changes))


def build(observations, embeddings, seed=0):
    limits = {"train": 1000, "validation": 1000, "test": 1000}
    instances, _ = build_instances(
        observations,
        embeddings,
        candidates=5,
        history=3,
        instances_per_user=3,
        limits=limits,
        seed=seed,
        star=StarSettings(),
    )
    return instances


def by_candidate(labelled, row):
    """One row's signals as {candidate: {signal: value}}, whatever the order of the shuffle."""
    values = {name: labelled[name].iloc[row] for name in PER_CANDIDATE}
    return {
        item: {name: values[name][at] for name in PER_CANDIDATE[1:]} for at, item in enumerate(values["candidates"])
    }


T = 10 * DAY


@pytest.fixture
def small():
    """Users 1 and 2 train, 3 tests. Items 10 (topic a), 20 (b), 30 (none), 40 (a, b)."""
    rows = [
        # user, item, time, engagement, observed, split
        (1, 10, T - 5 * DAY, 5.0, True, "train"),
        (2, 20, T - 2 * DAY, 2.0, True, "train"),
        (2, 30, T - 2 * DAY, 4.0, False, "train"),
        (1, 20, T - DAY, 1.0, False, "train"),
        (3, 20, T - DAY, 5.0, True, "test"),
        (2, 40, T - 10, 4.0, True, "train"),
        (1, 30, T, 3.0, True, "train"),
        (3, 10, T, 2.0, False, "test"),
        (1, 40, T + 50, 4.5, False, "train"),
        (3, 40, T + 50, 1.0, True, "test"),
    ]
    names = [Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP, Columns.ENGAGEMENT, Columns.OBSERVED, Columns.SPLIT]
    observations = pd.DataFrame(rows, columns=names)
    observations[Columns.EVENT_ID] = range(len(rows))
    items = pd.DataFrame(
        {
            Columns.ITEM_ID: [10, 20, 30, 40],
            Columns.TOPICS: [["a"], ["b"], [], ["a", "b"]],
            Columns.RELEASED: [1969.0, 1970.0, np.nan, 1971.0],
        }
    )
    instances = pd.DataFrame(
        {
            Columns.INSTANCE_ID: [0, 1],
            Columns.USER_ID: [1, 3],
            Columns.SPLIT: ["train", "test"],
            Columns.QUERY_TIME: [T, T],
            Columns.HISTORY_ITEMS: [[10], [20]],
            Columns.HISTORY_ENGAGEMENTS: [[5.0], [5.0]],
            Columns.CANDIDATES: [[20, 30, 40], [10, 40]],
            Columns.QUERY: "",
            Columns.SIMILARITIES: [[0.9, 0.5, 0.1], [0.8, 0.2]],
        }
    )
    return instances, observations, items


def test_by_hand(small):
    labelled, true_labels = label(*small)
    train, test = by_candidate(labelled, 0), by_candidate(labelled, 1)
    assert {item: row[Columns.SIMILARITY] for item, row in train.items()} == {20: 0.9, 30: 0.5, 40: 0.1}
    # history of user 1 is item 10 (a): 20 (b) is niche, 30 has no topic, 40 shares a. User 3 knows b.
    assert {item: row[Columns.NICHE] for item, row in train.items()} == {20: 1, 30: 0, 40: 0}
    assert {item: row[Columns.NICHE] for item, row in test.items()} == {10: 1, 40: 0}
    # [T - 1 day, T) without user 1 itself: item 20 once, at the very start and by a test user, 40 once; T itself is out
    assert {item: row[Columns.TREND] for item, row in train.items()} == {20: 1, 30: 0, 40: 1}
    assert {item: row[Columns.TREND] for item, row in test.items()} == {10: 0, 40: 1}
    # observed, training users, before T: (1, 10), (2, 20), (2, 40). Of user 3 nothing counts.
    assert {item: row[Columns.POPULARITY] for item, row in train.items()} == {20: 1, 30: 0, 40: 1}
    assert {item: row[Columns.POPULARITY] for item, row in test.items()} == {10: 1, 40: 1}
    # user 1: without its own rating the mean is (2 + 4) / 2 = 3: (2 + 2*3)/3, 3, (4 + 2*3)/3
    quality = {item: row[Columns.QUALITY] for item, row in train.items()}
    assert quality == pytest.approx({20: 8 / 3, 30: 3.0, 40: 10 / 3})
    # user 3: mean (5 + 2 + 4) / 3 = 11/3: (5 + 22/3)/3, (4 + 22/3)/3
    quality = {item: row[Columns.QUALITY] for item, row in test.items()}
    assert quality == pytest.approx({10: 37 / 9, 40: 34 / 9})
    # T is ten days into 1970: ages 10 / 365.2425 years since 1970, a year more since 1969, none before the release
    ten_days = 10 / 365.2425
    age = {item: row[Columns.RECENCY] for item, row in train.items()}
    assert age == pytest.approx({20: 1 / (1 + ten_days), 30: 0.0, 40: 1.0})
    assert test[10][Columns.RECENCY] == pytest.approx(1 / (2 + ten_days))
    # user 1's rating of 30 at T is observed; the other two are not
    observed = {item: row[Columns.OBSERVED_ENGAGEMENT] for item, row in train.items()}
    assert observed[30] == 3.0
    assert np.isnan([observed[20], observed[40]]).all()
    assert np.isnan(labelled[Columns.OBSERVED_ENGAGEMENT].iloc[1]).all()
    # true labels only for the test instance, in the order shown; 40 is observed but that is no matter here
    assert true_labels[Columns.INSTANCE_ID].tolist() == [1]
    truth = dict(zip(labelled[Columns.CANDIDATES].iloc[1], true_labels[Columns.ENGAGEMENT].iloc[0], strict=True))
    assert truth == {10: 2.0, 40: 1.0}


def test_a_training_users_own_rating_never_counts_for_itself(small):
    instances, observations, items = small
    # both look at item 10, which user 1 was seen to rate 5 before T: the others are (2, 20) = 2 and (2, 40) = 4
    instances = instances.assign(candidates=[[10], [10]], similarities=[[0.5], [0.5]])
    labelled, _ = label(instances, observations, items)
    assert labelled[Columns.POPULARITY].tolist() == [[0], [1]]
    # user 1: the mean of the others alone; user 3: (5 + 2 * 11/3) / 3
    assert labelled[Columns.QUALITY].tolist() == [[pytest.approx(3.0)], [pytest.approx(37 / 9)]]


def test_before_any_observation_quality_is_the_midpoint(small):
    instances, observations, items = small
    early = instances.assign(query_time=T - 5 * DAY)
    labelled, _ = label(early, observations, items)
    assert [value for row in labelled[Columns.QUALITY] for value in row] == [3.0] * 5
    assert [value for row in labelled[Columns.POPULARITY] for value in row] == [0] * 5


def brute_force(row, observations, items, window):
    """The definitions of the signals, one candidate at a time."""
    topics = dict(zip(items[Columns.ITEM_ID], map(set, items[Columns.TOPICS]), strict=True))
    known = set().union(*(topics[item] for item in row.history_items))
    counted = observations[
        observations[Columns.OBSERVED]
        & (observations[Columns.SPLIT] == "train")
        & (observations[Columns.TIMESTAMP] < row.query_time)
    ]
    if row.split == "train":
        counted = counted[counted[Columns.USER_ID] != row.user_id]
    prior = counted[Columns.ENGAGEMENT].mean() if len(counted) else 3.0
    result = {}
    for item in row.candidates:
        others = observations[observations[Columns.USER_ID] != row.user_id]
        of_item = others[others[Columns.ITEM_ID] == item]
        recent = of_item[Columns.TIMESTAMP].between(row.query_time - window, row.query_time, inclusive="left")
        mine = counted.loc[counted[Columns.ITEM_ID] == item, Columns.ENGAGEMENT]
        result[item] = {
            Columns.NICHE: int(bool(topics[item]) and not topics[item] & known),
            Columns.TREND: int(recent.sum()),
            Columns.POPULARITY: len(mine),
            Columns.QUALITY: (mine.sum() + 2.0 * prior) / (len(mine) + 2.0),
        }
    return result


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), days=st.sampled_from([0.5, 1.0, 2.5]))
def test_against_brute_force(world, seed, days):
    observations, items, embeddings = world(seed, users=10)
    instances = build(observations, embeddings)
    labelled, true_labels = label(instances, observations, items, trend_window_days=days)
    truth = true_labels.set_index(Columns.INSTANCE_ID)[Columns.ENGAGEMENT]
    label_of = observations.set_index([Columns.USER_ID, Columns.ITEM_ID])
    for at, row in enumerate(instances.itertuples()):
        expected = brute_force(row, observations, items, days * DAY)
        got = by_candidate(labelled, at)
        assert set(got) == set(row.candidates)
        for place, item in enumerate(row.candidates):
            assert got[item][Columns.SIMILARITY] == row.similarities[place]
            for name in expected[item]:
                assert got[item][name] == pytest.approx(expected[item][name]), (row.instance_id, item, name)
        shown = labelled[Columns.CANDIDATES].iloc[at]
        own = label_of.loc[[(row.user_id, item) for item in shown]]
        visible = np.where(own[Columns.OBSERVED] & (row.split == "train"), own[Columns.ENGAGEMENT], np.nan)
        np.testing.assert_array_equal(labelled[Columns.OBSERVED_ENGAGEMENT].iloc[at], visible)
        if row.split == "train":
            assert row.instance_id not in truth.index
        else:
            assert truth[row.instance_id] == own[Columns.ENGAGEMENT].tolist()


def test_shuffles_are_seeded_per_instance_and_uniform(world, identical):
    observations, items, embeddings = world(0)
    instances = build(observations, embeddings)
    first, _ = label(instances, observations, items)
    identical(first, label(instances, observations, items)[0])
    # an instance keeps its order whatever else is in the table
    alone, _ = label(instances.iloc[7:8], observations, items)
    assert alone[Columns.CANDIDATES].iloc[0] == first[Columns.CANDIDATES].iloc[7]
    other, _ = label(instances, observations, items, seed=1)
    assert first[Columns.CANDIDATES].tolist() != other[Columns.CANDIDATES].tolist()
    # the retriever's first candidate is equally often at each of the five places: 1,000 draws, 200 +- 12.6 each
    many = pd.concat([instances.iloc[:1]] * 1000).assign(instance_id=range(1000))
    shown, _ = label(many, observations, items)
    best = instances[Columns.CANDIDATES].iloc[0][0]
    places = np.bincount([row.index(best) for row in shown[Columns.CANDIDATES]], minlength=5)
    assert (np.abs(places - 200) < 4 * 12.6).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_training_instances_ignore_hidden_labels(world, identical, seed):
    observations, items, embeddings = world(seed)
    changed = observations.copy()
    hidden = ~observations[Columns.OBSERVED] | (observations[Columns.SPLIT] != "train")
    changed.loc[hidden, Columns.ENGAGEMENT] = np.random.default_rng(seed).uniform(-99, 99, hidden.sum())
    first, _ = label(build(observations, embeddings), observations, items)
    second, _ = label(build(changed, embeddings), changed, items)
    training = first[Columns.SPLIT] == "train"
    assert training.any()
    identical(first[training], second[training])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_signals_ignore_the_future(world, identical, seed):
    observations, items, embeddings = world(seed)
    instances = build(observations, embeddings)
    cut = int(np.quantile(instances[Columns.QUERY_TIME], 0.6))
    early = instances[instances[Columns.QUERY_TIME] <= cut]
    rng = np.random.default_rng(seed)
    changed = observations.copy()
    future = changed[Columns.TIMESTAMP] >= cut
    changed.loc[future, Columns.ENGAGEMENT] = rng.uniform(0, 5, future.sum())
    changed.loc[future, Columns.OBSERVED] = rng.random(future.sum()) < 0.5
    changed.loc[future, Columns.TIMESTAMP] = cut + rng.integers(0, 9, future.sum())
    # new users who only act from `cut` on
    added = changed[changed[Columns.USER_ID] < 4].copy()
    added[Columns.USER_ID] += 1000
    added[Columns.TIMESTAMP] = cut + rng.integers(0, 9 * DAY, len(added))
    added[Columns.EVENT_ID] += 10**6
    changed = pd.concat([changed, added], ignore_index=True)
    first, _ = label(early, observations, items)
    second, _ = label(early, changed, items)
    kept = [name for name in first.columns if name != Columns.OBSERVED_ENGAGEMENT]
    identical(first[kept], second[kept])


def test_as_of_by_hand():
    as_of = AsOf(np.array([1, 0, 1, 1]), np.array([5, 9, 7, 7]), np.array([0.5, 3.0, 1.0, 2.0]))
    groups, times = np.array([1, 1, 1, 1, 0, 0, 2]), np.array([5, 6, 7, 100, 9, 10, 50])
    # group 1 has 0.5 at 5, 1 and 2 at 7; group 0 has 3 at 9; group 2 has nothing; "before" is strict
    assert as_of.count(groups, times).tolist() == [0, 1, 1, 3, 0, 1, 0]
    assert as_of.sum(groups, times).tolist() == [0.0, 0.5, 0.5, 3.5, 0.0, 3.0, 0.0]
    empty = AsOf(np.array([], dtype=np.int64), np.array([], dtype=np.int64), np.array([]))
    assert empty.count(groups, times).tolist() == [0] * 7
    assert empty.sum(groups, times).tolist() == [0.0] * 7


def test_trend_coverage_by_hand(small):
    instances, observations, _ = small
    # one day: of 20, 30, 40, 10, 40 the candidates 20, 40 and 40 -> 3/5; two days add 30 -> 4/5; five days 10 -> 1
    assert trend_coverage(instances, observations, days=(1, 2, 5)) == {1: 0.6, 2: 0.8, 5: 1.0}


def test_trend_coverage_of_an_item_that_nobody_touched(small):
    instances, observations, _ = small
    without = observations[observations[Columns.ITEM_ID] != 40]
    assert trend_coverage(instances, without, days=(1,)) == {1: 0.2}


@pytest.mark.parametrize("setting", ["trend_window_days", "quality_strength"])
def test_settings_out_of_range(small, setting):
    with pytest.raises(InputError, match=setting):
        label(*small, **{setting: 0.0})


def test_unknown_item(small):
    instances, observations, items = small
    with pytest.raises(InputError, match="item 40 is not in the items table"):
        label(instances, observations, items[items[Columns.ITEM_ID] != 40])


def test_candidate_without_a_label(small):
    instances, observations, items = small
    instances = instances.assign(candidates=[[20, 30, 40], [10, 30]])
    with pytest.raises(InputError, match="instance 1: candidate 30 has no label of user 3"):
        label(instances, observations, items)


# --- The platform's own counts, and the age ---


def test_trend_of_the_platforms_daily_counts_by_hand(small):
    instances, observations, items = small
    # T is the begin of day 10: within two days before it days 8 and 9 are over and count, item 40's day 10 is not
    daily = pd.DataFrame(
        {
            Columns.ITEM_ID: [20, 20, 20, 30, 40, 10],
            Columns.TIMESTAMP: [7 * DAY, 8 * DAY, 9 * DAY, 9 * DAY, 10 * DAY, 8 * DAY],
            Columns.COUNT: [1000, 200, 30, 4, 5, 6],
        }
    )
    labelled, _ = label(instances, observations, items, trend_window_days=2.0, daily_counts=daily)
    trends = [{item: row[Columns.TREND] for item, row in by_candidate(labelled, at).items()} for at in (0, 1)]
    assert trends == [{20: 230, 30: 4, 40: 0}, {10: 6, 40: 0}]
    # half a day later the same days are over; a window of one day then begins after the end of day 8
    later = instances.assign(query_time=T + DAY // 2)
    labelled, _ = label(later, observations, items, trend_window_days=1.0, daily_counts=daily)
    assert by_candidate(labelled, 0)[20][Columns.TREND] == 30
    assert trend_coverage(instances, observations, days=(1, 2), daily_counts=daily) == {1: 0.4, 2: 0.6}


def test_a_window_of_parts_of_days_is_refused_where_days_are_counted(small):
    instances, observations, items = small
    daily = pd.DataFrame({Columns.ITEM_ID: [20], Columns.TIMESTAMP: [8 * DAY], Columns.COUNT: [200]})
    with pytest.raises(InputError, match=r"trend_window_days 1\.5.*a whole number of days"):
        label(instances, observations, items, trend_window_days=1.5, daily_counts=daily)
    label(instances, observations, items, trend_window_days=1.5)


def test_without_rows_of_daily_counts_interactions_count(small, identical):
    instances, observations, items = small
    empty = daily_counts_table(None)
    identical(label(instances, observations, items)[0], label(instances, observations, items, daily_counts=empty)[0])


@given(st.floats(1900, 2100), st.integers(0, 4 * 10**9), st.integers(0, 10**9))
def test_recency_falls_with_time_and_never_leaves_its_range(released, time, later):
    now, then = recency(np.array([released, released]), np.array([time, time + later]))
    assert 0 < then <= now <= 1
