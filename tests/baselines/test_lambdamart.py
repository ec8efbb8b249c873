"""LambdaMART: grades and features by hand, and what it learns."""

import sys

import numpy as np
import pandas as pd
import pytest

from flexrec.baselines.lambdamart import gain_grades, lambdamart_scores, list_features
from flexrec.baselines.scores import Scores
from flexrec.baselines.settings import FittedSettings, LambdaMartSettings
from flexrec.errors import InputError
from flexrec.ranking.needs import Need

K = 6
FITTED = FittedSettings(lambdamart=LambdaMartSettings(trees=30, leaves=7, min_rows=5))


def need(signal: str) -> Need:
    return Need.model_validate(
        {"instruction": "Rank.", "terms": [{"factors": [{"signal": signal}]}], "relevant": {"rule": "top", "count": 2}}
    )


def table(count: int, *, first: int, split: str, observed: float = 0.0) -> pd.DataFrame:
    """Random signals; `observed` is the share of candidates with a label, which is 10 times their quality."""
    rng = np.random.default_rng(first)
    quality = rng.random((count, K))
    label = np.where(rng.random((count, K)) < observed, 10 * quality, np.nan)
    return pd.DataFrame(
        {
            "instance_id": np.arange(count) + first,
            "user_id": np.arange(count) + first,
            "split": split,
            "candidates": [list(range(K))] * count,
            "similarity": rng.random((count, K)).tolist(),
            "niche": rng.integers(0, 2, (count, K)).tolist(),
            "trend": rng.integers(0, 50, (count, K)).tolist(),
            "popularity": rng.integers(0, 50, (count, K)).tolist(),
            "quality": quality.tolist(),
            "recency": [[0.0] * K] * count,
            "observed_engagement": label.tolist(),
        }
    )


TRAINING, ASKED = table(150, first=0, split="train", observed=0.6), table(60, first=1000, split="test")


def predictions(*tables: pd.DataFrame, mean: float | None = None) -> pd.DataFrame:
    """The critic knows half of the quality; or it predicts one number."""
    ids = np.concatenate([one["instance_id"] for one in tables])
    rng = np.random.default_rng(7)
    quality = np.concatenate([np.stack(one["quality"].map(np.asarray).tolist()) for one in tables])
    means = 10 * quality + 3 * rng.normal(size=quality.shape) if mean is None else np.full(quality.shape, mean)
    return pd.DataFrame({"instance_id": ids, "mean": means.tolist(), "variance": np.ones_like(means).tolist()})


def scores(
    asked: pd.DataFrame = ASKED,
    training: pd.DataFrame = TRAINING,
    *,
    signal: str = "trend",
    predicted: pd.DataFrame | None = None,
    gain: str = "linear",
) -> Scores:
    return lambdamart_scores(
        asked,
        training_instances=training,
        critic_predictions=predictions(training, asked) if predicted is None else predicted,
        need=need(signal),
        gain=gain,
        fitted=FITTED,
        seed=0,
    )


def test_few_gains_are_grades_as_they_are() -> None:
    grades, worth = gain_grades(np.array([31.0, 0.0, 7.0, 31.0]), 3)
    assert grades.tolist() == [2, 0, 1, 2]
    assert worth.tolist() == [0.0, 7.0, 31.0]


def test_many_gains_are_cut_at_quantiles() -> None:
    # 0, 0, 0, 1, 2, 4, 5, 6, 7: the third lies at place 8/3 (0 + 2/3 * 1), two thirds at 16/3 (4 + 1/3 * 1)
    grades, worth = gain_grades(np.array([0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]), 3)
    assert grades.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert worth == pytest.approx([0.0, 7 / 3, 6.0])
    # all but two are equal: a grade may be empty, and then does not exist
    grades, worth = gain_grades(np.array([5.0] * 8 + [1.0, 9.0]), 2)
    assert grades.tolist() == [0] * 9 + [1]
    assert worth == pytest.approx([41 / 9, 9.0])


