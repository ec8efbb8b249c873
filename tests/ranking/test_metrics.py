import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from flexrec.errors import InputError
from flexrec.ranking.metrics import kendall_tau, mrr, ndcg, precision, recall, relevance
from flexrec.ranking.needs import Need

# few distinct values, so that ties are common
GAINS = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 8)), elements=st.sampled_from([0, 0.01, 0.1, 1, 31])
)
RELEVANT = arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 8)))


def need(relevant: dict) -> Need:
    return Need.model_validate(
        {"instruction": "x", "terms": [{"factors": [{"signal": "engagement"}]}], "relevant": relevant}
    )


def test_ndcg_by_hand():
    # ranked gains 0, 2, 4; DCG@2 = 2/log2(3); IDCG@2 = 4 + 2/log2(3);  DCG@3 = 2/log2(3) + 4/2
    ranked = np.array([0.0, 2.0, 4.0])
    second = 2 / math.log2(3)
    assert ndcg(ranked, 1) == 0.0
    assert ndcg(ranked, 2) == pytest.approx(second / (4 + second), rel=1e-14)
    assert ndcg(ranked, 3) == pytest.approx((second + 2) / (4 + second), rel=1e-14)
    assert ndcg(ranked) == ndcg(ranked, 3) == ndcg(ranked, 30)


def test_ndcg_without_any_gain_is_zero():
    with np.errstate(all="raise"):
        values = ndcg(np.array([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0]]), 5)
    assert values.tolist() == [0.0, pytest.approx(1 / math.log2(3)), 1.0]


@given(ranked=GAINS, k=st.integers(1, 10))
def test_ndcg_agrees_with_scikit_learn(ranked, k):
    # distinct scores, decreasing along the rank: the scores have no ties, the gains do
    scores = np.broadcast_to(-np.arange(ranked.shape[1], dtype=float), ranked.shape)
    theirs = [ndcg_score(ranked[i : i + 1], scores[i : i + 1], k=k, ignore_ties=True) for i in range(len(ranked))]
    assert ndcg(ranked, k) == pytest.approx(theirs, rel=1e-12, abs=1e-15)


@given(ranked=GAINS, k=st.integers(1, 10), scale=st.floats(1e-3, 1e3))
def test_ndcg_lies_in_the_unit_interval_and_ignores_the_unit_of_gains(ranked, k, scale):
    values = ndcg(ranked, k)
    assert ((values >= 0.0) & (values <= 1.0)).all()
    assert ndcg(ranked * scale, k) == pytest.approx(values, rel=1e-9)


@given(gains=GAINS, k=st.integers(1, 10))
def test_ndcg_of_the_ideal_order_is_exactly_one(gains, k):
    ideal = -np.sort(-gains, axis=-1)
    assert ndcg(ideal, k).tolist() == [float(row.any()) for row in gains]


def test_rounding_never_lifts_ndcg_above_one():
    # one and two steps above 1: this order's sum rounds to more than the ideal order's
    step = np.finfo(float).eps
    assert ndcg(np.array([1 + step, 1 + 2 * step, 1 + 2 * step])) == 1.0


@given(gains=GAINS, k=st.integers(1, 10), rank=st.integers(0, 6))
def test_moving_a_better_candidate_up_never_lowers_ndcg(gains, k, rank):
    assume(rank + 1 < gains.shape[1])
    swapped = gains.copy()
    swapped[:, [rank, rank + 1]] = -np.sort(-gains[:, [rank, rank + 1]], axis=1)
    assert (ndcg(swapped, k) >= ndcg(gains, k) - 1e-15).all()


def test_ndcg_of_a_random_order_is_the_mean_over_all_permutations():
    # E[DCG] = mean gain * sum of discounts = 2 * (1 + 1/log2(3) + 1/2)
    gains = np.array([1.0, 2.0, 3.0])
    orders = np.array(list(itertools.permutations(range(3))))
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(gains[orders]).mean() == pytest.approx(2 * (1.5 + 1 / math.log2(3)) / ideal, rel=1e-14)


def test_leading_dimensions_are_kept():
    ranked = np.arange(24.0).reshape(2, 3, 4)
    assert ndcg(ranked, 2).shape == recall(ranked > 10, 2).shape == mrr(ranked > 10, 2).shape == (2, 3)
    assert ndcg(ranked, 2)[1, 2] == ndcg(ranked[1, 2], 2)


@pytest.mark.parametrize(
    ("relevant", "k", "expected"),
    [
        # recall, precision, reciprocal rank
        ([0, 1, 0, 1], 1, (0.0, 0.0, 0.0)),
        ([0, 1, 0, 1], 2, (1 / 2, 1 / 2, 1 / 2)),
        ([0, 1, 0, 1], 4, (1.0, 1 / 2, 1 / 2)),
        ([1, 1, 1, 1], 2, (1 / 2, 1.0, 1.0)),  # more relevant than places
        ([0, 0, 0, 0], 3, (0.0, 0.0, 0.0)),  # nothing relevant
        ([0, 0, 1], 30, (1.0, 1 / 3, 1 / 3)),  # k above K is K
        ([1], 5, (1.0, 1.0, 1.0)),
    ],
)
def test_recall_precision_and_reciprocal_rank_by_hand(relevant, k, expected):
    flags = np.array(relevant, dtype=bool)
    assert (recall(flags, k), precision(flags, k), mrr(flags, k)) == pytest.approx(expected, abs=1e-15)


