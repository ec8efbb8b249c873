"""Critics side by side."""

import numpy as np
import pytest

from flexrec.critic.calibration import calibration, reliability
from flexrec.critic.examples import build_examples
from flexrec.critic.prediction import predict_examples
from flexrec.critic.report import compare_critics
from flexrec.critic.training import train_critic


def test_each_critic_is_measured_on_the_same_examples(world, small) -> None:
    examples = build_examples(world.observations, world.item_embeddings, "exponential", small, seed=1)
    test = examples.select("test")
    critics = {
        name: train_critic(examples, small.model_copy(update={"item_statistics": used}), seed=5)[0]
        for name, used in (("with", True), ("without", False))
    }
    table, predictions, groups = compare_critics(critics, test)
    assert list(table) == list(critics)
    assert table["with"]["mse"] != table["without"]["mse"]
    for name, critic in critics.items():
        mean, variance = predict_examples(critic, test)
        assert table[name] == calibration(mean, variance, test.target)
        own = predictions[predictions["variant"] == name]
        assert own["gain"].tolist() == test.target.tolist()
        np.testing.assert_array_equal(own["mean"], mean)
        np.testing.assert_array_equal(own["variance"], variance)
        expected = reliability(mean, variance, test.target)["rmse"]
        assert groups.loc[groups["variant"] == name, "rmse"].tolist() == pytest.approx(expected.tolist())
