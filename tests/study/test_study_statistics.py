import numpy as np
import pytest
from scipy.stats import norm, permutation_test

from flexrec.errors import InputError
from flexrec.ranking.statistics import bootstrap_interval, paired_test
from flexrec.study.statistics import (
    Resampling,
    compare,
    comparisons,
    interval_over_seeds,
    paired_test_over_seeds,
    row_means,
)


def test_every_seed_has_the_same_weight():
    # seed 0 has the mean 1 of one instance, seed 1 the mean 0 of three: 1/2, not 1/4
    values, seeds = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0, 1, 1, 1])
    mean, low, high = interval_over_seeds(values, seeds, np.array([1, 1, 2, 3]), seed=0)
    assert mean == 0.5
    # no spread within a seed: the resampled means are 0, 1/2 and 1 with probability 1/4, 1/2, 1/4
    assert (low, high) == (0.0, 1.0)
    narrow = interval_over_seeds(values, seeds, np.array([1, 1, 2, 3]), confidence=0.4, seed=0)
    assert narrow == (0.5, 0.5, 0.5)


def test_one_seed_is_the_bootstrap_over_users():
    values = np.random.default_rng(0).normal(size=30)
    users = np.arange(30) // 3
    assert interval_over_seeds(values, np.zeros(30, int), users, seed=3) == bootstrap_interval(values, users, seed=3)


def test_the_interval_has_the_variance_of_two_stages():
    generator = np.random.default_rng(1)
    S, C = 40, 25
    means = generator.normal(0, 1.0, S)
    values = means[:, None] + generator.normal(0, 3.0, (S, C))
    seeds, users = np.repeat(np.arange(S), C), np.tile(np.arange(C), S)
    mean, low, high = interval_over_seeds(values.ravel(), seeds, users, resamples=4000, seed=2)
    assert mean == pytest.approx(values.mean())
    # (variance of the seeds' means + mean variance within a seed / C) / S, both with the bootstrap's 1/n
    variance = (values.mean(axis=1).var() + (values.var(axis=1) / C).mean()) / S
    width = 2 * norm.ppf(0.975) * np.sqrt(variance)
    assert high - low == pytest.approx(width, rel=0.06)
    # the seeds' means alone have about 1.36 of 1.72 parts of it
    assert width > 1.08 * 2 * norm.ppf(0.975) * np.sqrt(values.mean(axis=1).var() / S)


def test_the_interval_agrees_with_a_loop():
    generator = np.random.default_rng(7)
    seeds = np.repeat([0, 1, 2], [8, 12, 5])
    users = np.concatenate([np.arange(8) // 2, np.arange(12) // 3, np.arange(5)])
    values = generator.normal(seeds, 1.0)
    _, low, high = interval_over_seeds(values, seeds, users, resamples=4000, seed=0)
    draws = []
    for _ in range(4000):
        parts = []
        for name in generator.integers(0, 3, 3):
            own, known = values[seeds == name], users[seeds == name]
            names = np.unique(known)
            drawn = generator.choice(names, len(names))
            parts.append(np.concatenate([own[known == user] for user in drawn]).mean())
        draws.append(np.mean(parts))
    # two samples of 4,000: quantiles agree within a few hundredths of the spread
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.12)


def test_the_same_seed_gives_the_same_interval_bit_for_bit():
    values, seeds = np.random.default_rng(0).normal(size=20), np.arange(20) % 2
    first = interval_over_seeds(values, seeds, np.arange(20), seed=5)
    assert first == interval_over_seeds(values, seeds, np.arange(20), seed=5)
    assert first != interval_over_seeds(values, seeds, np.arange(20), seed=6)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, np.nan], {}, "finite"),
        ([1.0], {}, "align"),
        ([1.0, 2.0], {"confidence": 1.0}, "confidence"),
        ([1.0, 2.0], {"resamples": 0}, "resamples"),
    ],
)
def test_bad_input_is_refused(values, options, message):
    with pytest.raises(InputError, match=message):
        interval_over_seeds(np.array(values), np.array([0, 1]), np.array([0, 0]), seed=0, **options)


def test_the_test_is_the_paired_one_for_one_seed():
    generator = np.random.default_rng(3)
    a, b, users = generator.normal(0.2, 1, 40), generator.normal(0, 1, 40), np.arange(40) // 2
    expected = paired_test(a, b, users, resamples=999, seed=1)
    assert paired_test_over_seeds(a, b, np.zeros(40, int), users, resamples=999, seed=1) == expected


