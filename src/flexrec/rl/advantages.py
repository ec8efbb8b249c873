r"""Advantages: rewards standardised within the group of G rollouts of one prompt, or over a batch for PPO.

All of them are $A = (r - \mathrm{mean})/(\mathrm{std} + \epsilon)$ and differ in what is pooled for mean and standard
deviation. The standard deviation is the sample's (divisor n - 1), as in TRL and verl, so that the list-level advantage
is ordinary GRPO. Where all pooled rewards are equal there is nothing to prefer: the advantages are exactly 0, also for
a group of one.

Known property of pooling (FlexRec): the spread of the swap reward falls by two orders of magnitude from rank 1 to
rank K - 1, so that the pooled standardisation nearly silences the tail of the list. `per_rank_advantages` does the
opposite: it gives every rank the same weight.

Source: GRPO (arXiv 2402.03300); FlexRec (arXiv 2603.11901); Rank-GRPO (arXiv 2510.20150).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flexrec.errors import InputError


def pooled_advantages(rewards: Float[Tensor, "B G K"], eps: float) -> Float[Tensor, "B G K"]:
    """Item advantages, pooled over rollouts *and* ranks of each prompt.

    Args:
        rewards: Item rewards by prompt, rollout and rank; finite.
        eps: Added to the standard deviation, > 0, in units of the reward.

    Returns:
        Advantages with mean 0 over each prompt's G * K rewards.

    Raises:
        InputError: Not three axes, or eps not positive.

    Source: FlexRec (arXiv 2603.11901), item-level group advantage.
    """
    _check(rewards, "prompt, rollout, rank", eps)
    return _standardise(rewards, (1, 2), eps)


def per_rank_advantages(rewards: Float[Tensor, "B G K"], eps: float) -> Float[Tensor, "B G K"]:
    """Item advantages, standardised at every rank by itself over the rollouts of each prompt.

    Args:
        rewards: Item rewards by prompt, rollout and rank; finite.
        eps: Added to the standard deviation, > 0, in units of the reward.

    Returns:
        Advantages with mean 0 over the G rollouts at each rank.

    Raises:
        InputError: Not three axes, or eps not positive.

    Source: Rank-GRPO (arXiv 2510.20150), rank-level advantage.
    """
    _check(rewards, "prompt, rollout, rank", eps)
    return _standardise(rewards, (1,), eps)


def group_advantages(rewards: Float[Tensor, "B G"], eps: float) -> Float[Tensor, "B G"]:
    """List advantages: the ordinary group-relative advantage of GRPO.

    Args:
        rewards: One reward per rollout, by prompt and rollout; finite.
        eps: Added to the standard deviation, > 0, in units of the reward.

    Returns:
        Advantages with mean 0 over the G rollouts of each prompt.

    Raises:
        InputError: Not two axes, or eps not positive.

    Source: GRPO (arXiv 2402.03300), outcome supervision.
    """
    _check(rewards, "prompt, rollout", eps)
    return _standardise(rewards, (1,), eps)


def whitened(values: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], eps: float) -> Float[Tensor, "N T"]:
    """Advantages of single tokens, standardised over a whole batch; there is no group in it.

    Args:
        values: Advantages by rollout and token; finite.
        mask: The tokens that have one.
        eps: Added to the standard deviation, > 0, in units of the reward.

    Returns:
        Values with mean 0 over the masked tokens; 0 at all others.

    Raises:
        InputError: Not two axes, or eps not positive.

    Source: PPO as it is commonly run (Engstrom et al., arXiv 2005.12729).
    """
    _check(values, "rollout, token", eps)
    result = torch.zeros_like(values)
    if mask.any():
        result[mask] = _standardise(values[mask], (0,), eps)
    return result


def _standardise(rewards: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    # measured from one of the pooled rewards, equal rewards become exact zeros; otherwise the rounding of the mean
    # would leave differences of 1e-8 that the division by (0 + eps) blows up
    first = rewards
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    shifted = rewards - first
    centred = shifted - shifted.mean(dims, keepdim=True)
    pooled = 1
    for dim in dims:
        pooled *= rewards.shape[dim]
    variance = centred.square().sum(dims, keepdim=True) / max(pooled - 1, 1)
    return centred / (variance.sqrt() + eps)


def _check(rewards: Tensor, axes: str, eps: float) -> None:
    if rewards.ndim != axes.count(",") + 1:
        raise InputError(f"rewards must have the axes ({axes}), got shape {tuple(rewards.shape)}")
    if not eps > 0:
        raise InputError(f"eps must be positive, got {eps}: it keeps groups without any spread finite")