@given(relevant=RELEVANT, k=st.integers(1, 10))
def test_recall_precision_and_reciprocal_rank_against_plain_loops(relevant, k):
    for row, r, p, m in zip(relevant, recall(relevant, k), precision(relevant, k), mrr(relevant, k), strict=True):
        head = list(row)[:k]
        assert r == (sum(head) / sum(row) if any(row) else 0.0)
        assert p == pytest.approx(sum(head) / len(head), abs=1e-15)
        assert m == (1 / (head.index(True) + 1) if True in head else 0.0)


@pytest.mark.parametrize("metric", [recall, precision, mrr])
def test_relevance_must_be_boolean(metric):
    with pytest.raises(InputError, match="booleans"):
        metric(np.array([1.0, 0.0]), 1)
    with pytest.raises(InputError, match="at least 1"):
        metric(np.array([True, False]), 0)


def test_kendall_tau_by_hand():
    # 7 before 5 as shown; 9 first although shown last: pairs (7,5) alike, (9,7) and (9,5) unlike -> (1 - 2)/3
    assert kendall_tau(np.array([9, 7, 5]), np.array([7, 5, 9])) == pytest.approx(-1 / 3, abs=1e-15)
    shown = np.array([[3, 1, 2], [3, 1, 2], [8, 9, 7]])
    assert kendall_tau(np.array([[3, 1, 2], [2, 1, 3], [9, 8, 7]]), shown).tolist() == [
        1.0,
        -1.0,
        pytest.approx(1 / 3),
    ]


def test_kendall_tau_of_a_single_candidate_is_zero():
    assert kendall_tau(np.array([[4], [5]]), np.array([[4], [5]])).tolist() == [0.0, 0.0]


@given(K=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_kendall_tau_agrees_with_scipy(K, seed):
    generator = np.random.default_rng(seed)
    ids = generator.choice(1000, size=K, replace=False) - 500
    ranking, shown = generator.permutation(ids), generator.permutation(ids)
    positions = [int(np.flatnonzero(shown == item)[0]) for item in ranking]
    assert kendall_tau(ranking, shown) == pytest.approx(kendalltau(range(K), positions).statistic, abs=1e-12)
    # symmetric, and a reversal changes the sign
    assert kendall_tau(shown, ranking) == kendall_tau(ranking, shown)
    assert kendall_tau(ranking[::-1], shown) == pytest.approx(-kendall_tau(ranking, shown), abs=1e-12)


@pytest.mark.parametrize(
    ("ranking", "shown"),
    [([1, 2], [1, 3]), ([1, 1], [1, 1]), ([1, 2], [1, 2, 3]), ([], []), ([[1, 2]], [1, 2])],
)
def test_kendall_tau_refuses_what_is_no_permutation(ranking, shown):
    with pytest.raises(InputError):
        kendall_tau(np.array(ranking, dtype=int), np.array(shown, dtype=int))


def test_relevance_by_engagement_reads_the_raw_engagement():
    gains = np.array([[31.0, 15.0], [1.0, 31.0]])
    rating = np.array([[5.0, 4.0], [1.0, 5.0]])
    flags = relevance(need({"rule": "engagement"}), gains, rating, 5.0)
    assert flags.tolist() == [[True, False], [False, True]]
    assert flags.dtype == bool


def test_relevance_by_engagement_needs_its_inputs():
    rule = need({"rule": "engagement"})
    gains = np.array([1.0, 2.0])
    for engagement, threshold in [(None, 1.0), (gains, None)]:
        with pytest.raises(InputError, match="threshold"):
            relevance(rule, gains, engagement, threshold)
    with pytest.raises(InputError, match="NaN"):
        relevance(rule, gains, np.array([1.0, np.nan]), 1.0)
    with pytest.raises(InputError, match="aligned"):
        relevance(rule, gains, np.array([1.0]), 1.0)


def test_relevance_of_the_top_by_hand():
    top2 = need({"rule": "top", "count": 2})
    gains = np.array([[0.3, 0.1, 0.2], [0.0, 0.5, 0.0], [0.2, 0.2, 0.2], [0.0, 0.0, 0.0]])
    assert relevance(top2, gains, None, None).tolist() == [
        [True, False, True],
        [False, True, False],  # a gain of 0 is never relevant
        [True, True, True],  # ties with the second best
        [False, False, False],
    ]
    assert relevance(need({"rule": "top"}), gains[0], None, None).tolist() == [True, True, True]  # 6 above K


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), count=st.integers(1, 9))
def test_relevance_of_the_top_does_not_depend_on_the_order(seed, count):
    generator = np.random.default_rng(seed)
    gains = generator.integers(0, 5, size=8) / 2.0
    order = generator.permutation(8)
    rule = need({"rule": "top", "count": count})
    flags = relevance(rule, gains, None, None)
    assert relevance(rule, gains[order], None, None).tolist() == flags[order].tolist()
    assert (gains[flags].min(initial=9.0) > gains[~flags].max(initial=0.0)) or not flags.any()


def test_random_order_rates_of_six_relevant_in_thirty():
    # precision 6/30 = .2, recall 5/30 = .1667 at 5, whatever the gains
    generator = np.random.default_rng(0)
    gains = generator.random((20_000, 30))
    flags = relevance(need({"rule": "top", "count": 6}), gains, None, None)
    assert (flags.sum(axis=1) == 6).all()
    # standard error of the precision below .0013
    assert precision(flags, 5).mean() == pytest.approx(0.2, abs=0.005)
    assert recall(flags, 5).mean() == pytest.approx(5 / 30, abs=0.005)