def test_features_by_hand() -> None:
    one = pd.DataFrame(
        {
            "instance_id": [4],
            "candidates": [[1, 2, 3]],
            "similarity": [[0.5, 0.1, 0.3]],
            "niche": [[0, 0, 0]],
            "trend": [[10, 0, 5]],
            "popularity": [[1, 2, 3]],
            "quality": [[4.0, 2.0, 2.0]],
            "recency": [[0.0, 0.5, 1.0]],
        }
    )
    critic = pd.DataFrame({"instance_id": [4], "mean": [[7.0, 7.0, 9.0]], "variance": [[1.0, 1.0, 1.0]]})
    np.testing.assert_allclose(
        list_features(one, critic),
        [
            [0.5, 0, 10, 1, 4, 0.0, 7, 1.0, 0, 1.0, 0.0, 1, 0.0, 0],
            [0.1, 0, 0, 2, 2, 0.5, 7, 0.0, 0, 0.0, 0.5, 0, 0.5, 0],
            [0.3, 0, 5, 3, 2, 1.0, 9, 0.5, 0, 0.5, 1.0, 0, 1.0, 1],
        ],
        atol=1e-12,
    )


def share_of_pairs(found: Scores, truth: pd.Series) -> float:
    """Share of the pairs of one list with different truths that are in the right order."""
    right = []
    for values, true in zip(found, truth, strict=True):
        ahead = np.subtract.outer(np.asarray(true), np.asarray(true)) > 0
        right += np.subtract.outer(values, values)[ahead].tolist()
    return float((np.array(right) > 0).mean())


def test_it_learns_a_need_without_a_label() -> None:
    assert share_of_pairs(scores(), ASKED["trend"]) > 0.95


def test_it_learns_engagement_from_labels_and_the_critic() -> None:
    found = share_of_pairs(scores(signal="engagement"), ASKED["quality"])
    predicted = predictions(TRAINING, ASKED)["mean"].tail(len(ASKED))
    critic = share_of_pairs([np.array(mean) for mean in predicted], ASKED["quality"])
    # the labels say that quality decides, the critic is noisy
    assert found > critic + 0.05
    assert critic > 0.7


def test_what_it_may_not_read() -> None:
    expected = [values.tolist() for values in scores(signal="engagement")]
    labelled = ASKED.assign(observed_engagement=[[99.0] * K] * len(ASKED))
    assert [values.tolist() for values in scores(labelled, signal="engagement")] == expected
    # training instances of users who are asked teach nothing
    own = ASKED.head(20).assign(split="train", observed_engagement=[[99.0, *[0.0] * (K - 1)]] * 20)
    both = pd.concat([TRAINING, own.assign(instance_id=np.arange(20) + 5000)])
    predicted = predictions(TRAINING, ASKED)
    more = predicted.tail(20).assign(instance_id=np.arange(20) + 5000)
    found = scores(training=both, signal="engagement", predicted=pd.concat([predicted, more]))
    assert [values.tolist() for values in found] == expected


def test_reruns_and_subsets_agree() -> None:
    whole, again = scores(), scores()
    assert [values.tolist() for values in whole] == [values.tolist() for values in again]
    part = scores(ASKED.iloc[[5, 2]], predicted=predictions(TRAINING, ASKED))
    assert [values.tolist() for values in part] == [whole[5].tolist(), whole[2].tolist()]


def test_nothing_to_learn() -> None:
    flat = TRAINING.assign(observed_engagement=[[float("nan")] * K] * len(TRAINING))
    found = scores(training=flat, signal="engagement", predicted=predictions(flat, ASKED, mean=2.0))
    assert [values.tolist() for values in found] == [[0.0] * K] * len(ASKED)
    with pytest.raises(InputError, match="no training instance of a user who is not asked about"):
        scores(training=ASKED.assign(split="train"), predicted=predictions(ASKED))
    with pytest.raises(InputError, match="instance 0 is missing"):
        scores(predicted=predictions(ASKED))


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"LightGBM cannot be loaded .*Debian: libgomp1"):
        scores()
