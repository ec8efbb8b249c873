"""From a method's settings to rewards, advantages and weights: the one place where they are put together."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from flexrec.rl.advantages import group_advantages, per_rank_advantages, pooled_advantages
from flexrec.rl.rewards import (
    independent_rewards,
    noncausal_swap_rewards,
    rank_relevance_rewards,
    rank_rewards,
    sequence_rewards,
    swap_rewards,
)
from flexrec.rl.settings import MethodSettings, UncertaintySettings
from flexrec.rl.uncertainty import sequence_variances, uncertainty_weights

Ranked = Mapping[str, Float[Tensor, "..."]]
Reward = Callable[[Float[Tensor, "*batch K"], Float[Tensor, "*batch"]], Float[Tensor, "*batch K"]]

ITEM_REWARDS: dict[str, Reward] = {
    "swap_causal": swap_rewards,
    "swap_noncausal": noncausal_swap_rewards,
    "independent": independent_rewards,
    "rank_dcg": rank_rewards,
    "rank_relevance": rank_relevance_rewards,
}


def list_rewards(ranked: Ranked) -> Float[Tensor, "B G"]:
    """J of every rollout; a candidate that the rollout did not name gains nothing."""
    return sequence_rewards(ranked["gains"] * ranked["named"], ranked["idcg"])


def item_advantages(ranked: Ranked, method: MethodSettings) -> Float[Tensor, "B G K"]:
    """Advantage of every rank of every rollout, before weighting."""
    if method.item_reward == "none":
        lists = group_advantages(list_rewards(ranked), method.epsilon)
        return lists[..., None].expand(ranked["gains"].shape)
    rewards = ITEM_REWARDS[method.item_reward](ranked["gains"], ranked["idcg"])
    normalise = pooled_advantages if method.item_advantage == "pooled" else per_rank_advantages
    return normalise(rewards, method.epsilon)


def rollout_weights(ranked: Ranked, settings: UncertaintySettings) -> Float[Tensor, "B G"]:
    """Weight of every rollout: larger where the critic is surer of its reward; 1 where every label is known."""
    if settings.scope == "none" or not bool(ranked["variances"].any()):
        return torch.ones_like(ranked["idcg"])
    variances = sequence_variances(ranked["variances"], ranked["idcg"])
    return uncertainty_weights(
        variances, scope=settings.scope, low=settings.low, high=settings.high, eps=settings.epsilon
    )
