"""Predictions for instances and the gains made of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from flexrec.critic.completion import training_gains
from flexrec.critic.examples import build_examples, history_embeddings
from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.prediction import predict_instances
from flexrec.critic.training import train_critic
from flexrec.errors import InputError
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import CriticPredictions, TrainingGains

NEEDS = {
    "interest": Need.model_validate(
        {
            "instruction": "Rank by interest.",
            "terms": [{"factors": [{"signal": "engagement"}]}],
            "relevant": {"rule": "engagement"},
        }
    ),
    "loyal": Need.model_validate(
        {
            "instruction": "Rank by interest in what is close.",
            "terms": [{"weight": 2.0, "factors": [{"signal": "engagement"}, {"signal": "similarity"}]}],
            "relevant": {"rule": "top", "count": 2},
        }
    ),
    "trend": Need.model_validate(
        {
            "instruction": "Rank by trend.",
            "terms": [{"factors": [{"signal": "trend"}]}],
            "relevant": {"rule": "top", "count": 2},
        }
    ),
}


@pytest.fixture(scope="module")
def critic(world, small):
    examples = build_examples(world.observations, world.item_embeddings, "exponential", small, seed=1)
    return train_critic(examples, small, seed=5)[0]


@pytest.fixture(scope="module")
def predictions(critic, world) -> pd.DataFrame:
    return predict_instances(critic, world.labelled_instances, world.item_embeddings, world.observations)


def identical(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return all(a[name].tolist() == b[name].tolist() for name in a.columns)


def test_predictions_one_by_one(critic, world, predictions, small) -> None:
    """The same numbers from single forward passes, with the inputs looked up by hand."""
    embeddings = dict(zip(world.item_embeddings["item_id"], world.item_embeddings["embedding"], strict=True))
    seen = world.observations.query("observed and split == 'train'")
    for row in (0, 17, 39):
        instance = world.labelled_instances.iloc[row]
        vectors = np.stack([embeddings[item] for item in instance["history_items"][::-1]])
        history = history_embeddings(
            np.arange(len(vectors))[None], np.array([instance["history_engagements"][::-1]]), vectors, small.decay
        )
        for place, item in enumerate(instance["candidates"]):
            others = seen[seen["user_id"] != instance["user_id"]]
            gains = 2 ** others["engagement"] - 1
            own = gains[others["item_id"] == item]
            strength = small.statistics_strength
            statistics = [np.log1p(len(own)), (own.sum() + strength * gains.mean()) / (len(own) + strength)]
            mean, variance = critic(
                torch.from_numpy(history),
                torch.from_numpy(embeddings[item][None]),
                torch.tensor([statistics], dtype=torch.float32),
            )
            assert predictions["mean"][row][place] == pytest.approx(mean.item(), rel=1e-4)
            assert predictions["variance"][row][place] == pytest.approx(variance.item(), rel=1e-4)


def test_predictions_fit_the_schema(predictions, world) -> None:
    CriticPredictions.validate(predictions)
    assert predictions["instance_id"].tolist() == world.labelled_instances["instance_id"].tolist()


def test_parquet_arrays_are_accepted(critic, world, predictions, tmp_path) -> None:
    world.labelled_instances.to_parquet(tmp_path / "instances.parquet")
    world.item_embeddings.to_parquet(tmp_path / "embeddings.parquet")
    instances, embeddings = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("instances", "embeddings"))
    assert identical(predict_instances(critic, instances, embeddings, world.observations), predictions)
    predictions.to_parquet(tmp_path / "predictions.parquet")
    loaded = pd.read_parquet(tmp_path / "predictions.parquet")
    assert identical(
        training_gains(instances, loaded, NEEDS, "exponential"),
        training_gains(world.labelled_instances, predictions, NEEDS, "exponential"),
    )


def test_only_the_latest_history_counts(critic, world, predictions, small) -> None:
    longer = world.labelled_instances.copy()
    first = world.item_embeddings["item_id"].iloc[0]
    full = longer["history_items"].map(len) == small.history_length
    longer["history_items"] = [
        [first, *items] if cut else items for items, cut in zip(longer["history_items"], full, strict=True)
    ]
    longer["history_engagements"] = [
        [99.0, *values] if cut else values for values, cut in zip(longer["history_engagements"], full, strict=True)
    ]
    assert full.sum() > 10
    assert identical(predict_instances(critic, longer, world.item_embeddings, world.observations), predictions)


def test_no_history_is_predicted(critic, world) -> None:
    empty = world.labelled_instances.assign(
        history_items=[[] for _ in range(40)], history_engagements=[[] for _ in range(40)]
    )
    CriticPredictions.validate(predict_instances(critic, empty, world.item_embeddings, world.observations))


def test_a_query_is_predicted_by_its_text(critic, world, predictions) -> None:
    # user 503 asks in words: its history no longer counts, its text does; everybody else stays the same
    text = np.eye(6, dtype=np.float32)[2]
    queries = pd.DataFrame({"user_id": [503], "embedding": [text]})
    predicted = predict_instances(critic, world.labelled_instances, world.item_embeddings, world.observations, queries)
    asks = (world.labelled_instances["user_id"] == 503).to_numpy()
    assert identical(predicted[~asks], predictions[~asks])
    assert not identical(predicted[asks], predictions[asks])
    without = world.labelled_instances.copy()
    without["history_items"] = [[]] * len(without)
    without["history_engagements"] = [[]] * len(without)
    again = predict_instances(critic, without, world.item_embeddings, world.observations, queries)
    assert identical(again[asks], predicted[asks])
    # an item whose embedding is the text, as the only history item, is the same context
    items = pd.concat([world.item_embeddings, pd.DataFrame({"item_id": [9], "embedding": [text]})])
    history = world.labelled_instances.copy()
    history["history_items"] = [[9]] * len(history)
    history["history_engagements"] = [[1.0]] * len(history)
    same = predict_instances(critic, history, items, world.observations)
    assert identical(same[asks], predicted[asks])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (pd.DataFrame({"user_id": [1], "embedding": [[1.0, 0.0]]}), "query_embeddings have 2 dimensions"),
        (pd.DataFrame({"user_id": [1, 1], "embedding": [[1.0] * 6] * 2}), "query_embeddings: user 1 occurs more than"),
    ],
)
def test_bad_queries(critic, world, queries, message) -> None:
    with pytest.raises(InputError, match=message):
        predict_instances(critic, world.labelled_instances, world.item_embeddings, world.observations, queries)


def test_hidden_labels_do_not_leak(world, small, predictions, blinded) -> None:
    """From the examples to the gains: nothing changes with labels that training must not see."""
    examples = build_examples(blinded, world.item_embeddings, "exponential", small, seed=1)
    critic, _ = train_critic(examples, small, seed=5)
    instances = world.labelled_instances.copy()
    held_out = instances["split"] != "train"
    instances["observed_engagement"] = [
        [123.0] * 6 if hidden else values
        for values, hidden in zip(instances["observed_engagement"], held_out, strict=True)
    ]
    blind = predict_instances(critic, instances, world.item_embeddings, blinded)
    assert identical(blind, predictions)
    assert identical(
        training_gains(instances, blind, NEEDS, "exponential"),
        training_gains(world.labelled_instances, predictions, NEEDS, "exponential"),
    )


def test_own_labels_do_not_leak(critic, world, predictions) -> None:
    """A training user's labels move the predictions for others, not those for this user."""
    user = 503
    own = world.observations["user_id"] == user
    changed = world.observations.assign(engagement=world.observations["engagement"].mask(own, 9.0))
    moved = predict_instances(critic, world.labelled_instances, world.item_embeddings, changed)
    mine = world.labelled_instances["user_id"] == user
    assert identical(moved[mine], predictions[mine])
    assert not identical(moved[~mine], predictions[~mine])


