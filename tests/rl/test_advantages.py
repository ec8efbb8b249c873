"""Standardisation within groups: numbers by hand, invariants, and groups without any spread."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.rl.advantages import group_advantages, per_rank_advantages, pooled_advantages
from flexrec.rl.rewards import swap_rewards

EPS = 1e-6

# two prompts, two rollouts, two ranks
REWARDS = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]], dtype=torch.float64)


def test_pooled_advantages_by_hand() -> None:
    # 1, 3, 5, 7: mean 4, squares 9 + 1 + 1 + 9 = 20, sample std sqrt(20/3) = 2.5819889
    # -3 / 2.5819889 = -1.1618950, -1 / 2.5819889 = -0.3872983
    expected = torch.tensor([[[-1.1618950, -0.3872983], [0.3872983, 1.1618950]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(pooled_advantages(REWARDS, EPS), expected.double(), rtol=0, atol=1e-6)


def test_per_rank_advantages_by_hand() -> None:
    # rank 1: 1 and 5, mean 3, std sqrt(8) = 2.8284271, -2 / 2.8284271 = -0.7071068; rank 2: 3 and 7, the same
    expected = torch.tensor([[[-0.7071068] * 2, [0.7071068] * 2], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(per_rank_advantages(REWARDS, EPS), expected.double(), rtol=0, atol=1e-6)


def test_group_advantages_by_hand() -> None:
    # 0, 1, 2: mean 1, std 1; eps = 1 halves them
    rewards = torch.tensor([[0.0, 1.0, 2.0], [4.0, 4.0, 4.0]])
    assert group_advantages(rewards, 1.0).tolist() == [[-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]


@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 9), st.integers(1, 9))
def test_without_spread_advantages_are_exact_zeros(value: float, G: int, K: int) -> None:
    rewards = torch.full((2, G, K), value, dtype=torch.float32)
    for advantages in (
        pooled_advantages(rewards, 1e-12),
        per_rank_advantages(rewards, 1e-12),
        group_advantages(rewards[:, :, 0], 1e-12),
    ):
        assert (advantages == 0).all()


@given(st.lists(st.floats(-100, 100), min_size=12, max_size=12))
def test_advantages_agree_with_torch_statistics(values: list[float]) -> None:
    rewards = torch.tensor(values, dtype=torch.float64).reshape(1, 3, 4)
    pooled = (rewards - rewards.mean()) / (rewards.std() + EPS)
    ranked = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + EPS)
    # differences of the rounding of the mean, divided by a spread that may be as small as EPS
    torch.testing.assert_close(pooled_advantages(rewards, EPS), pooled, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(per_rank_advantages(rewards, EPS), ranked, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(group_advantages(rewards[..., 0], EPS), ranked[..., 0], rtol=1e-7, atol=1e-6)


def test_prompts_do_not_touch_each_other() -> None:
    rewards = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    others = rewards.clone()
    others[1:] *= 100
    for advantages in (pooled_advantages, per_rank_advantages):
        assert torch.equal(advantages(rewards, EPS)[0], advantages(others, EPS)[0])
    assert torch.equal(group_advantages(rewards[..., 0], EPS)[0], group_advantages(others[..., 0], EPS)[0])


def test_the_last_rank_of_the_swap_reward_teaches_nothing_per_rank() -> None:
    gains = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    advantages = per_rank_advantages(swap_rewards(gains, torch.tensor(3.0)), 1e-9)
    assert (advantages[..., -1] == 0).all()


def test_pooling_nearly_silences_the_tail() -> None:
    # the known property, at K = 30: two orders of magnitude between the first rank and the last but one
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(200, 8, 30, generator=generator)
    idcg = torch.full((200, 8), 10.0)
    spread = pooled_advantages(swap_rewards(gains, idcg), EPS).std((0, 1))
    assert 50 < spread[0] / spread[28] < 1000
    even = per_rank_advantages(swap_rewards(gains, idcg), 1e-9).std((0, 1))
    assert 0.99 < even[0] / even[28] < 1.01


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_eps_must_be_positive(eps: float) -> None:
    for advantages, shape in (
        (pooled_advantages, (1, 2, 3)),
        (per_rank_advantages, (1, 2, 3)),
        (group_advantages, (1, 2)),
    ):
        with pytest.raises(InputError, match="eps must be positive"):
            advantages(torch.zeros(shape), eps)


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(prompt, rollout, rank\), got shape \(2, 3\)"):
        pooled_advantages(torch.zeros(2, 3), EPS)
    with pytest.raises(InputError, match="prompt, rollout, rank"):
        per_rank_advantages(torch.zeros(2, 3), EPS)
    with pytest.raises(InputError, match=r"\(prompt, rollout\), got shape \(3,\)"):
        group_advantages(torch.zeros(3), EPS)
