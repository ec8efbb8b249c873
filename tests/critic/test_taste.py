"""The critic's taste: the baseline `mf` for a held-out user, never a training user's own label, and worth having."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from flexrec.baselines.factorisation import mf_scores
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.examples import build_examples
from flexrec.critic.prediction import predict_instances
from flexrec.critic.settings import CriticSettings, FactorisationSettings
from flexrec.critic.storage import load_critic, save_critic
from flexrec.critic.taste import FOLDS, Histories, Observed, taste
from flexrec.critic.training import train_critic
from flexrec.errors import InputError

HOW = FactorisationSettings(factors=2, bias_penalty=1.0, factor_penalty=1.0, iterations=8)
USERS, ITEMS = 60, 20


def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Two kinds of users and of items, all of one text; instances of users who were not observed."""
    rng = np.random.default_rng(0)

    def rating(user: int, item: int) -> float:
        return 3 + (-1) ** (user + item) + float(rng.normal(0, 0.2))

    rows = [
        (user, item, user * ITEMS + place, rating(user, item))
        for user in range(USERS)
        for place, item in enumerate(rng.permutation(ITEMS).tolist())
    ]
    observations = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "engagement"])
    observations = observations.assign(event_id=observations["timestamp"], observed=True, split="train")
    embeddings = pd.DataFrame({"item_id": range(ITEMS), "embedding": [np.ones(4) / 2] * ITEMS})
    instances = pd.DataFrame(
        {
            "instance_id": [0, 1],
            "user_id": [USERS, USERS + 1],
            "history_items": [[0, 1], [0, 1, 2]],
            "history_engagements": [[4.0, 2.0], [2.0, 4.0, 2.0]],
            "candidates": [[10, 11, 12], [13, 10, 11]],
        }
    )
    return observations, embeddings, instances


def observed(table: pd.DataFrame) -> Observed:
    return Observed(*(table[name].to_numpy() for name in ("user_id", "item_id", "engagement")))


def test_of_a_held_out_user_it_is_the_baseline() -> None:
    observations, _, instances = tables()
    histories = Histories(np.array([[1, 0, -1], [2, 1, 0]]), np.array([[2.0, 4.0, np.nan], [2.0, 4.0, 2.0]]))
    found = taste(
        instances["user_id"].to_numpy(),
        histories,
        np.repeat([0, 1], 3),
        np.concatenate(instances["candidates"].to_list()),
        observed(observations),
        HOW,
    )
    expected = mf_scores(instances, observations=observations, gain="linear", fitted=FittedSettings(mf=HOW), seed=0)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-12)


def test_a_training_user_is_predicted_from_other_users() -> None:
    observations, _, _ = tables()
    histories, users = Histories(np.array([[0]] * 2), np.array([[4.0]] * 2)), np.array([7, 8])

    def predicted(table: pd.DataFrame) -> np.ndarray:
        return taste(users, histories, np.array([0, 1]), np.array([3, 3]), observed(table), HOW)

    before = predicted(observations)
    # user 7 and all others of its part may say what they like of item 3
    part = observations["user_id"] % FOLDS == 7 % FOLDS
    other = observations.assign(engagement=observations["engagement"].where(~part, 99.0))
    after = predicted(other)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_it_learns_what_texts_do_not_say(tmp_path) -> None:
    observations, embeddings, instances = tables()
    errors, critics = {}, {}
    for name, how in (("without", None), ("with", HOW)):
        settings = CriticSettings(
            history_length=10,
            hidden_size=16,
            interaction_size=4,
            epochs=15,
            batch_size=64,
            learning_rate=5e-3,
            taste=how,
        )
        examples = build_examples(observations, embeddings, "linear", settings, seed=0)
        assert examples.statistics.shape[1] == settings.statistics_width
        critics[name], curve = train_critic(examples, settings, seed=0)
        errors[name] = curve["validation_mse"].min()
    # the labels' variance is 1.04, of which .04 is noise
    assert errors["with"] < 0.5 * errors["without"]

    save_critic(critics["with"], tmp_path)
    again = predict_instances(load_critic(tmp_path), instances, embeddings, observations)
    pd.testing.assert_frame_equal(again, predict_instances(critics["with"], instances, embeddings, observations))
    # even users like even items: 10 and 12
    assert again.at[0, "mean"][0] > again.at[0, "mean"][1]
    assert again.at[1, "mean"][0] > again.at[1, "mean"][1]


def test_refusals() -> None:
    observations, embeddings, _ = tables()
    with pytest.raises(ValidationError, match="item_statistics must be true with it"):
        CriticSettings(taste=HOW, item_statistics=False)
    one = observations[observations["user_id"] == 0]
    with pytest.raises(InputError, match=r"critic\.taste needs observed interactions of two training users"):
        build_examples(one, embeddings, "linear", CriticSettings(taste=HOW), seed=0)
