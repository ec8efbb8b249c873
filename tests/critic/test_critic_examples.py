"""Examples of the critic: contexts, splits and leaks."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.critic.examples import PARTS, CriticExamples, build_examples, history_embeddings
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.retrieval.star import StarSettings, star_query

ARRAYS = ("event_id", "user_id", "candidate", "history", "statistics", "target", "part")
AXES = pd.DataFrame({"item_id": [1, 2, 3], "embedding": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]})


def observations(*rows: tuple[int, int, int, float]) -> pd.DataFrame:
    """(user, item, time, engagement) rows of training users, all observed, in the order of events."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "engagement"])
    return table.assign(event_id=range(len(table)), observed=True, split="train")


def same(a: CriticExamples, b: CriticExamples) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


def test_history_by_hand() -> None:
    # most recent: item 1 with engagement 2; before it: item 0 with 5. 2 e1 + 0.7 * 5 e0 = (3.5, 2), norm sqrt(16.25)
    got = history_embeddings(np.array([[1, 0]]), np.array([[2.0, 5.0]]), np.eye(2), 0.7)
    assert got.dtype == np.float32
    assert got[0] == pytest.approx(np.array([3.5, 2.0]) / np.sqrt(16.25))


def test_history_absent_or_vanishing_is_zero() -> None:
    items = np.array([[-1, -1], [0, -1]])
    assert history_embeddings(items, np.array([[np.nan, np.nan], [0.0, np.nan]]), np.eye(2), 0.7).tolist() == [
        [0, 0],
        [0, 0],
    ]


def test_history_is_the_retrievers_query() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 5)).astype(np.float32)
    items, engagements = rng.integers(0, 9, size=(4, 6)), rng.uniform(0.1, 5, size=(4, 6))
    settings = StarSettings(decay=0.6, engagement_weights=True)
    for row, query in enumerate(history_embeddings(items, engagements, vectors, 0.6)):
        expected = star_query(vectors[items[row, ::-1]], settings, engagements[row, ::-1])
        np.testing.assert_allclose(query, expected, atol=1e-6)


def test_context_ends_before_the_second() -> None:
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 1.0), (1, 3, 20, 1.0), (1, 1, 30, 4.0))
    history = build_examples(table, AXES, "linear", CriticSettings(history_length=2, decay=0.5), seed=0).history
    # items 2 and 3 share a second: neither is the other's context; the later event is the more recent for the last row
    assert history[0].tolist() == [0, 0, 0]
    assert history[1].tolist() == history[2].tolist() == [1, 0, 0]
    assert history[3] == pytest.approx(np.array([0, 0.5, 1]) / np.sqrt(1.25))


def test_the_context_of_a_query_is_its_text() -> None:
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 1.0), (7, 3, 20, 1.0), (7, 1, 30, 4.0))
    queries = pd.DataFrame({"user_id": [9, 7], "embedding": [[0.6, 0.8, 0], [0, 0.6, 0.8]]})
    got = build_examples(table, AXES, "linear", CriticSettings(), seed=0, query_embeddings=queries)
    assert got.history.tolist() == np.float32([[0, 0, 0], [1, 0, 0], [0, 0.6, 0.8], [0, 0.6, 0.8]]).tolist()
    assert got.history.dtype == np.float32
    none = build_examples(table, AXES, "linear", CriticSettings(), seed=0, query_embeddings=queries.head(0))
    assert same(none, build_examples(table, AXES, "linear", CriticSettings(), seed=0))


