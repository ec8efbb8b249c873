import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, permutation_test

from flexrec.errors import InputError
from flexrec.ranking import statistics
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test


def test_the_mean_is_the_mean_over_instances():
    mean, low, high = bootstrap_interval(np.array([1.0, 2.0, 6.0]), np.array([7, 7, 8]), seed=0)
    assert mean == 3.0
    # two clusters with sums 3 of 2 and 6 of 1: resampled means are 1.5, 9/3 = 3 and 6, so the ends are the extremes
    assert (low, high) == (1.5, 6.0)


def test_two_equal_clusters_take_their_three_possible_means():
    # means 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the quartiles of a 40% interval (.3, .7) are both 1/2
    assert bootstrap_interval(np.array([0.0, 1.0]), np.array(["a", "b"]), confidence=0.4, seed=0) == (0.5, 0.5, 0.5)


def test_interval_agrees_with_the_normal_theory():
    values = np.random.default_rng(5).normal(10.0, 2.0, size=4000)
    mean, low, high = bootstrap_interval(values, np.arange(4000), resamples=4000, seed=1)
    error = values.std() / np.sqrt(4000)
    # a 2.5% quantile from 4,000 draws has a standard error of about .04 of the mean's standard error
    assert low == pytest.approx(mean - norm.ppf(0.975) * error, abs=0.2 * error)
    assert high == pytest.approx(mean + norm.ppf(0.975) * error, abs=0.2 * error)


def test_clusters_widen_the_interval():
    # 50 users with 20 identical instances each: the information is that of 50 values, not of 1,000
    users = np.repeat(np.arange(50), 20)
    values = np.repeat(np.random.default_rng(3).normal(size=50), 20)
    _, low, high = bootstrap_interval(values, users, seed=2)
    _, alone_low, alone_high = bootstrap_interval(values, np.arange(1000), seed=2)
    assert (high - low) / (alone_high - alone_low) == pytest.approx(np.sqrt(20), rel=0.12)
    _, few_low, few_high = bootstrap_interval(values[::20], users[::20], seed=2)
    assert (low, high) == pytest.approx((few_low, few_high), rel=1e-12)


def test_unequal_clusters_against_a_loop():
    generator = np.random.default_rng(0)
    users = generator.integers(0, 12, size=60)
    values = generator.normal(size=60)
    _, low, high = bootstrap_interval(values, users, resamples=500, seed=4)
    again = np.random.default_rng(4).integers(0, 12, size=(500, 12))
    means = [np.concatenate([values[users == user] for user in drawn]).mean() for drawn in again]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-12)


def test_one_cluster_has_no_interval():
    mean, low, high = bootstrap_interval(np.array([1.0, 3.0]), np.array([4, 4]), seed=0)
    assert mean == 2.0
    assert np.isnan(low)
    assert np.isnan(high)


def test_the_seed_decides_and_the_chunks_do_not(monkeypatch):
    values, users = np.random.default_rng(1).normal(size=300), np.arange(300) // 3
    first = bootstrap_interval(values, users, seed=9)
    p = paired_test(values, values + 0.02 * np.sin(np.arange(300)), users, seed=9)
    assert bootstrap_interval(values, users, seed=9) == first
    assert bootstrap_interval(values, users, seed=10) != first
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 1000)
    assert bootstrap_interval(values, users, seed=9) == first
    assert paired_test(values, values + 0.02 * np.sin(np.arange(300)), users, seed=9) == p


def test_ten_thousand_instances_take_less_than_a_second():
    values, users = np.random.default_rng(1).normal(size=10_000), np.arange(10_000)
    start = time.process_time()
    bootstrap_interval(values, users, seed=0)
    assert time.process_time() - start < 1.0


