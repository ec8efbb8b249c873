r"""Proximal policy optimisation on rankings: a value head says what is to be expected, not the other rollouts.

The steps of an episode are the tokens at which the policy decides: those with more than one possibility. Each item's
reward comes with its last token, and with the last token of the answer what its form earns, or the list's reward where
no item earns (`flexrec.rl.methods.end_rewards`); what comes at a forced token belongs to the decision before it. The
clipped policy loss, the KL term and the entropy bonus are those of GRPO, so that the two algorithms differ in their
advantages alone.

The value head reads the policy's last hidden states *without* passing a gradient back: the policy moves by its own loss
only. A value loss that reached the policy would share the limit of the gradient's norm with it, and need a weight to be
tuned per reward. Values at sampling cost one more reading of the answers, without the prompts; those of the update
come from states that it has anyway.

Known property: an error of the value head costs variance and no bias, like any baseline, *until* advantages are
multiplied by the weight of their rollout. That weight depends on the decision too, so that where the head's value is
too low, decisions that make the rollout surer are preferred whatever they earn. It shows where values differ much from
token to token (the independent reward) while the best candidates are the least certain.

Source: PPO (arXiv 1707.06347), generalised advantage estimation (arXiv 1506.02438); FlexRec (arXiv 2603.11901) uses it
as its second optimiser.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm, pad

from flexrec.policy.grammar import Constraints, Kind


class ValueHead(torch.nn.Module):
    r"""The reward still to come, from the state h that predicts a token: $V = w \cdot \hat{h} / \sqrt{d} + b$.

    $\hat{h}$ is h with mean 0 and variance 1, so that the scale of a model's states does not matter. It begins at 0;
    the trainer sets b to the mean return of the first batch.

    Args:
        size: d, width of the policy's hidden states.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, states: Float[Tensor, "N T d"]) -> Float[Tensor, "N T"]:
        """Values in units of the reward."""
        size = len(self.weight)
        # detached here, so that no caller can forget it
        scaled = layer_norm(states.detach().float(), (size,)) / size**0.5
        return scaled @ self.weight + self.bias


def decision_tokens(constraints: Constraints) -> Bool[np.ndarray, "N T"]:
    """Where an answer could have gone on in more than one way."""
    choice = (constraints.kind == int(Kind.CHOICE)) & (constraints.allowed.sum(-1) > 1)
    return choice | (constraints.kind == int(Kind.FREE))


def token_rewards(
    items: Float[Tensor, "N K"], ends: Float[Tensor, " N"], ranks: Int[Tensor, "N T"], lengths: Int[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Place rewards in answers.

    Args:
        items: Reward of each rank; comes with the last token of the item.
        ends: Reward of the whole list; comes with the last token of the answer.
        ranks: 0-based rank of the item that a token names, -1 for none and for padding.
        lengths: Tokens of each answer.

    Returns:
        Reward at each token; 0 at padding.
    """
    last = (ranks >= 0) & (ranks != pad(ranks[:, 1:], (0, 1), value=-1))
    rewards = torch.where(last, items.gather(1, ranks.clamp(min=0)), 0.0)
    rewards[torch.arange(len(rewards)), lengths - 1] += ends
    return rewards


def generalised_advantages(
    rewards: Float[Tensor, "N T"],
    values: Float[Tensor, "N T"],
    decisions: Bool[Tensor, "N T"],
    *,
    discount: float,
    gae: float,
) -> Float[Tensor, "N T"]:
    r"""Generalised advantage estimate at the decisions of each answer.

    $$A_s = \sum_{l \ge 0} (\gamma\lambda)^l \delta_{s+l}, \qquad \delta_s = r_s + \gamma V_{s+1} - V_s$$

    s counts decisions, r_s is all reward from decision s up to the next, and V is 0 after the last.

    Args:
        rewards: Reward at each token.
        values: V at each token; only those of decisions are read.
        decisions: Where the policy decides.
        discount: Gamma, in (0, 1].
        gae: Lambda, in [0, 1]: 0 trusts the value head, 1 the rewards.

    Returns:
        Advantages in units of the reward; 0 where nothing is decided. Added to the values they are the returns that
        the value head learns.

    Source: Schulman et al., arXiv 1506.02438, equation 16.
    """
    result = torch.zeros_like(values)
    pending, next_value, next_advantage = (torch.zeros_like(values[:, 0]) for _ in range(3))
    for token in reversed(range(values.shape[1])):
        at, value = decisions[:, token], values[:, token]
        pending = pending + rewards[:, token]
        advantage = pending + discount * next_value - value + discount * gae * next_advantage
        result[:, token] = torch.where(at, advantage, 0.0)
        next_value = torch.where(at, value, next_value)
        next_advantage = torch.where(at, advantage, next_advantage)
        pending = torch.where(at, 0.0, pending)
    return result


def clipped_value_loss(
    values: Float[Tensor, "N T"],
    old_values: Float[Tensor, "N T"],
    returns: Float[Tensor, "N T"],
    decisions: Bool[Tensor, "N T"],
    clip: float,
) -> Float[Tensor, ""]:
    r"""Squared error of the values, with no reward for moving further than `clip` from those at sampling.

    $$\mathrm{mean} \max\{(V - R)^2, (V_{old} + \mathrm{clip}(V - V_{old}, \pm c) - R)^2\}$$

    Args:
        values: V, with a graph.
        old_values: V when the answers were sampled.
        returns: R.
        decisions: Tokens that are counted.
        clip: c, > 0, in units of the reward.

    Source: PPO's reference implementation (openai/baselines, `ppo2`).
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.maximum((values - returns).square(), (near - returns).square())
    return (errors * decisions).sum() / decisions.sum().clamp(min=1)


def explained_variance(
    values: Float[Tensor, "N T"], returns: Float[Tensor, "N T"], decisions: Bool[Tensor, "N T"]
) -> float:
    r"""$1 - \mathrm{Var}[R - V] / \mathrm{Var}[R]$ over decisions: at most 1; 0 where there is nothing to explain."""
    wanted, errors = returns[decisions], (returns - values)[decisions]
    if len(wanted) < 2 or not bool(wanted.var() > 0):
        return 0.0
    return 1.0 - (errors.var() / wanted.var()).item()