def test_bad_instances(critic, world) -> None:
    def ask(instances: pd.DataFrame, embeddings: pd.DataFrame = world.item_embeddings) -> None:
        predict_instances(critic, instances, embeddings, world.observations)

    instances = world.labelled_instances.head(1)
    with pytest.raises(InputError, match="nothing to predict"):
        ask(instances.head(0))
    with pytest.raises(InputError, match="labelled_instances: item 1 has no row"):
        ask(instances.assign(candidates=[[1, 100]]))
    with pytest.raises(InputError, match="labelled_instances: item 1 has no row"):
        ask(instances.assign(history_items=[[1]], history_engagements=[[1.0]]))
    with pytest.raises(InputError, match="have 2 dimensions, the critic was trained with 6"):
        ask(instances, world.item_embeddings.assign(embedding=[[1.0, 0.0]] * 25))


INSTANCE = pd.DataFrame(
    {
        "instance_id": [4, 5],
        "user_id": [1, 2],
        "split": ["train", "test"],
        "candidates": [[10, 20, 30], [10, 20, 30]],
        "similarity": [[0.5, 0.1, 0.2], [0.0, 0.0, 0.0]],
        "niche": [[0, 1, 0], [0, 0, 0]],
        "trend": [[4, 0, 2], [0, 0, 0]],
        "popularity": [[1, 1, 1], [0, 0, 0]],
        "quality": [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]],
        "recency": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "observed_engagement": [[np.nan, 5.0, np.nan], [np.nan, np.nan, np.nan]],
    }
)
PREDICTED = pd.DataFrame(
    {"instance_id": [5, 4], "mean": [[9.0, 9.0, 9.0], [6.0, 1.0, -2.0]], "variance": [[1.0] * 3, [4.0, 5.0, 6.0]]}
)


