"""Cosines of audiences, by hand and against dense vectors of users."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.retrieval.collaborative import Audiences
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.star import StarSettings

# item 0: users 1, 2, 3; item 1: users 1, 2; item 2: user 4; item 3: nobody
ITEMS = np.array([0, 1, 0, 1, 0, 2])
USERS = np.array([1, 1, 2, 2, 3, 4])
TIMES = np.array([10, 11, 20, 21, 30, 40])
ALL = np.arange(4)


@pytest.fixture
def audiences():
    return Audiences(ITEMS, USERS, TIMES, item_count=4)


def test_by_hand(audiences):
    # items 0 and 1 share two users of 3 and 2: 2 / sqrt(6)
    expected = [[1, 2 / 6**0.5], [2 / 6**0.5, 1], [0, 0], [0, 0]]
    np.testing.assert_allclose(audiences.cosines(ALL, np.array([0, 1]), user=99), expected)


def test_who_asks_is_left_out(audiences):
    # without user 1: item 0 has 2 and 3, item 1 has 2: 1 / sqrt(2)
    np.testing.assert_allclose(audiences.cosines(np.array([1]), np.array([0]), user=1), [[0.5**0.5]])
    # nobody but user 4 took up item 2
    np.testing.assert_array_equal(audiences.cosines(np.array([2]), np.array([2]), user=4), [[0.0]])


def test_what_comes_later_is_left_out(audiences):
    # before 20: item 0 has user 1, item 1 has user 1
    np.testing.assert_allclose(audiences.cosines(ALL, np.array([0]), user=99, before=20), [[1], [1], [0], [0]])
    # before 21: item 0 has users 1 and 2
    np.testing.assert_allclose(audiences.cosines(np.array([1]), np.array([0]), user=99, before=21), [[0.5**0.5]])


def test_no_history_and_no_candidates(audiences):
    assert audiences.cosines(ALL, np.array([], dtype=np.int64), user=1).shape == (4, 0)
    assert audiences.cosines(np.array([], dtype=np.int64), np.array([1]), user=1).shape == (0, 1)


def test_without_any_interaction():
    nothing = np.array([], dtype=np.int64)
    audiences = Audiences(nothing, nothing, nothing, item_count=2)
    assert audiences.cosines(np.array([0, 1]), np.array([1]), user=1).tolist() == [[0.0], [0.0]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), before=st.none() | st.integers(0, 60))
def test_against_dense_vectors(seed, before):
    rng = np.random.default_rng(seed)
    taken = np.argwhere(rng.random((7, 9)) < 0.4)  # (item, user) pairs
    times = rng.integers(0, 60, len(taken))
    audiences = Audiences(taken[:, 0], taken[:, 1] + 100, times, item_count=7)
    candidates, history, user = rng.permutation(7)[:4], rng.integers(0, 7, 3), int(rng.integers(98, 110))
    dense = np.zeros((7, 9))
    for (item, other), time in zip(taken, times, strict=True):
        dense[item, other] = (before is None or time < before) and other + 100 != user
    expected = np.zeros((4, 3))
    for row, candidate in enumerate(candidates):
        for column, known in enumerate(history):
            norm = np.linalg.norm(dense[candidate]) * np.linalg.norm(dense[known])
            expected[row, column] = dense[candidate] @ dense[known] / norm if norm else 0
    np.testing.assert_allclose(audiences.cosines(candidates, history, user=user, before=before), expected, atol=1e-12)


def test_only_observed_interactions_of_training_users_count():
    table = pd.DataFrame({"item_id": [5, 7, 5, 7, 5, 8], "user_id": [1, 1, 2, 2, 3, 1], "timestamp": 0})
    table["observed"] = [True, True, True, False, True, True]
    table["split"] = ["train", "train", "train", "train", "test", "train"]
    # item 5: users 1 and 2; item 7: user 1; item 8 has no row
    cosines = Audiences.of(table, np.array([7, 5])).cosines(np.array([0]), np.array([1]), user=99)
    np.testing.assert_allclose(cosines, [[0.5**0.5]])


def retrieved(table, embeddings):
    instances, _ = build_instances(
        table,
        embeddings,
        candidates=5,
        history=3,
        instances_per_user=2,
        limits={"train": 20, "validation": 5, "test": 5},
        seed=0,
        star=StarSettings(decay=0.5, collaborative=0.4),
    )
    return instances


def test_the_retriever_against_a_loop(world):
    table, _, embeddings = world(3)
    instances = retrieved(table, embeddings)
    vectors = np.stack(list(embeddings["embedding"])).astype(float)
    training = table[table["observed"] & (table["split"] == "train")]
    for _, row in instances.iterrows():
        earlier = training[(training["timestamp"] < row["query_time"]) & (training["user_id"] != row["user_id"])]
        audience = {item: set(earlier.loc[earlier["item_id"] == item, "user_id"]) for item in range(len(vectors))}
        own = table[table["user_id"] == row["user_id"]]
        known = own[own["observed"] & (own["timestamp"] < row["query_time"])]
        scores = {}
        for item in set(own["item_id"]) - set(known["item_id"]):
            total = weights = 0.0
            for step, past in enumerate(reversed(row["history_items"]), start=1):
                both = len(audience[item] & audience[past])
                cosine = both / (len(audience[item]) * len(audience[past])) ** 0.5 if both else 0.0
                total += 0.5**step * (0.6 * float(vectors[item] @ vectors[past]) + 0.4 * cosine)
                weights += 0.5**step
            scores[item] = total / weights if weights else 0.0
        best = sorted(scores, key=lambda item: -scores[item])[:5]
        assert row["candidates"] == best or not weights
        np.testing.assert_allclose(row["similarities"], [scores[item] for item in best], atol=1e-6)


def same_retrieval(instances, others):
    """How many instances are in both tables; those have the same candidates and scores."""
    both = instances.merge(others, on=["user_id", "query_time"], suffixes=("", "_other"))
    assert both["candidates"].tolist() == both["candidates_other"].tolist()
    assert both["similarities"].tolist() == both["similarities_other"].tolist()
    return len(both)


def test_what_comes_later_retrieves_nothing_else(world):
    table, _, embeddings = world(4)
    instances = retrieved(table, embeddings)
    last = instances["query_time"].max()
    # more of what training users do from then on comes to be observed
    late = (table["timestamp"] >= last) & (table["split"] == "train")
    changed = table.assign(observed=table["observed"] | late)
    assert not changed.equals(table)
    earlier = instances[instances["query_time"] < last]
    assert same_retrieval(earlier, retrieved(changed, embeddings)) > len(earlier) / 3


def test_held_out_users_are_in_no_audience(world):
    table, _, embeddings = world(4)
    instances = retrieved(table, embeddings)
    without = table[table["user_id"] != 0].reset_index(drop=True)  # a validation user
    assert same_retrieval(instances, retrieved(without, embeddings)) == (instances["user_id"] != 0).sum()
