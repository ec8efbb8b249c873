"""PPO's parts: numbers by hand, the definitions written out, and what the value head may not touch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexrec.policy.grammar import Constraints, Kind
from flexrec.rl.advantages import whitened
from flexrec.rl.ppo import (
    ValueHead,
    clipped_value_loss,
    decision_tokens,
    explained_variance,
    generalised_advantages,
    token_rewards,
)


def test_advantages_by_hand() -> None:
    # decisions at tokens 0 and 2; what comes at a forced token belongs to the decision before it
    decisions = torch.tensor([[True, False, True, False]])
    rewards = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 9.0, 1.0, 9.0]])
    found = generalised_advantages(rewards, values, decisions, discount=0.9, gae=0.5)
    # second: r = 0 + 2, no next value: 2 - 1 = 1
    # first: r = 0 + 1, delta = 1 + 0.9 * 1 - 0.5 = 1.4; 1.4 + 0.9 * 0.5 * 1 = 1.85
    torch.testing.assert_close(found, torch.tensor([[1.85, 0.0, 1.0, 0.0]]))


def advantages_by_definition(rewards, values, decisions, discount, gae):
    """A_s = sum_l (gamma lambda)^l delta_{s+l}, every sum written out."""
    result = np.zeros(len(rewards))
    places = np.flatnonzero(decisions)
    ends = [*places[1:], len(rewards)][: len(places)]
    earned = [rewards[start:end].sum() for start, end in zip(places, ends, strict=True)]
    after = [*values[places[1:]], 0.0][: len(places)]
    deltas = [r + discount * v - values[place] for r, v, place in zip(earned, after, places, strict=True)]
    for step, place in enumerate(places):
        result[place] = sum((discount * gae) ** ahead * delta for ahead, delta in enumerate(deltas[step:]))
    return result


@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_their_definition(seed: int, length: int, discount: float, gae: float) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, 3, length))
    decisions = rng.random((3, length)) < 0.6
    found = generalised_advantages(
        torch.tensor(rewards), torch.tensor(values), torch.tensor(decisions), discount=discount, gae=gae
    )
    for row in range(3):
        expected = advantages_by_definition(rewards[row], values[row], decisions[row], discount, gae)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-10)


def test_without_bootstrapping_returns_are_the_rewards_to_come() -> None:
    rewards, values = torch.rand(2, 5, 6, dtype=torch.float64)
    found = generalised_advantages(rewards, values, torch.ones(5, 6, dtype=torch.bool), discount=1.0, gae=1.0)
    torch.testing.assert_close(found + values, rewards.flip(1).cumsum(1).flip(1))


def test_rewards_come_with_the_last_token_of_their_item() -> None:
    # a tag, item 0 in two tokens, item 1 in one, a tag; then a shorter answer that names one item
    ranks = torch.tensor([[-1, 0, 0, 1, -1], [0, 0, -1, -1, -1]])
    items, ends = torch.tensor([[3.0, 5.0], [7.0, 9.0]]), torch.tensor([0.5, 0.25])
    found = token_rewards(items, ends, ranks, torch.tensor([5, 2]))
    assert found.tolist() == [[0.0, 0.0, 3.0, 5.0, 0.5], [0.0, 7.25, 0.0, 0.0, 0.0]]


def test_decisions_are_where_there_is_a_choice() -> None:
    kind = np.array([[Kind.FREE, Kind.CHOICE, Kind.CHOICE, Kind.FORCED, Kind.DONE]], dtype=int)
    allowed = np.array([[[0, 0], [1, 1], [0, 1], [0, 0], [0, 0]]], dtype=bool)
    found = decision_tokens(Constraints(kind, allowed, np.full((1, 5), -1)))
    assert found.tolist() == [[True, True, False, False, False]]


def test_value_loss_by_hand() -> None:
    values = torch.tensor([[0.5, 0.5, 0.0, 7.0]], requires_grad=True)
    old, returns = torch.tensor([[0.0, 0.4, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.3, 0.0]])
    decisions = torch.tensor([[True, True, True, False]])
    loss = clipped_value_loss(values, old, returns, decisions, 0.2)
    # 0.5 is held to 0.2: max(0.25, 0.64) = 0.64; 0.5 is within 0.2 of 0.4: 0.25; 0.09; the last does not count
    assert loss.item() == pytest.approx((0.64 + 0.25 + 0.09) / 3)
    loss.backward()
    # nothing to be had by moving the first further; 2 (0.5 - 1) / 3 and 2 (0 - 0.3) / 3
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, -1 / 3, -0.2, 0.0]]))


def test_explained_variance_by_hand() -> None:
    returns, decisions = torch.tensor([[0.0, 2.0, 4.0, 99.0]]), torch.tensor([[True, True, True, False]])
    assert explained_variance(returns + 5, returns, decisions) == 1.0  # a constant is no variance
    # errors 0, 1, 2 of variance 1; returns of variance 4
    assert explained_variance(torch.tensor([[0.0, 1.0, 2.0, 0.0]]), returns, decisions) == pytest.approx(0.75)
    assert explained_variance(returns, torch.ones(1, 4), decisions) == 0.0
    assert explained_variance(returns, returns, torch.zeros(1, 4, dtype=torch.bool)) == 0.0


def test_whitening_looks_at_the_masked_tokens_alone() -> None:
    values, mask = torch.tensor([[1.0, 50.0], [2.0, 3.0]]), torch.tensor([[True, False], [True, True]])
    # 1, 2, 3: mean 2, std 1
    torch.testing.assert_close(whitened(values, mask, 1e-9), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    assert (whitened(torch.full((2, 2), 0.1), mask, 1e-9) == 0).all()
    assert (whitened(values, torch.zeros_like(mask), 1e-9) == 0).all()


def test_the_value_head_sends_no_gradient_to_the_policy() -> None:
    head, states = ValueHead(4), torch.tensor([[[1.0, -1.0, 1.0, -1.0]]], requires_grad=True)
    assert head(states).tolist() == [[0.0]]
    with torch.no_grad():
        head.weight[0], head.bias[0] = 2.0, 0.5
    # the state is its own standardised form; 1 / sqrt(4) * 2 + 0.5
    assert head(100 * states).item() == pytest.approx(1.5, abs=1e-4)
    assert not head(states.detach()).isnan().any()
    head(states).sum().backward()
    assert states.grad is None
    assert head.weight.grad is not None