def test_gains_by_hand() -> None:
    gains = training_gains(INSTANCE, PREDICTED, NEEDS, "exponential").set_index("need")
    TrainingGains.validate(gains.reset_index()[["instance_id", "need", "mean", "variance"]])
    assert gains["instance_id"].tolist() == [4, 4, 4]
    # the second candidate is observed: 2^5 - 1 = 31 with variance 0; the third's negative mean is cut at 0
    assert gains.loc["interest", "mean"] == [6.0, 31.0, 0.0]
    assert gains.loc["interest", "variance"] == [4.0, 0.0, 6.0]
    # 2 * 6 * 0.5, 2 * 31 * 0.1; variances times (2 * similarity)^2: 4 * 1, 0, 6 * 0.16
    assert gains.loc["loyal", "mean"] == pytest.approx([6.0, 6.2, 0.0])
    assert gains.loc["loyal", "variance"] == pytest.approx([4.0, 0.0, 0.96])
    # no engagement, no uncertainty
    assert gains.loc["trend", "mean"] == [4.0, 0.0, 2.0]
    assert gains.loc["trend", "variance"] == [0.0, 0.0, 0.0]


def test_bad_predictions() -> None:
    with pytest.raises(InputError, match="instance 4 is missing"):
        training_gains(INSTANCE, PREDICTED.head(1), NEEDS, "linear")
    with pytest.raises(InputError, match="instance 4 has 1 values in variance for 3 candidates"):
        training_gains(INSTANCE, PREDICTED.assign(variance=[[1.0], [1.0]]), NEEDS, "linear")
    with pytest.raises(InputError, match="no training instance"):
        training_gains(INSTANCE.tail(1), PREDICTED, NEEDS, "linear")


def test_the_last_example_is_asked_with_the_statistics_of_a_prediction(world, small) -> None:
    """Of those that are held out the last has all other labels before it, as a prediction has."""
    examples = build_examples(world.observations, world.item_embeddings, "linear", small, seed=1)
    seen = world.observations.query("observed and split == 'train'")
    columns = (seen["item_id"].to_numpy(), seen["user_id"].to_numpy())
    of_all = item_statistics(*columns, *columns, seen["engagement"].to_numpy(), small.statistics_strength)
    counts = np.exp(examples.statistics[:, 0]), np.exp(of_all[:, 0])
    assert (counts[0] <= counts[1] + 1e-4).all()
    test = examples.part == 2
    full = np.isclose(*counts)
    # many of the last tenth, few of the others: an item has five labels or so
    assert full[test].mean() > 0.6
    assert full[examples.part == 0].mean() < 0.4
    # the mean that is shrunk to is not the same to the last digit, for it leaves nobody out
    np.testing.assert_allclose(examples.statistics[full, 1], of_all[full, 1], atol=0.1)