def test_a_limit_draws_examples_that_are_otherwise_the_same(world, small, caplog) -> None:
    every = build_examples(world.observations, world.item_embeddings, "linear", small, seed=3)
    limited = small.model_copy(update={"max_interactions": 40})
    with caplog.at_level(logging.INFO):
        some = build_examples(world.observations, world.item_embeddings, "linear", limited, seed=3)
    assert f"40 of {len(every.event_id)} observed interactions" in caplog.text
    assert len(some.event_id) == 40
    assert (np.diff(some.event_id) > 0).all()
    rows = np.searchsorted(every.event_id, some.event_id)
    # contexts still read everything that is observed
    for name in ("event_id", "user_id", "candidate", "history", "target"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[rows])
    # and so do item statistics: what is not drawn comes before all that is
    assert some.statistics[:, 0].sum() > every.statistics[rows, 0].sum()
    assert sorted(np.bincount(some.part).tolist()) == [4, 4, 32]
    assert same(some, build_examples(world.observations, world.item_embeddings, "linear", limited, seed=3))
    other = build_examples(world.observations, world.item_embeddings, "linear", limited, seed=4)
    assert not np.array_equal(other.event_id, some.event_id)
    enough = small.model_copy(update={"max_interactions": len(every.event_id)})
    assert same(build_examples(world.observations, world.item_embeddings, "linear", enough, seed=3), every)


def test_no_example_is_told_by_what_the_others_lack() -> None:
    """One item, ten users with gains 1, 2, 4, ...: a sum over others would name the label that is not in it."""
    table = observations(*((user, 1, user, 2.0**user) for user in range(10)))
    settings = CriticSettings(statistics_strength=1.0)
    got = build_examples(table, AXES, "linear", settings, seed=0)
    count = np.exp(got.statistics[:, 0]) - 1
    mean = got.target[got.part == 0].mean()
    earlier = got.statistics[:, 1] * (count + 1) - mean
    by_turn = np.argsort(count)
    # each in its turn sees the sum of those before it, those that are held out last
    np.testing.assert_allclose(count[by_turn], np.arange(10), atol=1e-4)
    np.testing.assert_allclose(earlier[by_turn], np.r_[0, got.target[by_turn].cumsum()[:-1]], atol=1e-2)
    assert got.part[by_turn].tolist() == [0] * 8 + [1, 2]


@pytest.mark.parametrize("taste", [None, {"factors": 2}])
def test_labels_that_are_held_out_are_not_read_by_those_that_are_fitted(world, small, taste) -> None:
    settings = CriticSettings.model_validate(small.model_dump() | {"taste": taste})
    before = build_examples(world.observations, world.item_embeddings, "linear", settings, seed=3)
    # the last of its user, so that it is in nobody's history
    last = before.event_id == pd.Series(before.event_id).groupby(before.user_id).transform("max").to_numpy()
    event = before.event_id[(before.part == 2) & last][0]
    changed = world.observations.copy()
    changed.loc[changed["event_id"] == event, "engagement"] += 3.0
    after = build_examples(changed, world.item_embeddings, "linear", settings, seed=3)
    assert not np.array_equal(after.target, before.target)
    assert same(after.select("fit"), before.select("fit"))
    assert same(after.select("validation"), before.select("validation"))


def test_contexts_keep_users_apart() -> None:
    table = observations((1, 1, 10, 1.0), (2, 2, 20, 1.0), (1, 3, 30, 1.0))
    history = build_examples(table, AXES, "linear", CriticSettings(), seed=0).history
    assert history.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 4)), min_size=3, max_size=14),
    st.integers(1, 4),
)
def test_contexts_against_a_loop(events: list[tuple[int, int, int]], length: int) -> None:
    events = sorted(events, key=lambda event: event[2])
    rows = [(user, item, time, 1.0 + number) for number, (user, item, time) in enumerate(events)]
    got = build_examples(observations(*rows), AXES, "linear", CriticSettings(history_length=length), seed=0)
    for number, (user, _, time, _) in enumerate(rows):
        past = [row for row in rows if row[0] == user and row[2] < time][-length:]
        summed = np.zeros(3)
        for step, (_, item, _, engagement) in enumerate(reversed(past)):
            summed[item - 1] += engagement * 0.7**step
        expected = summed / np.linalg.norm(summed) if past else summed
        np.testing.assert_allclose(got.history[number], expected, atol=1e-6)


def test_targets_are_gains_of_observed_training_interactions(world, small) -> None:
    examples = build_examples(world.observations, world.item_embeddings, "exponential", small, seed=1)
    kept = world.observations.query("observed and split == 'train'").sort_values("event_id")
    assert examples.event_id.tolist() == kept["event_id"].tolist()
    np.testing.assert_array_equal(examples.target, 2 ** kept["engagement"].to_numpy() - 1)
    assert world.item_embeddings["item_id"].to_numpy()[examples.candidate].tolist() == kept["item_id"].tolist()


