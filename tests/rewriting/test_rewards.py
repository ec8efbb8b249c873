import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexrec.rewriting.requests import Request
from flexrec.rewriting.retrievers import Found
from flexrec.rewriting.rewards import RewriteReward, result_ndcg, result_recall, search_for
from flexrec.rewriting.settings import RewardSettings

REQUEST = Request(0, 0, "like A", {10: 1.0, 11: 0.5, 12: 0.25}, frozenset({10, 11}), frozenset({1}))
OTHER = Request(1, 0, "like B", {20: 1.0}, frozenset({20}))


class Listed:
    """Finds what a query lists by number."""

    def __init__(self):
        self.asked = []

    def search(self, queries, k):
        self.asked += queries
        ids = [np.array([int(word) for word in query.split()][:k], dtype=np.int64) for query in queries]
        return [Found(items, np.arange(len(items), 0.0, -1.0)) for items in ids]


def test_ndcg_by_hand():
    # found: 11 at 1, 99 (nothing) at 2, 10 at 3; ideal: 1, 0.5, 0.25
    reached = 0.5 / math.log2(2) + 1.0 / math.log2(4)
    ideal = 1.0 / math.log2(2) + 0.5 / math.log2(3) + 0.25 / math.log2(4)
    assert result_ndcg([11, 99, 10], REQUEST, 3) == pytest.approx(reached / ideal)
    # at 1: 0.5 of 1
    assert result_ndcg([11, 99, 10], REQUEST, 1) == pytest.approx(0.5)
    assert result_ndcg([10, 11, 12], REQUEST, 100) == pytest.approx(1.0)
    assert result_ndcg([], REQUEST, 10) == 0.0
    # what was not found stands nowhere, however short the result
    assert result_ndcg([99], REQUEST, 10) == 0.0


def test_recall_by_hand():
    assert result_recall([11, 99], REQUEST, 10) == 0.5
    assert result_recall([11, 10], REQUEST, 1) == 0.5
    assert result_recall([12], REQUEST, 10) == 0.0
    assert result_recall([], REQUEST, 10) == 0.0


@given(st.lists(st.integers(8, 14), unique=True), st.integers(1, 8))
def test_bounds(result, k):
    assert 0.0 <= result_ndcg(result, REQUEST, k) <= 1.0
    assert 0.0 <= result_recall(result, REQUEST, k) <= 1.0


def test_what_is_named_is_no_result():
    # 1 is named by the first request alone; the place it leaves is filled
    assert search_for([REQUEST, OTHER], ["1 10 11", "1 10 11"], Listed(), 2) == [[10, 11], [1, 10]]


def test_equal_queries_are_searched_once():
    retriever = Listed()
    search_for([REQUEST, OTHER, REQUEST], ["10", "10", "11"], retriever, 5)
    assert retriever.asked == ["10", "11"]


def test_the_reward_of_each_case():
    reward = RewriteReward([REQUEST, OTHER], Listed(), RewardSettings(cutoff=10))
    outcomes = reward([0, 1, 0, 1, 1], ["10 11 12", "20", None, "99", None])
    assert [outcome.retrieval for outcome in outcomes] == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])
    assert [outcome.form for outcome in outcomes] == [0.1, 0.1, -2.0, 0.1, -2.0]
    assert reward([0], [None])[0].retrieval == 0.0
    assert reward([], []) == []
