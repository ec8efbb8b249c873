"""Rewards, ratios and shares put together: numbers by hand."""

import pytest
import torch
from pydantic import ValidationError

from flexrec.rl.methods import (
    end_rewards,
    item_advantages,
    item_rewards,
    item_shares,
    list_rewards,
    mean_over_items,
    rollout_weights,
)
from flexrec.rl.settings import MethodEntry, MethodSettings, UncertaintySettings


def ranked(formed=(True, True)):
    """Two rollouts of one prompt: the ideal order and the reversed one of gains 3 and 1."""
    gains = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    return {
        "gains": gains,
        "variances": torch.zeros_like(gains),
        "named": torch.ones_like(gains),
        "idcg": torch.full((1, 2), 3 + 0.6309297535714575, dtype=torch.float64),
        "formed": torch.tensor([formed]),
    }


# (1 + 3 * 0.63093) / (3 + 0.63093) = 2.89279 / 3.63093
REVERSED = 0.7967075809905066


def test_the_form_is_rewarded_beside_the_list():
    torch.testing.assert_close(list_rewards(ranked()), torch.tensor([[1.0, REVERSED]], dtype=torch.float64))
    rewards = list_rewards(ranked((True, False)), (0.1, -2.0))
    # without its form a list is worth nothing
    torch.testing.assert_close(rewards, torch.tensor([[1.1, -2.0]], dtype=torch.float64))
    unnamed = ranked() | {"named": torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)}
    assert list_rewards(unnamed)[0, 0].item() == pytest.approx(3 / 3.6309297535714575)


def test_a_group_does_not_see_the_form_where_it_is_always_right():
    lists = MethodSettings(item_reward="none")
    rewarded = lists.model_copy(update={"format_reward": (0.1, -2.0)})
    torch.testing.assert_close(item_advantages(ranked(), lists), item_advantages(ranked(), rewarded))
    # where the better list has the wrong form, it is the worse answer
    wrong = ranked((False, True))
    assert item_advantages(wrong, rewarded)[0, 0, 0] < 0 < item_advantages(wrong, lists)[0, 0, 0]


def test_where_rewards_come_token_by_token():
    method = MethodSettings(algorithm="ppo", item_reward="rank_relevance", format_reward=(0.5, -1.0))
    gains = ranked()["gains"] / 3.6309297535714575
    torch.testing.assert_close(item_rewards(ranked(), method), gains)
    assert end_rewards(ranked((True, False)), method).tolist() == [[0.5, -1.0]]
    plain = method.model_copy(update={"format_reward": None})
    assert end_rewards(ranked(), plain).tolist() == [[0.0, 0.0]]
    lists = method.model_copy(update={"item_reward": "none"})
    assert (item_rewards(ranked(), lists) == 0).all()
    torch.testing.assert_close(end_rewards(ranked(), lists)[0, 0].item(), 1.5)


@pytest.mark.parametrize(
    ("reward", "first"),
    [
        ("independent", 3 / 3.6309297535714575),
        ("rank_relevance", 3 / 3.6309297535714575),
        # no more than the list earns: what was not named is not below it
        ("rank_dcg", 3 / 3.6309297535714575),
        # the best stands first: swapping it with the other would lose 2 * (1 - 0.63093)
        ("swap_causal", 2 * 0.36907024642854247 / 3.6309297535714575),
        ("swap_noncausal", 2 * 0.36907024642854247 / 3.6309297535714575),
    ],
)
def test_a_rank_that_was_not_named_earns_nothing(reward, first):
    half = ranked() | {"named": torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)}
    rewards = item_rewards(half, MethodSettings(item_reward=reward))
    torch.testing.assert_close(rewards[0, 0], torch.tensor([first, 0.0], dtype=torch.float64))
    whole = item_rewards(ranked(), MethodSettings(item_reward=reward))
    torch.testing.assert_close(rewards[0, 1], whole[0, 1])


def test_known_labels_weigh_equally():
    assert rollout_weights(ranked(), UncertaintySettings(scope="group")).tolist() == [[1.0, 1.0]]


def test_what_an_answer_does_not_name_does_not_make_it_unsure():
    """Candidate 0 is observed, candidate 1 predicted; the first rollout names 0 alone, the second 1 alone."""
    prompt = ranked() | {
        "variances": torch.tensor([[[0.0, 0.04], [0.04, 0.0]]], dtype=torch.float64),
        "named": torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64),
    }
    # u = 0 and .04 / IDCG^2; certainties 1 / eps and 1 / (u + eps)
    u, eps = 0.04 / 3.6309297535714575**2, 1e-3
    certain, unsure = 1 / eps, 1 / (u + eps)
    mean = (certain + unsure) / 2
    weights = rollout_weights(prompt, UncertaintySettings(scope="group", low=0.0, high=9.0, epsilon=eps))
    torch.testing.assert_close(weights, torch.tensor([[certain / mean, unsure / mean]], dtype=torch.float64))


# a tag, an item of two tokens, one of three, one of one; padding
RANKS = torch.tensor([[-1, 0, 0, 1, 1, 1, 2, -1]])


def test_means_over_items_by_hand():
    values = torch.tensor([[7.0, 1.0, 3.0, 1.0, 2.0, 6.0, 5.0, 9.0]], requires_grad=True)
    means = mean_over_items(values, RANKS)
    assert means.tolist() == [[7.0, 2.0, 2.0, 3.0, 3.0, 3.0, 5.0, 9.0]]
    (gradient,) = torch.autograd.grad(means[0, 3], values)
    torch.testing.assert_close(gradient, torch.tensor([[0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0]]))


def test_items_weigh_the_same_whatever_their_length():
    shares = item_shares(RANKS, torch.zeros(1))
    # 6 tokens, 3 items: 6 / (3 * 2), 6 / (3 * 3), 6 / (3 * 1)
    torch.testing.assert_close(shares, torch.tensor([[1, 1, 1, 2 / 3, 2 / 3, 2 / 3, 2, 1]]))
    letters = torch.tensor([[-1, 0, 1, 2], [0, 1, -1, -1]])
    assert (item_shares(letters, torch.zeros(1)) == 1).all()
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_over_items(values, letters), values)
    nothing = torch.full((1, 3), -1)
    assert (item_shares(nothing, torch.zeros(1)) == 1).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"algorithm": "ppo", "item_advantage": "per_rank"}, "compares with a value head"),
        ({"algorithm": "grpo", "ppo": {"gae": 0.5}}, "no effect with `algorithm: grpo`"),
        ({"algorithm": "grpo", "clip": [0.0, 0.1]}, "greater than 0"),
        ({"algorithm": "sft", "item_reward": "none"}, "Extra inputs"),
    ],
)
def test_settings_without_effect_are_refused(entry, message):
    with pytest.raises(ValidationError, match=message):
        MethodEntry.model_validate({"gains": "critic", **entry})