def test_exact_p_value_by_hand():
    # differences 1, 2, 3 (one per user): of the 8 sign patterns only +++ and --- reach |6| -> 2/8
    a = np.array([1.0, 2.0, 3.0])
    assert paired_test(a, np.zeros(3), np.arange(3), seed=0) == 0.25
    assert paired_test(np.zeros(3), a, np.arange(3), seed=0) == 0.25
    # two instances of one user flip together: sums 3 and 3, patterns ++ and -- of 4 -> 1/2
    assert paired_test(a, np.zeros(3), np.array([0, 0, 1]), seed=0) == 0.5
    # the cancelling user does not change the sum: 1 - 1 and 2: every pattern has |2|
    assert paired_test(np.array([1.0, -1.0, 2.0]), np.zeros(3), np.array([0, 0, 1]), seed=0) == 1.0


@pytest.mark.parametrize("users", [4, 40])
def test_no_difference_gives_one(users):
    values = np.random.default_rng(0).normal(size=users)
    assert paired_test(values, values, np.arange(users), resamples=200, seed=0) == 1.0


@given(seed=st.integers(0, 200))
def test_exact_p_value_agrees_with_scipy(seed):
    generator = np.random.default_rng(seed)
    # quarters are exact in binary: scipy's one-sided shares do not forgive rounding
    a, b = generator.integers(0, 4, size=8) / 4.0, generator.integers(0, 4, size=8) / 4.0
    theirs = permutation_test(
        (a - b,), lambda d, axis: d.sum(axis=axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert paired_test(a, b, np.arange(8), seed=0) == pytest.approx(theirs.pvalue, abs=1e-12)


@given(seed=st.integers(0, 200))
def test_equal_patterns_count_as_equal_despite_rounding(seed):
    generator = np.random.default_rng(seed)
    thirds = generator.integers(-3, 4, size=6)
    sums = [
        abs(sum(s * d for s, d in zip(signs, thirds, strict=True))) for signs in itertools.product((1, -1), repeat=6)
    ]
    expected = np.mean([value >= abs(thirds.sum()) for value in sums])
    assert paired_test(thirds / 3.0, np.zeros(6), np.arange(6), seed=0) == expected


def test_sampled_p_value_agrees_with_the_exact_one():
    generator = np.random.default_rng(8)
    a, b, users = generator.normal(0.8, 1.0, size=14), np.zeros(14), np.arange(14)
    exact = paired_test(a, b, users, resamples=2**14, seed=0)
    sampled = paired_test(a, b, users, resamples=2**14 - 1, seed=0)
    assert 0.01 < exact < 0.5
    # standard error of a share of 16,383 draws: at most .004
    assert sampled == pytest.approx(exact, abs=0.02)
    assert sampled != exact


def test_p_values_are_uniform_when_nothing_differs():
    generator = np.random.default_rng(11)
    p = [
        paired_test(generator.normal(size=40), generator.normal(size=40), np.arange(40) // 2, resamples=199, seed=seed)
        for seed in range(400)
    ]
    # share below .05 in 400 tests: standard error .011
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_a_clear_difference_reaches_the_smallest_p_value():
    a = np.random.default_rng(0).normal(1.0, 0.1, size=200)
    assert paired_test(a, np.zeros(200), np.arange(200), resamples=999, seed=0) == 1 / 1000


def test_holm_by_hand():
    # sorted .01, .03, .04: times 3, 2, 1 = .03, .06, .04, made monotone .03, .06, .06
    assert holm([0.04, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.03, 0.06], abs=1e-15)
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_value_and_bonferroni_and_keeps_the_order(p):
    raw, adjusted = np.array(p), holm(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * len(p), 1.0)).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.5], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(InputError, match="p-values"):
        holm(p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.array([]), np.array([]), seed=0), "no value"),
        (lambda: bootstrap_interval(np.array([1.0, np.nan]), np.array([1, 2]), seed=0), "index 1"),
        (lambda: bootstrap_interval(np.array([1.0]), np.array([1, 2]), seed=0), "one length"),
        (lambda: bootstrap_interval(np.array([1.0]), np.array([1]), confidence=1.0, seed=0), "confidence"),
        (lambda: bootstrap_interval(np.array([1.0]), np.array([1]), resamples=0, seed=0), "resamples"),
        (lambda: paired_test(np.array([1.0]), np.array([1.0, 2.0]), np.array([1]), seed=0), "align"),
        (lambda: paired_test(np.array([np.inf]), np.array([1.0]), np.array([1]), seed=0), "finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
