import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from flexrec.errors import InputError
from flexrec.evaluation.switching import pair_agreement, switching, switching_summary

K = 6


def test_pairs_by_hand() -> None:
    # candidates 0 to 3. The one need orders them 0, 1, 2, 3; the other 2 and 3 (tied), then 0, then 1.
    # Pairs that both order strictly: all but (2, 3). To keep: (0, 1). To turn round: (0, 2), (0, 3), (1, 2), (1, 3).
    # The model says 0 1 2 3 and 2 1 0 3: it turns (0, 1), (0, 2), (1, 2) round and leaves (0, 3), (1, 3).
    found = pair_agreement(
        np.array([0, 1, 2, 3]), np.array([2, 1, 0, 3]), np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.0, 1.0, 4.0, 4.0])
    )
    assert found == {"pairs": 5, "tau": (2 - 3) / 5, "ideal_tau": (1 - 4) / 5, "turned": 2 / 4, "swayed": 1 / 1}


def test_without_a_pair_of_a_kind_there_is_no_number() -> None:
    order, rising = np.arange(3), np.array([1.0, 2.0, 3.0])
    same = pair_agreement(order, order, rising, rising)
    assert (same["pairs"], same["tau"], same["ideal_tau"], same["swayed"]) == (3, 1, 1, 0)
    assert np.isnan(same["turned"])
    nothing = pair_agreement(order, order, rising, np.ones(3))
    assert nothing["pairs"] == 0
    assert np.isnan([nothing[name] for name in ("tau", "ideal_tau", "turned", "swayed")]).all()


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_without_ties_it_is_kendalls_tau(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    ranking, other = generator.permutation(count), generator.permutation(count)
    gains, other_gains = generator.permutation(count) + 0.5, generator.permutation(count) + 0.5
    found = pair_agreement(ranking, other, gains, other_gains)
    # scipy compares the places of the same candidates
    assert found["tau"] == pytest.approx(kendalltau(np.argsort(ranking), np.argsort(other)).statistic, abs=1e-12)
    assert found["ideal_tau"] == pytest.approx(kendalltau(gains, other_gains).statistic, abs=1e-12)
    assert found["pairs"] == count * (count - 1) / 2


@given(st.integers(2, 10), st.integers(0, 2**31))
def test_with_ties_it_is_what_scipys_tau_b_says_before_its_correction(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gains, other_gains = generator.integers(0, 3, count).astype(float), generator.integers(0, 3, count).astype(float)
    found = pair_agreement(np.arange(count), np.arange(count), gains, other_gains)

    def tied(values: np.ndarray) -> float:
        counts = np.unique(values, return_counts=True, axis=0)[1]
        return float((counts * (counts - 1) / 2).sum())

    total = count * (count - 1) / 2
    one, two, both = tied(gains), tied(other_gains), tied(np.stack([gains, other_gains], axis=1))
    # P = all pairs without those tied in one or the other; those tied in both were subtracted twice
    assert found["pairs"] == total - one - two + both
    if found["pairs"]:
        # tau-b = (alike - turned) / sqrt((total - one) (total - two))
        difference = kendalltau(gains, other_gains).statistic * np.sqrt((total - one) * (total - two))
        assert found["ideal_tau"] == pytest.approx(difference / found["pairs"], abs=1e-9)


@given(st.integers(2, 10), st.integers(0, 2**31))
def test_a_deaf_model_and_the_ideal_lists(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gains, other_gains = generator.integers(0, 4, count).astype(float), generator.integers(0, 4, count).astype(float)
    ranking = generator.permutation(count)
    deaf = pair_agreement(ranking, ranking, gains, other_gains)
    ideal = pair_agreement(np.argsort(-gains), np.argsort(-other_gains), gains, other_gains)
    if deaf["pairs"]:
        assert deaf["tau"] == 1
        assert ideal["tau"] == pytest.approx(ideal["ideal_tau"])
    for found, turned in ((deaf, 0), (ideal, 1)):
        assert found["turned"] == turned or np.isnan(found["turned"])
        assert found["swayed"] == 0 or np.isnan(found["swayed"])


@pytest.mark.parametrize("ranking", [[0, 1, 1], [0, 1], [1, 2, 3]])
def test_what_is_no_ranking_is_refused(ranking) -> None:
    with pytest.raises(InputError, match="same 3 candidates"):
        pair_agreement(np.array(ranking), np.arange(3), np.ones(3), np.ones(3))


# --- Tables ---


def world(count: int = 60) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rankings of four models for three needs; candidate ids are not their places."""
    generator = np.random.default_rng(0)
    candidates = {number: generator.permutation(100)[:K] for number in range(count)}
    labelled = pd.DataFrame(
        {
            "instance_id": list(candidates),
            "user_id": [number // 2 for number in candidates],
            "candidates": [ids.tolist() for ids in candidates.values()],
        }
    )
    gains, rankings = [], []
    for number, ids in candidates.items():
        once = generator.permutation(K)
        for need in "abc":
            values = generator.integers(0, 5, K).astype(float)
            gains.append((number, need, values.tolist()))
            models = {
                "deaf": once,
                "ideal": np.argsort(-values, kind="stable"),
                "noisy": generator.permutation(K),
                "half": np.argsort(-values - 5.0 * generator.uniform(size=K)),
            }
            rankings += [(name, need, number, ids[order].tolist()) for name, order in models.items()]
    return (
        pd.DataFrame(rankings, columns=["method", "need", "instance_id", "ranking"]),
        pd.DataFrame(gains, columns=["instance_id", "need", "gains"]),
        labelled,
    )


@pytest.fixture(scope="module")
def compared() -> pd.DataFrame:
    return switching(*world())


@pytest.fixture(scope="module")
def summary(compared) -> pd.DataFrame:
    return switching_summary(compared, resamples=200, permutations=200, seed=0)


def test_every_pair_of_needs_once(compared) -> None:
    pairs = compared[["need", "other_need"]].drop_duplicates()
    assert [tuple(pair) for pair in pairs.to_numpy()] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(compared) == 4 * 3 * 60
    assert (compared["user_id"] == compared["instance_id"] // 2).all()


def test_what_the_models_are_shows(summary) -> None:
    rows = summary[summary["need"] == "all"].set_index("method")
    assert rows.loc["deaf", ["tau", "unmoved", "turned", "swayed", "switching", "p"]].tolist() == [1, 1, 0, 0, 0, 1]
    assert rows.loc["ideal", ["turned", "swayed", "switching", "correlation"]].tolist() == pytest.approx([1, 0, 1, 1])
    assert rows.loc["ideal", "tau"] == pytest.approx(rows.loc["ideal", "ideal_tau"])
    assert np.isnan(rows.loc["deaf", "correlation"])
    # noise turns as much where it should as where it should not
    assert abs(rows.loc["noisy", "switching"]) < 0.1
    assert rows.loc["noisy", "tau"] < 0.2
    assert rows.loc["noisy", "p"] > 0.05
    assert 0.2 < rows.loc["half", "switching"] < 0.8
    assert rows.loc["half", "p_holm"] < 0.05
    assert (rows["switching_low"] <= rows["switching"]).all()


def test_means_of_a_pair_are_over_its_instances(compared, summary) -> None:
    part = compared[(compared["method"] == "half") & (compared["need"] == "a") & (compared["other_need"] == "c")]
    row = summary[(summary["method"] == "half") & (summary["need"] == "a") & (summary["other_need"] == "c")].iloc[0]
    judged = part[part["pairs"] > 0]
    assert (row["n"], row["users"]) == (len(judged), judged["user_id"].nunique())
    assert row["tau"] == pytest.approx(judged["tau"].mean())
    assert row["correlation"] == pytest.approx(judged["tau"].corr(judged["ideal_tau"]))
    both = judged.dropna(subset=["turned", "swayed"])
    assert row["n_switching"] == len(both)
    assert row["switching"] == pytest.approx((both["turned"] - both["swayed"]).mean())


def test_holm_is_over_the_pairs_and_over_the_totals_apart(summary) -> None:
    pairs, totals = summary[summary["need"] != "all"], summary[summary["need"] == "all"]
    # the smallest p of n is multiplied by n
    assert pairs["p_holm"].min() == pytest.approx(min(1, 12 * pairs["p"].min()))
    assert totals["p_holm"].min() == pytest.approx(min(1, 4 * totals["p"].min()))


def test_two_needs_have_no_total(compared) -> None:
    one = compared[(compared["need"] == "a") & (compared["other_need"] == "b")]
    assert set(switching_summary(one, resamples=100, permutations=100, seed=0)["need"]) == {"a"}


def test_one_need_has_no_pair() -> None:
    rankings, gains, labelled = world(4)
    nothing = switching(rankings[rankings["need"] == "a"], gains, labelled)
    assert nothing.empty
    assert switching_summary(nothing, seed=0).empty


def test_an_instance_ranked_for_one_need_only_is_refused() -> None:
    rankings, gains, labelled = world(4)
    lacking = rankings[~((rankings["need"] == "b") & (rankings["instance_id"] == 2))]
    with pytest.raises(InputError, match="'deaf' ranks other instances for 'a' than for 'b'"):
        switching(lacking, gains, labelled)
    with pytest.raises(InputError, match="instance 3 for 'a', of which there are no gains"):
        switching(rankings, gains, labelled[labelled["instance_id"] < 3])