def test_split_is_eight_to_one_to_one_and_seeded(world, small) -> None:
    def parts(seed: int) -> np.ndarray:
        return build_examples(world.observations, world.item_embeddings, "linear", small, seed=seed).part

    counts = np.bincount(parts(1))
    n = counts.sum()
    assert counts.tolist() == [n - 2 * round(0.1 * n), round(0.1 * n), round(0.1 * n)]
    assert np.array_equal(parts(1), parts(1))
    assert not np.array_equal(parts(1), parts(2))


def test_parts_partition_the_examples(world, small) -> None:
    examples = build_examples(world.observations, world.item_embeddings, "linear", small, seed=1)
    events = [examples.select(part).event_id for part in PARTS]
    assert sorted(np.concatenate(events).tolist()) == examples.event_id.tolist()


def test_three_examples_are_enough_for_three_parts() -> None:
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 1.0), (1, 3, 30, 1.0))
    assert sorted(build_examples(table, AXES, "linear", CriticSettings(), seed=3).part.tolist()) == [0, 1, 2]


def test_order_of_the_rows_does_not_matter(world, small) -> None:
    shuffled = world.observations.sample(frac=1, random_state=3)
    a, b = (build_examples(t, world.item_embeddings, "linear", small, seed=1) for t in (world.observations, shuffled))
    assert same(a, b)


def test_hidden_labels_do_not_leak(world, small, blinded) -> None:
    a, b = (
        build_examples(table, world.item_embeddings, "exponential", small, seed=1)
        for table in (world.observations, blinded)
    )
    assert same(a, b)


def test_rows_of_hidden_events_do_not_leak(world, small) -> None:
    kept = world.observations.query("observed and split == 'train'")
    a, b = (
        build_examples(table, world.item_embeddings, "exponential", small, seed=1)
        for table in (world.observations, kept)
    )
    assert same(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(observed=False), "no interaction of a training user is observed"),
        (lambda t: t.assign(split="test"), "no interaction of a training user is observed"),
        (lambda t: t.head(2), "2 observed interactions of training users cannot be split"),
        (lambda t: t.assign(engagement=[1.0, np.nan, 1.0]), "event 1 is observed but its engagement is not finite"),
        (lambda t: t.assign(item_id=[1, 2, 77]), "observations: item 77 has no row in item_embeddings"),
    ],
)
def test_bad_observations(change, message: str) -> None:
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 1.0), (1, 3, 30, 1.0))
    with pytest.raises(InputError, match=message):
        build_examples(change(table), AXES, "linear", CriticSettings(), seed=0)


def test_a_gain_beyond_all_numbers_is_named() -> None:
    # 2^570 - 1, of a video that was watched 570 times over
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 570.0), (1, 3, 30, 1.0))
    with pytest.raises(InputError, match=r"event 1 has engagement 570, an exponential gain of 3\.86e\+171"):
        build_examples(table, AXES, "exponential", CriticSettings(), seed=0)


@pytest.mark.parametrize(
    ("item_embeddings", "message"),
    [
        (AXES.head(0), "item_embeddings is empty"),
        (pd.concat([AXES, AXES.tail(1)]), "item 3 occurs more than once"),
        (AXES.assign(embedding=[[1.0], [1.0, 0], [0.0, 1]]), r"different lengths \[1, 2\]"),
        (AXES.assign(embedding=[[1.0], [np.nan], [0.5]]), "embedding of item 2 is not finite"),
    ],
)
def test_bad_embeddings(item_embeddings: pd.DataFrame, message: str) -> None:
    table = observations((1, 1, 10, 1.0), (1, 2, 20, 1.0), (1, 3, 30, 1.0))
    with pytest.raises(InputError, match=message):
        build_examples(table, item_embeddings, "linear", CriticSettings(), seed=0)


@pytest.mark.parametrize("shares", [(0.8, 0.2, 0.2), (0.9, 0.1, 0.0), (1.2, -0.1, -0.1)])
def test_bad_shares(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        CriticSettings(shares=shares)
