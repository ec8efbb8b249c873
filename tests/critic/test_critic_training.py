"""Training: determinism, the kept epoch, and what it learns."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from flexrec.critic.calibration import accuracy
from flexrec.critic.examples import CriticExamples, build_examples
from flexrec.critic.prediction import predict_examples
from flexrec.critic.settings import CriticSettings
from flexrec.critic.training import train_critic
from flexrec.errors import InputError


@pytest.fixture(scope="module")
def examples(world, small) -> CriticExamples:
    return build_examples(world.observations, world.item_embeddings, "exponential", small, seed=1)


def state(critic: torch.nn.Module) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in critic.state_dict().items()}


def test_bit_for_bit_the_same(examples, small) -> None:
    torch.manual_seed(1)
    first, first_curve = train_critic(examples, small, seed=5)
    torch.manual_seed(2)
    second, second_curve = train_critic(examples, small, seed=5)
    assert state(first) == state(second)
    pd.testing.assert_frame_equal(first_curve, second_curve, check_exact=True)


def test_the_seed_matters(examples, small) -> None:
    assert state(train_critic(examples, small, seed=5)[0]) != state(train_critic(examples, small, seed=6)[0])


def test_random_state_of_the_caller_is_left_alone(examples, small) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_critic(examples, small, seed=5)
    assert torch.equal(torch.rand(2), expected)


def test_the_best_epoch_is_kept(examples) -> None:
    # a large step overfits at once, so that the last epoch is not the best
    settings = CriticSettings(
        history_length=3, hidden_size=32, interaction_size=8, epochs=12, batch_size=16, learning_rate=0.02
    )
    critic, curve = train_critic(examples, settings, seed=5)
    assert curve["epoch"].tolist() == list(range(12))
    best = curve["validation_mse"].idxmin()
    assert best < 11
    assert np.flatnonzero(curve["best"]).tolist() == [best]
    assert not critic.training
    validation = examples.select("validation")
    measured = accuracy(*predict_examples(critic, validation), validation.target)
    assert measured["mse"] == curve["validation_mse"][best]
    assert measured["nll"] == curve["validation_nll"][best]


def test_scales_come_from_the_fit_examples(examples, small) -> None:
    critic, _ = train_critic(examples, small, seed=5)
    fit = examples.select("fit")
    assert critic.target_mean.item() == pytest.approx(fit.target.mean(), rel=1e-5)
    assert critic.target_std.item() == pytest.approx(fit.target.std(), rel=1e-5)
    np.testing.assert_allclose(critic.statistics_mean, fit.statistics.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(critic.statistics_std, fit.statistics.std(axis=0), rtol=1e-5)


def test_held_out_labels_do_not_move_the_weights(examples, small) -> None:
    target = examples.target.copy()
    target[examples.part == 2] = 1e3
    changed = CriticExamples(**{**vars(examples), "target": target})
    assert state(train_critic(examples, small, seed=5)[0]) == state(train_critic(changed, small, seed=5)[0])


def test_every_epoch_is_published(examples, small, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="flexrec.curves"):
        _, curve = train_critic(examples, small, seed=5)
    records = [record for record in caplog.records if record.name == "flexrec.curves"]
    assert [(record.curve, record.step) for record in records] == [("critic", epoch) for epoch in range(4)]
    assert [record.values["validation_mse"] for record in records] == curve["validation_mse"].tolist()


def test_labels_that_do_not_vary(examples, small) -> None:
    constant = CriticExamples(**{**vars(examples), "target": np.full_like(examples.target, 7.0)})
    critic, curve = train_critic(constant, small, seed=5)
    assert critic.target_std.item() == 1.0
    assert np.isfinite(curve["validation_nll"]).all()


def test_divergence_is_said(examples) -> None:
    settings = CriticSettings(hidden_size=16, interaction_size=8, epochs=3, batch_size=16, learning_rate=1e30)
    with pytest.raises(InputError, match="diverges in epoch 0; lower its learning_rate"):
        train_critic(examples, settings, seed=5)


def test_recovers_a_known_mean_and_noise() -> None:
    """Gains with a mean and a noise that depend on the item: both must come back on held-out examples."""
    rng = np.random.default_rng(0)
    items, users, per_user = 200, 400, 20
    vectors = rng.normal(size=(items, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mean, deviation = 3 + 2 * vectors[:, 0], np.exp(1.5 * vectors[:, 1])
    item = rng.integers(0, items, size=users * per_user)
    observations = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), per_user),
            "item_id": item,
            "timestamp": np.tile(np.arange(per_user), users),
            "engagement": mean[item] + deviation[item] * rng.normal(size=len(item)),
            "event_id": np.arange(len(item)),
            "observed": True,
            "split": "train",
        }
    )
    embeddings = pd.DataFrame({"item_id": np.arange(items), "embedding": list(vectors)})
    settings = CriticSettings(hidden_size=32, interaction_size=16, epochs=12, batch_size=64, item_statistics=False)
    examples = build_examples(observations, embeddings, "linear", settings, seed=0)
    critic, _ = train_critic(examples, settings, seed=0)
    test = examples.select("test")
    predicted_mean, predicted_variance = predict_examples(critic, test)
    true_variance = deviation[test.candidate] ** 2
    assert np.corrcoef(predicted_mean, mean[test.candidate])[0, 1] > 0.95
    assert np.corrcoef(predicted_variance, true_variance)[0, 1] > 0.9
    assert np.median(predicted_variance / true_variance) == pytest.approx(1, abs=0.25)