def test_a_user_counts_once_over_all_seeds():
    # one user in three seeds: of its two signs both are as extreme
    ones, users = np.ones(3), np.zeros(3, int)
    assert paired_test_over_seeds(ones, 0 * ones, np.arange(3), users, seed=0) == 1.0
    # three users of one seed each: 2 of 8 sign patterns
    assert paired_test_over_seeds(ones, 0 * ones, np.arange(3), np.arange(3), seed=0) == 0.25


def test_seeds_have_the_same_weight_in_the_test_too():
    # user 1 has one instance of seed 0 (weight 4/(2*1) = 2), users 2 to 4 those of seed 1 (weight 4/(2*3) = 2/3)
    a = np.array([1.0, -1.0, -1.0, -1.0])
    p = paired_test_over_seeds(a, 0 * a, np.array([0, 1, 1, 1]), np.array([1, 2, 3, 4]), seed=0)
    # the weighted differences 2, -2/3, -2/3, -2/3 sum to 0: every pattern is as extreme
    assert p == 1.0
    assert paired_test(a, 0 * a, np.array([1, 2, 3, 4]), seed=0) < 1.0


def test_the_test_agrees_with_scipy():
    generator = np.random.default_rng(11)
    difference = generator.normal(0.4, 1.0, 12)
    seeds, users = np.repeat([0, 1], 6), np.arange(12)
    p = paired_test_over_seeds(difference, 0 * difference, seeds, users, resamples=10**5, seed=0)
    oracle = permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert p == pytest.approx(oracle.pvalue, abs=1e-12)


# --- Rows ---


def test_means_are_those_of_the_rows(collected, how):
    means = row_means(collected.instances, ["ndcg_at_5"], how).set_index(["method", "metric"])
    own = collected.instances[collected.instances["method"] == "flexrec"]
    by_seed = own.groupby("seed")["ndcg_at_5"].mean()
    row = means.loc[("flexrec", "ndcg_at_5")]
    assert row["mean"] == pytest.approx(by_seed.mean())
    assert row["spread"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / np.sqrt(2))
    assert (row["seeds"], row["n"], row["users"]) == (2, 48, 12)
    assert row["low"] < row["mean"] < row["high"]
    # the other seed of this one failed
    assert means.loc[("rec_r1_critic", "ndcg_at_5")]["seeds"] == 1
    assert np.isnan(means.loc[("rec_r1_critic", "ndcg_at_5")]["spread"])
    # diagnostics stand beside what was asked for
    assert ("flexrec", "invalid_rate") in means.index
    assert ("flexrec", "recall_at_5") not in means.index


def test_rows_are_compared_over_the_seeds_that_both_have(collected, how):
    table = comparisons(collected.instances, ["flexrec", "untrained", "nothing"], "ndcg_at_5", how)
    assert set(table["reference"]) == {"flexrec", "untrained"}
    row = table[(table["method"] == "rec_r1_critic") & (table["reference"] == "flexrec")].iloc[0]
    assert row["paired_seeds"] == 1
    sides = [
        collected.instances[(collected.instances["method"] == name) & (collected.instances["seed"] == 0)]["ndcg_at_5"]
        for name in ("rec_r1_critic", "flexrec")
    ]
    assert row["difference"] == pytest.approx(sides[0].mean() - sides[1].mean())
    assert row["difference_high"] < 0
    assert row["p"] < 0.01
    # no row against itself
    assert not (table["method"] == table["reference"]).any()


def test_rows_of_other_instances_cannot_be_compared(collected):
    own = collected.instances[collected.instances["method"] == "flexrec"]
    other = collected.instances[collected.instances["method"] == "untrained"]
    with pytest.raises(InputError, match="'flexrec' and 'untrained' were measured on different instances"):
        compare(own, other[other["instance_id"] != 3], "ndcg_at_5", Resampling())


def test_rows_without_a_common_seed_have_no_difference(collected):
    own = collected.instances[collected.instances["method"] == "flexrec"]
    found = compare(own[own["seed"] == 0], own[own["seed"] == 1], "ndcg_at_5", Resampling())
    assert found["paired_seeds"] == 0
    assert np.isnan(found["p"])
