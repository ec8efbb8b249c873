"""Scores of the baselines, by hand on two instances."""

import numpy as np
import pandas as pd
import pytest

from flexrec.baselines.scores import (
    Scores,
    critic_scores,
    item_mean_scores,
    popularity_scores,
    random_scores,
    retriever_scores,
    trend_scores,
)
from flexrec.errors import InputError
from flexrec.ranking.needs import Need

INSTANCES = pd.DataFrame(
    {
        "instance_id": [3, 8],
        "user_id": [1, 9],
        "split": ["train", "test"],
        "candidates": [[10, 20, 30], [30, 10]],
        "similarity": [[0.5, 0.1, 0.2], [0.9, 0.4]],
        "niche": [[0, 1, 0], [1, 0]],
        "trend": [[4, 0, 2], [1, 7]],
        "popularity": [[1, 1, 1], [0, 0]],
        "quality": [[3.0, 3.0, 3.0], [3.0, 3.0]],
    }
)
# user, item, engagement, observed, split
OBSERVATIONS = pd.DataFrame(
    [
        (1, 10, 1.0, True, "train"),
        (2, 10, 5.0, True, "train"),
        (3, 10, 3.0, True, "train"),
        (2, 20, 2.0, True, "train"),
        (2, 30, 4.0, False, "train"),
        (9, 30, 4.0, True, "test"),
    ],
    columns=["user_id", "item_id", "engagement", "observed", "split"],
).assign(event_id=range(6), timestamp=range(6))
PREDICTED = pd.DataFrame(
    {"instance_id": [8, 3], "mean": [[2.0, 5.0], [6.0, 1.0, -2.0]], "variance": [[1.0, 1.0], [1.0, 1.0, 1.0]]}
)


def need(*signals: str) -> Need:
    return Need.model_validate(
        {
            "instruction": "Rank.",
            "terms": [{"factors": [{"signal": signal} for signal in signals]}],
            "relevant": {"rule": "top", "count": 2},
        }
    )


def lists(scores: Scores) -> list[list[float]]:
    return [values.tolist() for values in scores]


def test_columns_of_the_table() -> None:
    assert lists(retriever_scores(INSTANCES)) == [[0.5, 0.1, 0.2], [0.9, 0.4]]
    assert lists(trend_scores(INSTANCES)) == [[4.0, 0.0, 2.0], [1.0, 7.0]]


def test_popularity() -> None:
    # user 1's own observation of item 10 does not count for user 1; unobserved and held-out ones for nobody
    scores = popularity_scores(INSTANCES, observations=OBSERVATIONS)
    np.testing.assert_allclose(scores[0], np.log([3, 2, 1]))
    np.testing.assert_allclose(scores[1], np.log([1, 4]))


def test_item_mean() -> None:
    scores = item_mean_scores(INSTANCES, observations=OBSERVATIONS, gain="exponential", strength=2.0)
    # gains 1; 31, 7, 3. For user 1 the others' mean is 41/3: (38 + 2 * 41/3) / 4, (3 + 2 * 41/3) / 3
    assert scores[0] == pytest.approx([(38 + 82 / 3) / 4, (3 + 82 / 3) / 3, 41 / 3])
    # for user 9 it is 42/4: nothing of item 30, (39 + 2 * 10.5) / 5
    assert scores[1] == pytest.approx([10.5, 12.0])
    linear = item_mean_scores(INSTANCES, observations=OBSERVATIONS, gain="linear", strength=2.0)
    # ratings 1, 5, 3, 2: mean 11/4; (9 + 5.5) / 5
    assert linear[1] == pytest.approx([2.75, 2.9])


@pytest.mark.parametrize("garbage", [float("nan"), 1e6])
def test_hidden_labels_do_not_leak(garbage: float) -> None:
    hidden = ~OBSERVATIONS["observed"] | (OBSERVATIONS["split"] != "train")
    blind = OBSERVATIONS.assign(engagement=OBSERVATIONS["engagement"].mask(hidden, garbage))
    for table in (blind, OBSERVATIONS[~hidden]):
        for score in (popularity_scores, item_mean_scores):
            arguments = {"gain": "exponential", "strength": 2.0}
            assert lists(score(INSTANCES, observations=table, **arguments)) == lists(
                score(INSTANCES, observations=OBSERVATIONS, **arguments)
            )


def test_random_is_seeded_per_instance() -> None:
    scores = lists(random_scores(INSTANCES, seed=1))
    assert [len(values) for values in scores] == [3, 2]
    assert lists(random_scores(INSTANCES.iloc[::-1], seed=1)) == scores[::-1]
    assert lists(random_scores(INSTANCES.tail(1), seed=1)) == scores[1:]
    assert lists(random_scores(INSTANCES, seed=2)) != scores


def test_critic_is_composed_with_the_need() -> None:
    # negative gains are cut at 0; engagement times trend
    assert lists(critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("engagement"))) == [
        [6.0, 1.0, 0.0],
        [2.0, 5.0],
    ]
    assert lists(critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("engagement", "trend"))) == [
        [24.0, 0.0, 0.0],
        [2.0, 35.0],
    ]


def test_critic_without_engagement_is_its_mean() -> None:
    scores = critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("trend"))
    assert lists(scores) == [[6.0, 1.0, -2.0], [2.0, 5.0]]


def test_missing_predictions() -> None:
    with pytest.raises(InputError, match="instance 3 is missing"):
        critic_scores(INSTANCES, critic_predictions=PREDICTED.head(1), need=need("trend"))
