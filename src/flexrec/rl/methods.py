"""From a method's settings to rewards, advantages, weights and ratios: the one place where they are put together."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
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
SWAPS = frozenset({"swap_causal", "swap_noncausal"})


def list_rewards(ranked: Ranked, format_reward: tuple[float, float] | None = None) -> Float[Tensor, "B G"]:
    """J of every rollout and what its form earns; a candidate that the rollout did not name gains nothing.

    Where the form is rewarded, an answer of a wrong form earns nothing else. Under constrained decoding the form is
    always right. Its reward is then the same for every rollout, and an advantage relative to the group does not see
    it; it is there for free decoding, as in Rec-R1.

    Args:
        ranked: Gains by rank, and which ranks the answer named; `formed`, where the form counts.
        format_reward: Added to J of an answer that names every candidate once and nothing else, and what any other
            earns in the place of J; None: J whatever the form.

    Source: Rec-R1 (arXiv 2503.24289), the format reward, as its authors' code has it
    (`verl/utils/reward_score/reranker.py`: without the right form the list is not looked at).
    """
    rewards = sequence_rewards(ranked["gains"] * ranked["named"], ranked["idcg"])
    if format_reward is not None:
        rewards = rewards * ranked["formed"]
    return rewards + _form_rewards(ranked, format_reward)


def _form_rewards(ranked: Ranked, format_reward: tuple[float, float] | None) -> Float[Tensor, "B G"]:
    if format_reward is None:
        return torch.zeros_like(ranked["idcg"])
    right, wrong = format_reward
    return torch.full_like(ranked["idcg"], wrong).masked_fill(ranked["formed"], right)


def item_rewards(ranked: Ranked, method: MethodSettings) -> Float[Tensor, "B G K"]:
    """Reward of every rank of every rollout; zeros where the method rewards lists alone.

    A rank that the answer did not name earns nothing, as in `list_rewards`. Swaps with what was not named count as
    they are: naming it is what the swap would do.
    """
    if method.item_reward == "none":
        return torch.zeros_like(ranked["gains"])
    gains, named = ranked["gains"], ranked["named"]
    if method.item_reward not in SWAPS:
        gains = gains * named
    return ITEM_REWARDS[method.item_reward](gains, ranked["idcg"]) * named


def item_advantages(ranked: Ranked, method: MethodSettings) -> Float[Tensor, "B G K"]:
    """Advantage of every rank of every rollout relative to its group, before weighting."""
    if method.item_reward == "none":
        lists = group_advantages(list_rewards(ranked, method.format_reward), method.epsilon)
        return lists[..., None].expand(ranked["gains"].shape)
    normalise = pooled_advantages if method.item_advantage == "pooled" else per_rank_advantages
    return normalise(item_rewards(ranked, method), method.epsilon)


def end_rewards(ranked: Ranked, method: MethodSettings) -> Float[Tensor, "B G"]:
    """What a rollout earns at its end, where rewards come token by token: for its form, and J if no item earns."""
    if method.item_reward == "none":
        return list_rewards(ranked, method.format_reward)
    return _form_rewards(ranked, method.format_reward)


def rollout_weights(ranked: Ranked, settings: UncertaintySettings) -> Float[Tensor, "B G"]:
    """Weight of every rollout: larger where the critic is surer of its reward; 1 where every label is known."""
    if settings.scope == "none" or not bool(ranked["variances"].any()):
        return torch.ones_like(ranked["idcg"])
    # of `list_rewards`, to which a candidate that is not named adds nothing
    variances = sequence_variances(ranked["variances"] * ranked["named"], ranked["idcg"])
    return uncertainty_weights(
        variances,
        scope=settings.scope,
        low=settings.low,
        high=settings.high,
        eps=settings.epsilon,
        counted=ranked["idcg"] > 0,
    )


def mean_over_items(values: Float[Tensor, "N T"], ranks: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""For every token the mean over the tokens of its item; tokens that name no item keep their own value.

    Of differences of log-probabilities, it is the logarithm of the item's importance ratio as Rank-GRPO has it, the
    geometric mean $(\prod_{t \in k} \pi(t)/\pi_{old}(t))^{1/|k|}$.

    Args:
        values: By rollout and token.
        ranks: 0-based rank of the item that a token names, -1 for none.

    Source: Rank-GRPO (arXiv 2510.20150), the item-level importance ratio.
    """
    member, counts = _members(ranks, values)
    means = (values[..., None] * member).sum(1) / counts.clamp(min=1)
    return torch.where(ranks >= 0, (means[:, None] * member).sum(-1), values)


def item_shares(ranks: Int[Tensor, "N T"], like: Tensor) -> Float[Tensor, "N T"]:
    """Factors that make every item of an answer weigh the same in a mean over tokens, whatever its number of tokens.

    Args:
        ranks: 0-based rank of the item that a token names, -1 for none.
        like: Gives type and device.

    Returns:
        Of mean 1 over the item tokens of each answer; 1 where every item is one token, and at other tokens.

    Source: Rank-GRPO (arXiv 2510.20150), whose objective is a mean over ranks.
    """
    member, counts = _members(ranks, like)
    named = (counts > 0).sum(1, keepdim=True)
    shares = counts.sum(1, keepdim=True) / (named * counts).clamp(min=1)
    return torch.where(ranks >= 0, (shares[:, None] * member).sum(-1), 1.0)


def _members(ranks: Int[Tensor, "N T"], like: Tensor) -> tuple[Float[Tensor, "N T K"], Float[Tensor, "N K"]]:
    """Which token belongs to which item, and how many each item has."""
    # not scatter_add, whose sums depend on the threads of a GPU
    member = (ranks[..., None] == torch.arange(max(1, int(ranks.max()) + 1), device=ranks.device)).to(like)
    return member, member.sum(1)
