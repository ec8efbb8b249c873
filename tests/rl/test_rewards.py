"""Swap, rank and list rewards: hand-computed numbers, their definitions as oracle, and their known properties."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.rl import _lists
from flexrec.rl.rewards import (
    independent_rewards,
    noncausal_swap_rewards,
    rank_relevance_rewards,
    rank_rewards,
    sequence_rewards,
    swap_rewards,
)
from flexrec.rl.uncertainty import sequence_variances, swap_reward_variances

# d = 1, 1/log2(3) = 0.6309298, 0.5; the ideal order of the gains 3, 1, 2 is 3, 2, 1
# IDCG = 3 * 1 + 2 * 0.6309298 + 1 * 0.5 = 4.7618595
GAINS = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
IDCG = torch.tensor(4.7618595071429155, dtype=torch.float64)

ITEM_REWARDS = [
    swap_rewards,
    noncausal_swap_rewards,
    independent_rewards,
    rank_rewards,
    lambda gains, idcg: rank_rewards(gains, idcg, 2),
    rank_relevance_rewards,
    swap_reward_variances,
]

lists = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=12)


def discount(k: int) -> float:
    return 1 / math.log2(k + 1)


def ideal(gains: torch.Tensor) -> torch.Tensor:
    d = torch.tensor([discount(k) for k in range(1, gains.shape[-1] + 1)], dtype=torch.float64)
    return (gains.double().sort(dim=-1, descending=True).values * d).sum(-1).to(gains)


def ndcg(gains: list[float], idcg: float) -> float:
    return sum(g * discount(k) for k, g in enumerate(gains, 1)) / idcg


def swapped(gains: list[float], k: int, j: int) -> list[float]:
    result = list(gains)
    result[k], result[j] = result[j], result[k]
    return result


def swap_reward_by_swapping(gains: list[float], idcg: float, *, causal: bool) -> list[float]:
    """The words of the definition: swap, look at the whole list again, average the differences. O(K^3)."""
    K = len(gains)
    result = []
    for k in range(K):
        others = [j for j in range(K) if (j > k if causal else j != k)]
        losses = [ndcg(gains, idcg) - ndcg(swapped(gains, k, j), idcg) for j in others]
        result.append(sum(losses) / len(losses) if losses else 0.0)
    return result


def close(actual: torch.Tensor, expected: object, atol: float = 1e-12) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-9, atol=atol, check_stride=False
    )


def test_swap_reward_of_three_items_by_hand() -> None:
    # r_1 = [(3-1)(1-.6309298) + (3-2)(1-.5)] / (2 * 4.7618595) = (.7381405 + .5) / 9.5237190 = 0.1300060
    # r_2 = (1-2)(.6309298-.5) / (1 * 4.7618595) = -.1309298 / 4.7618595 = -0.0274955;  r_3 = 0
    close(swap_rewards(GAINS, IDCG), [0.1300060, -0.0274955, 0.0], atol=1e-7)


def test_noncausal_swap_reward_of_three_items_by_hand() -> None:
    # r_2 = [(1-3)(.6309298-1) + (1-2)(.6309298-.5)] / (2 * 4.7618595) = (.7381405 - .1309298) / 9.5237190 = 0.0637577
    # r_3 = [(2-3)(.5-1) + (2-1)(.5-.6309298)] / 9.5237190 = (.5 - .1309298) / 9.5237190 = 0.0387527
    close(noncausal_swap_rewards(GAINS, IDCG), [0.1300060, 0.0637577, 0.0387527], atol=1e-7)


def test_other_rewards_of_three_items_by_hand() -> None:
    # own contributions: 3/4.7618595, .6309298/4.7618595, 2*.5/4.7618595
    close(independent_rewards(GAINS, IDCG), [0.6300060, 0.1324965, 0.2100020], atol=1e-7)
    # DCG@k:3 = (3 + .6309298 + 1, .6309298 + 1, 1) / 4.7618595
    close(rank_rewards(GAINS, IDCG, 3), [0.9725045, 0.3424985, 0.2100020], atol=1e-7)
    # DCG@k:2 = (3 + .6309298, .6309298, 0) / 4.7618595
    close(rank_rewards(GAINS, IDCG, 2), [0.7625025, 0.1324965, 0.0], atol=1e-7)
    close(rank_rewards(GAINS, IDCG, 99), rank_rewards(GAINS, IDCG, 3))
    close(rank_rewards(GAINS, IDCG), rank_rewards(GAINS, IDCG, 3))
    # rel_k = (3, 1, 2) / 4.7618595
    close(rank_relevance_rewards(GAINS, IDCG), [0.6300060, 0.2100020, 0.4200040], atol=1e-7)
    close(sequence_rewards(GAINS, IDCG), 0.9725045, atol=1e-7)


@given(lists)
def test_suffix_sums_equal_the_definition(values: list[float]) -> None:
    gains = torch.tensor(values, dtype=torch.float64)
    idcg = ideal(gains)
    if idcg == 0:
        return
    scale = float(idcg)
    close(swap_rewards(gains, idcg), swap_reward_by_swapping(values, scale, causal=True))
    close(noncausal_swap_rewards(gains, idcg), swap_reward_by_swapping(values, scale, causal=False))
    tails = [
        sum(g * discount(j) for j, g in enumerate(values, 1) if k <= j <= 4) / scale for k in range(1, len(values) + 1)
    ]
    close(rank_rewards(gains, idcg, 4), tails)
    close(sequence_rewards(gains, idcg), ndcg(values, scale))


@given(lists, st.sampled_from([torch.float32, torch.float64]))
def test_the_sign_is_exact_in_the_ideal_and_the_reversed_order(values: list[float], dtype: torch.dtype) -> None:
    best = torch.tensor(sorted(values, reverse=True), dtype=dtype)
    idcg = ideal(best)
    assert (swap_rewards(best, idcg) >= 0).all()
    assert (swap_rewards(best.flip(0), idcg) <= 0).all()
    assert swap_rewards(best, idcg)[-1] == 0


@given(st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_the_mean_over_all_orders_is_zero_at_every_rank(values: list[float]) -> None:
    orders = torch.tensor(list(itertools.permutations(values)), dtype=torch.float64)
    rewards = swap_rewards(orders, ideal(orders))
    close(rewards.mean(0), torch.zeros(4), atol=1e-13)


@given(st.floats(0, 1e6, width=32), st.integers(1, 40))
def test_equal_gains_give_exact_zeros(gain: float, K: int) -> None:
    gains = torch.full((K,), gain, dtype=torch.float32)
    assert (swap_rewards(gains, ideal(gains)) == 0).all()
    assert (noncausal_swap_rewards(gains, ideal(gains)) == 0).all()


@pytest.mark.parametrize("reward", ITEM_REWARDS)
def test_without_any_gain_every_reward_is_zero_and_never_nan(reward) -> None:
    nothing = torch.zeros(2, 5)
    assert torch.equal(reward(nothing, torch.zeros(2)), nothing)
    # the other list of the batch keeps its rewards
    mixed = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]])
    result = reward(mixed, torch.tensor([0.0, float(IDCG)]))
    assert torch.equal(result[0], torch.zeros(3))
    assert result[1, 0] > 0
    assert torch.equal(sequence_rewards(mixed, torch.tensor([0.0, 1.0]))[0], torch.tensor(0.0))
    assert torch.equal(sequence_variances(mixed, torch.tensor([0.0, 1.0]))[0], torch.tensor(0.0))


@pytest.mark.parametrize("reward", ITEM_REWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_dimensions_blocks_and_types(reward, dtype: torch.dtype, monkeypatch) -> None:
    gains = torch.rand(2, 3, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    idcg = ideal(gains)
    whole = reward(gains, idcg)
    assert whole.dtype == dtype
    assert whole.shape == gains.shape
    assert torch.equal(reward(gains[1, 2, 3], idcg[1, 2, 3]), whole[1, 2, 3])
    # blocks of two lists, the last of one
    monkeypatch.setattr(_lists, "_BLOCK_ELEMENTS", 14)
    assert torch.equal(reward(gains[0, :, 1], idcg[0, :, 1]), whole[0, :, 1])
    # a transposed view, and one IDCG for the rollouts of a prompt
    assert torch.equal(reward(gains.transpose(0, 1), idcg.transpose(0, 1)), whole.transpose(0, 1))
    shared = torch.full((2, 1, 1), 5.0, dtype=dtype)
    assert torch.equal(reward(gains, shared), reward(gains, shared.expand(2, 3, 4)))
    single = reward(gains, shared)
    torch.testing.assert_close(single, reward(gains.double(), shared.double()).to(dtype), rtol=1e-4, atol=1e-7)


def test_one_candidate_has_nothing_to_swap() -> None:
    gains = torch.tensor([[2.0]])
    idcg = torch.tensor([2.0])
    assert swap_rewards(gains, idcg).tolist() == [[0.0]]
    assert noncausal_swap_rewards(gains, idcg).tolist() == [[0.0]]
    assert swap_reward_variances(gains, idcg).tolist() == [[0.0]]
    assert sequence_rewards(gains, idcg).tolist() == [1.0]


def test_no_list_at_all() -> None:
    assert swap_rewards(torch.zeros(0, 5), torch.zeros(0)).shape == (0, 5)


def test_lists_do_not_depend_on_their_batch() -> None:
    # a group of equal rollouts must have equal rewards to the bit, or their advantages would be made of rounding
    gains = torch.rand(30, generator=torch.Generator().manual_seed(3)).expand(1000, 30)
    idcg = torch.full((1000,), 7.0)
    for result in (sequence_rewards(gains, idcg), swap_rewards(gains, idcg), sequence_variances(gains, idcg)):
        assert (result == result[0]).all()


@pytest.mark.parametrize(
    ("gains", "idcg", "message"),
    [
        (torch.ones(2, 3), torch.ones(3), "does not belong"),
        (torch.ones(2, 3), torch.ones(1, 2, 3), "does not belong"),
        (torch.ones(3, dtype=torch.int64), torch.tensor(1.0), "floating point"),
        (torch.tensor(1.0), torch.tensor(1.0), "last axis"),
        (torch.ones(2, 0), torch.ones(2), "last axis"),
    ],
)
def test_bad_input_is_refused(gains: torch.Tensor, idcg: torch.Tensor, message: str) -> None:
    for reward in (*ITEM_REWARDS, sequence_rewards, sequence_variances):
        with pytest.raises(InputError, match=message):
            reward(gains, idcg)


def test_a_cutoff_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="must be at least 1, not 0"):
        rank_rewards(GAINS, IDCG, 0)
