import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.star import StarSettings

ALL = {"train": 1000, "validation": 1000, "test": 1000}
TRAIN_ONLY = {"train": 1000, "validation": 0, "test": 0}


def build(observations, embeddings, **changes):
    arguments = {
        "candidates": 5,
        "history": 3,
        "instances_per_user": 3,
        "limits": ALL,
        "seed": 0,
        "star": StarSettings(),
    }
    return build_instances(observations, embeddings, **(arguments | changes))[0]


def seven_rows():
    """One training user; items are the axes of the plane in steps of 15 degrees, so that cosines are known."""
    observed = [True, False, True, False, True, True, False]
    observations = pd.DataFrame(
        {
            Columns.USER_ID: 1,
            Columns.ITEM_ID: [10, 20, 30, 40, 50, 60, 70],
            Columns.TIMESTAMP: [100, 100, 200, 200, 300, 300, 400],
            Columns.ENGAGEMENT: [5.0, 1.0, 4.0, 2.0, 3.0, 1.0, 5.0],
            Columns.EVENT_ID: range(7),
            Columns.OBSERVED: observed,
            Columns.SPLIT: "train",
        }
    )
    angles = np.deg2rad(15.0 * np.arange(7))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return observations, pd.DataFrame(
        {Columns.ITEM_ID: observations[Columns.ITEM_ID], Columns.EMBEDDING: list(vectors)}
    )


def test_seven_rows_by_hand():
    observations, embeddings = seven_rows()
    instances = build(observations, embeddings, candidates=4, limits=TRAIN_ONLY)
    # observed at 100 (10), 200 (30), 300 (50, 60): query times 200 and 300; at 300 itself 50 and 60 are still unknown
    assert instances[Columns.QUERY_TIME].tolist() == [200, 300]
    assert instances[Columns.HISTORY_ITEMS].tolist() == [[10], [10, 30]]
    assert instances[Columns.HISTORY_ENGAGEMENTS].tolist() == [[5.0], [5.0, 4.0]]
    # at 200 the query is item 10 (0 degrees): nearest of the rest are 15, 30, 45, 60 degrees
    assert instances[Columns.CANDIDATES][0] == [20, 30, 40, 50]
    np.testing.assert_allclose(
        instances[Columns.SIMILARITIES][0], np.cos(np.deg2rad([15.0, 30.0, 45.0, 60.0])), rtol=1e-5
    )
    # at 300: 0.49 at 0 degrees + 0.7 at 30 degrees -> atan2(0.35, 0.49 + 0.606218) = 17.71 degrees; 10 and 30 are known
    assert instances[Columns.CANDIDATES][1] == [20, 40, 50, 60]
    np.testing.assert_allclose(
        instances[Columns.SIMILARITIES][1], np.cos(np.deg2rad([2.71, 27.29, 42.29, 57.29])), atol=1e-4
    )
    assert instances[Columns.SPLIT].tolist() == ["train", "train"]
    assert instances[Columns.INSTANCE_ID].tolist() == [0, 1]


def test_history_is_cut_to_the_most_recent():
    observations, embeddings = seven_rows()
    instances = build(observations.assign(observed=True), embeddings, candidates=1, history=2, limits=TRAIN_ONLY)
    # at 400 six are known; the two latest, oldest first
    assert instances[Columns.HISTORY_ITEMS].tolist()[-1] == [50, 60]
    assert instances[Columns.CANDIDATES].tolist()[-1] == [70]


def test_without_a_second_observed_time_the_query_follows_the_last():
    observations, embeddings = seven_rows()
    only = observations[Columns.ITEM_ID].isin([50, 60])
    instances = build(observations.assign(observed=only), embeddings, candidates=5, limits=TRAIN_ONLY)
    assert instances[Columns.QUERY_TIME].tolist() == [301]
    assert instances[Columns.HISTORY_ITEMS].tolist() == [[50, 60]]
    assert sorted(instances[Columns.CANDIDATES][0]) == [10, 20, 30, 40, 70]


def test_small_pools_are_left_out_and_logged(world, caplog):
    observations, _, embeddings = world(0)
    few = observations[(observations[Columns.USER_ID] != 3) | (observations.groupby(Columns.USER_ID).cumcount() < 5)]
    with caplog.at_level(logging.INFO, logger="flexrec.retrieval.instances"):
        instances = build(few, embeddings, candidates=6)
    assert 3 not in set(instances[Columns.USER_ID])
    assert any("train" in text and "1 users dropped" in text for text in caplog.messages)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_invariants(world, seed):
    observations, _, embeddings = world(seed)
    instances = build(observations, embeddings)
    assert instances[Columns.INSTANCE_ID].tolist() == list(range(len(instances)))
    assert instances.groupby(Columns.USER_ID).size().max() <= 3
    for row in instances.itertuples():
        own = observations[observations[Columns.USER_ID] == row.user_id]
        before = own[own[Columns.OBSERVED] & (own[Columns.TIMESTAMP] < row.query_time)].sort_values(Columns.EVENT_ID)
        assert len(before) > 0
        assert row.history_items == before[Columns.ITEM_ID].tolist()[-3:]
        assert row.history_engagements == before[Columns.ENGAGEMENT].tolist()[-3:]
        assert len(set(row.candidates)) == 5
        assert set(row.candidates) <= set(own[Columns.ITEM_ID]) - set(before[Columns.ITEM_ID])
        assert (np.diff(row.similarities) <= 0).all()
        assert row.split == own[Columns.SPLIT].iloc[0]


