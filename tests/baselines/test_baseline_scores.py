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
    star_scores,
    trend_scores,
)
from flexrec.errors import InputError
from flexrec.ranking.needs import Need
from flexrec.retrieval.star import StarScoringSettings

INSTANCES = pd.DataFrame(
    {
        "instance_id": [3, 8],
        "user_id": [1, 9],
        "split": ["train", "test"],
        "candidates": [[10, 20, 30], [30, 10]],
        "history_items": [[30, 20], []],
        "history_engagements": [[2.0, 4.0], []],
        "similarity": [[0.5, 0.1, 0.2], [0.9, 0.4]],
        "niche": [[0, 1, 0], [1, 0]],
        "trend": [[4, 0, 2], [1, 7]],
        "popularity": [[1, 1, 1], [0, 0]],
        "quality": [[3.0, 3.0, 3.0], [3.0, 3.0]],
        "recency": [[0.0, 0.0, 0.0], [0.0, 0.0]],
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


EMBEDDINGS = pd.DataFrame({"item_id": [30, 10, 20], "embedding": [[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]})


def star(observations: pd.DataFrame, **settings: float) -> Scores:
    how = StarScoringSettings(decay=0.5, **settings)
    return star_scores(INSTANCES, observations=observations, item_embeddings=EMBEDDINGS, star=how)


def test_star() -> None:
    # history of user 1: item 30 with 2, then item 20 with 4; weights 2 * 0.25 and 4 * 0.5, 2.5 together.
    # texts: item 10 has cosines (0, 0.6) with them, item 20 (0.8, 1), item 30 (1, 0.8)
    semantic = np.array([0.5 * 0 + 2 * 0.6, 0.5 * 0.8 + 2 * 1, 0.5 * 1 + 2 * 0.8]) / 2.5
    # audiences without user 1: item 10 users 2 and 3, item 20 user 2, item 30 nobody: cosine (10, 20) 1 / sqrt(2)
    shared = np.array([2 * 0.5**0.5, 2 * 1.0, 0.0]) / 2.5
    scores = star(OBSERVATIONS)
    np.testing.assert_allclose(scores[0], (semantic + shared) / 2, atol=1e-7)
    # without history it is the retriever's similarity
    assert scores[1].tolist() == [0.9, 0.4]
    np.testing.assert_allclose(star(OBSERVATIONS, collaborative=0.0)[0], semantic, atol=1e-7)
    # only item 20 counts
    np.testing.assert_allclose(star(OBSERVATIONS, history=1, collaborative=0.0)[0], [0.6, 1.0, 0.8], atol=1e-7)
    # ratings do not
    even = star(OBSERVATIONS, engagement_weights=False, collaborative=0.0)[0]
    np.testing.assert_allclose(even, np.array([0.5 * 0.6, 0.25 * 0.8 + 0.5, 0.25 + 0.5 * 0.8]) / 0.75, atol=1e-7)


def test_star_needs_embeddings() -> None:
    with pytest.raises(InputError, match="labelled_instances: item 10 has no row in item_embeddings"):
        star_scores(
            INSTANCES, observations=OBSERVATIONS, item_embeddings=EMBEDDINGS.head(1), star=StarScoringSettings()
        )


@pytest.mark.parametrize("garbage", [float("nan"), 1e6])
def test_hidden_labels_do_not_leak(garbage: float) -> None:
    hidden = ~OBSERVATIONS["observed"] | (OBSERVATIONS["split"] != "train")
    blind = OBSERVATIONS.assign(engagement=OBSERVATIONS["engagement"].mask(hidden, garbage))
    for table in (blind, OBSERVATIONS[~hidden]):
        assert lists(star(table)) == lists(star(OBSERVATIONS))
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
    # what is below 0 keeps its order; engagement times trend
    assert lists(critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("engagement"))) == [
        [6.0, 1.0, -2.0],
        [2.0, 5.0],
    ]
    assert lists(critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("engagement", "trend"))) == [
        [24.0, 0.0, -4.0],
        [2.0, 35.0],
    ]


def test_critic_without_engagement_is_its_mean() -> None:
    scores = critic_scores(INSTANCES, critic_predictions=PREDICTED, need=need("trend"))
    assert lists(scores) == [[6.0, 1.0, -2.0], [2.0, 5.0]]


def test_missing_predictions() -> None:
    with pytest.raises(InputError, match="instance 3 is missing"):
        critic_scores(INSTANCES, critic_predictions=PREDICTED.head(1), need=need("trend"))
