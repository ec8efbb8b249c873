"""What other users did with an item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.critic.item_statistics import item_statistics

# user, item, gain
OBSERVED = np.array([(1, 10, 31.0), (2, 10, 7.0), (3, 10, 1.0), (1, 20, 15.0), (1, 20, 3.0), (2, 30, 7.0)])


def ask(item: int, user: int, strength: float = 2.0) -> np.ndarray:
    users, items, gains = OBSERVED[:, 0].astype(int), OBSERVED[:, 1].astype(int), OBSERVED[:, 2]
    return item_statistics(np.array([item]), np.array([user]), items, users, gains, strength)[0]


def test_stranger_counts_everybody() -> None:
    # item 10: 3 observations, sum 39; mean of all six 64/6; (39 + 2 * 64/6) / (3 + 2)
    assert ask(10, user=9) == pytest.approx([np.log(4), (39 + 2 * 64 / 6) / 5])


def test_own_observation_is_left_out() -> None:
    # user 1: others are 7, 1 on item 10, and 7 elsewhere: mean 15/3; (8 + 2 * 5) / (2 + 2)
    assert ask(10, user=1) == pytest.approx([np.log(3), 4.5])


def test_all_of_a_users_viewings_are_left_out() -> None:
    # user 1 saw item 20 twice and nobody else did: only the others' mean 15/3 remains
    assert ask(20, user=1) == pytest.approx([0.0, 5.0])


def test_unknown_item_has_the_mean_of_the_others() -> None:
    assert ask(99, user=9) == pytest.approx([0.0, 64 / 6])


def test_nobody_else() -> None:
    statistics = item_statistics(np.array([5]), np.array([1]), np.array([5]), np.array([1]), np.array([31.0]), 2.0)
    assert statistics.tolist() == [[0.0, 0.0]]


def test_no_observation_at_all() -> None:
    none = np.empty(0, dtype=np.int64)
    assert item_statistics(np.array([5]), np.array([1]), none, none, np.empty(0), 2.0).tolist() == [[0.0, 0.0]]


EVENTS = st.lists(st.tuples(st.integers(-3, 4), st.integers(-3, 4), st.integers(0, 31)), min_size=1, max_size=30)


@settings(deadline=None)
@given(EVENTS, st.integers(-3, 4), st.integers(-3, 4), st.data())
def test_only_earlier_turns_count(
    events: list[tuple[int, int, int]], item: int, user: int, data: st.DataObject
) -> None:
    items, users, gains = (np.array(column) for column in zip(*events, strict=True))
    turns = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(events), max_size=len(events))))
    asked = data.draw(st.integers(0, 6))
    same = [
        gain
        for (seen, asking, gain), turn in zip(events, turns, strict=True)
        if asking != user and seen == item and turn < asked
    ]
    expected = [np.log(1 + len(same)), (sum(same) + 3.0 * 2.5) / (len(same) + 3.0)]
    question = np.array([item]), np.array([user])
    how = {"turns": turns, "query_turns": np.array([asked]), "mean": 2.5}
    got = item_statistics(*question, items, users, gains.astype(float), 3.0, **how)
    assert got[0] == pytest.approx(expected)


@settings(deadline=None)
@given(EVENTS, st.integers(-3, 4), st.integers(-3, 4))
def test_brute_force(events: list[tuple[int, int, int]], item: int, user: int) -> None:
    items, users, gains = (np.array(column) for column in zip(*events, strict=True))
    others = [gain for _, asking, gain in events if asking != user]
    same = [gain for seen, asking, gain in events if asking != user and seen == item]
    mean = sum(others) / len(others) if others else 0.0
    expected = [np.log(1 + len(same)), (sum(same) + 3.0 * mean) / (len(same) + 3.0)]
    got = item_statistics(np.array([item]), np.array([user]), items, users, gains.astype(float), 3.0)
    assert got[0] == pytest.approx(expected)