def test_limits_take_new_users_before_second_instances(world):
    observations, _, embeddings = world(1)
    train_users = observations.loc[observations[Columns.SPLIT] == "train", Columns.USER_ID].nunique()
    instances = build(observations, embeddings, limits={"train": train_users + 2, "validation": 0, "test": 2})
    counts = instances[instances[Columns.SPLIT] == "train"].groupby(Columns.USER_ID).size()
    assert counts.sum() == train_users + 2
    assert len(counts) == train_users
    assert instances[Columns.SPLIT].value_counts().to_dict() == {"train": train_users + 2, "test": 2}


def test_same_seed_same_rows_other_seed_other_rows(world):
    observations, _, embeddings = world(2)
    first = build(observations, embeddings, instances_per_user=1)
    shuffled = observations.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(first, build(shuffled, embeddings, instances_per_user=1))
    other = build(observations, embeddings, instances_per_user=1, seed=1)
    assert first[Columns.QUERY_TIME].tolist() != other[Columns.QUERY_TIME].tolist()


def test_one_user_does_not_move_another(world):
    observations, _, embeddings = world(3)
    fewer = observations[observations[Columns.USER_ID] != 7]
    names = [name for name in build(observations, embeddings).columns if name != Columns.INSTANCE_ID]
    all_users = build(observations, embeddings).loc[lambda table: table[Columns.USER_ID] != 7, names]
    pd.testing.assert_frame_equal(all_users.reset_index(drop=True), build(fewer, embeddings)[names])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.booleans())
def test_training_instances_ignore_hidden_labels(world, seed, weights):
    observations, _, embeddings = world(seed)
    hidden = ~observations[Columns.OBSERVED] | (observations[Columns.SPLIT] != "train")
    changed = observations.copy()
    changed.loc[hidden, Columns.ENGAGEMENT] = -999.0
    star = StarSettings(engagement_weights=weights)
    first = build(observations, embeddings, star=star)
    second = build(changed, embeddings, star=star)
    training = first[Columns.SPLIT] == "train"
    pd.testing.assert_frame_equal(first[training], second[training], check_exact=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_history_ignores_the_future(world, seed):
    observations, _, embeddings = world(seed)
    every = {"instances_per_user": 1000, "candidates": 1}
    first = build(observations, embeddings, **every)
    cut = int(np.median(first[Columns.QUERY_TIME]))
    rng = np.random.default_rng(seed)
    changed = observations.copy()
    future = changed[Columns.TIMESTAMP] >= cut
    # all that happens at or after `cut` gets other labels, other times and other visibility
    changed.loc[future, Columns.ENGAGEMENT] = rng.uniform(0, 5, future.sum())
    changed.loc[future, Columns.OBSERVED] = rng.random(future.sum()) < 0.5
    changed.loc[future, Columns.TIMESTAMP] = cut + rng.integers(0, 9, future.sum())
    second = build(changed, embeddings, **every)
    kept = [Columns.HISTORY_ITEMS, Columns.HISTORY_ENGAGEMENTS]
    keys = [Columns.USER_ID, Columns.QUERY_TIME]
    before = first[first[Columns.QUERY_TIME] <= cut].set_index(keys)[kept]
    after = second.set_index(keys)[kept]
    shared = before.index.intersection(after.index)
    assert len(shared) > 0
    pd.testing.assert_frame_equal(before.loc[shared], after.loc[shared], check_exact=True)


def test_no_instance_says_what_to_lower(world):
    observations, _, embeddings = world(0)
    with pytest.raises(InputError, match=r"split train has no instance.*has 15\)\. Lower `candidates`"):
        build(observations, embeddings, candidates=16)  # 16 rated, at least one known


def test_what_to_lower_it_to_is_of_the_split_that_has_none(world):
    observations, _, embeddings = world(0)
    test = observations[observations[Columns.SPLIT] == "test"]
    few = test.groupby(Columns.USER_ID).head(5)
    rest = observations[observations[Columns.SPLIT] != "test"]
    smaller = pd.concat([rest, few]).sort_values(Columns.EVENT_ID, ignore_index=True)
    with pytest.raises(InputError, match=r"split test has no instance.*its users has 4\)\. Lower `candidates`"):
        build(smaller, embeddings, candidates=10)


def test_repeated_pair():
    observations, embeddings = seven_rows()
    twice = pd.concat([observations, observations.tail(1).assign(event_id=7)])
    with pytest.raises(InputError, match="user 1 has item 70 twice"):
        build(twice, embeddings, limits=TRAIN_ONLY)


def test_item_without_an_embedding():
    observations, embeddings = seven_rows()
    with pytest.raises(InputError, match="item 40 has interactions but no embedding"):
        build(observations, embeddings[embeddings[Columns.ITEM_ID] != 40], candidates=4, limits=TRAIN_ONLY)


@pytest.mark.parametrize("limits", [{"train": 5}, {"train": -1, "validation": 0, "test": 0}, {**ALL, "dev": 1}])
def test_wrong_limits(world, limits):
    observations, _, embeddings = world(0)
    with pytest.raises(InputError, match="limits"):
        build(observations, embeddings, limits=limits)


# --- Queries ---


def two_queries():
    """Queries 1 (train, three judged items) and 2 (test, five); items are known directions of the plane."""
    items = [10, 20, 30, 10, 20, 30, 40, 50]
    observations = pd.DataFrame(
        {
            Columns.USER_ID: [1, 1, 1, 2, 2, 2, 2, 2],
            Columns.ITEM_ID: items,
            Columns.TIMESTAMP: 0,
            Columns.ENGAGEMENT: [1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.1],
            Columns.EVENT_ID: range(8),
            Columns.OBSERVED: [True, False, False, True, True, False, False, False],
            Columns.SPLIT: ["train"] * 3 + ["test"] * 5,
        }
    )
    angles = np.deg2rad([0.0, 20.0, 40.0, 60.0, 80.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    embeddings = pd.DataFrame({Columns.ITEM_ID: [10, 20, 30, 40, 50], Columns.EMBEDDING: list(vectors)})
    queries = pd.DataFrame({Columns.USER_ID: [1, 2], Columns.QUERY: ["tent", "red shoes"], Columns.SPLIT: None})
    # query 1 looks along 40 degrees, query 2 along 70
    asked = np.deg2rad([40.0, 70.0])
    asked = np.stack([np.cos(asked), np.sin(asked)], axis=1).astype(np.float32)
    query_embeddings = pd.DataFrame({Columns.USER_ID: [1, 2], Columns.EMBEDDING: list(asked)})
    return observations, embeddings, {"queries": queries, "query_embeddings": query_embeddings}


NO_VALIDATION = {"train": 10, "validation": 0, "test": 10}


def test_a_user_that_asks_in_words_by_hand():
    observations, embeddings, asked = two_queries()
    instances = build(observations, embeddings, candidates=4, limits=NO_VALIDATION, **asked)
    assert instances[Columns.QUERY].tolist() == ["tent", "red shoes"]
    assert instances[Columns.HISTORY_ITEMS].tolist() == [[], []]
    # the second after the last judgment; observed judgments are candidates too
    assert instances[Columns.QUERY_TIME].tolist() == [1, 1]
    # query 1 has three items, fewer than K: all; off by 0, 20, 40 degrees. Query 2: off by 10 (two), 30, 50, not 70
    assert instances[Columns.CANDIDATES][0] == [30, 20, 10]
    assert sorted(instances[Columns.CANDIDATES][1][:2]) == [40, 50]
    assert instances[Columns.CANDIDATES][1][2:] == [30, 20]
    np.testing.assert_allclose(instances[Columns.SIMILARITIES][0], np.cos(np.deg2rad([0.0, 20.0, 40.0])), atol=1e-6)


def test_one_judged_item_is_nothing_to_rank(caplog):
    observations, embeddings, asked = two_queries()
    alone = observations[(observations[Columns.USER_ID] == 2) | (observations[Columns.ITEM_ID] == 10)]
    with caplog.at_level(logging.INFO, logger="flexrec.retrieval.instances"):
        instances = build(alone, embeddings, candidates=2, limits={**NO_VALIDATION, "train": 0}, **asked)
        assert instances[Columns.USER_ID].tolist() == [2]
        # two are enough for a query, whatever K
        assert "users dropped, whose pool is smaller than 2" in caplog.text
        with pytest.raises(InputError, match="split train has no instance: no user of it has 2 judged items"):
            build(alone, embeddings, candidates=4, limits=NO_VALIDATION, **asked)


def test_a_query_without_an_embedding():
    observations, embeddings, asked = two_queries()
    asked["query_embeddings"] = asked["query_embeddings"].head(1)
    with pytest.raises(InputError, match="the query of user 2 has no embedding"):
        build(observations, embeddings, candidates=2, limits=NO_VALIDATION, **asked)


def test_queries_of_others_change_nothing(world):
    observations, _, embeddings = world(4)
    first = build(observations, embeddings)
    vector = embeddings[Columns.EMBEDDING].iloc[0]
    queries = pd.DataFrame({Columns.USER_ID: [10_000], Columns.QUERY: ["a"], Columns.SPLIT: [None]})
    asked = pd.DataFrame({Columns.USER_ID: [10_000], Columns.EMBEDDING: [vector]})
    pd.testing.assert_frame_equal(first, build(observations, embeddings, queries=queries, query_embeddings=asked))
    assert set(first[Columns.QUERY]) == {""}
