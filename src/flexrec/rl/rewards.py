r"""Rewards of a ranking, per item and per list.

Every function takes gains that are already *ranked*: position 0 on the last axis is the item that the rollout put
first. With $g_k$ the gain at rank $k = 1 \dots K$, $d_k = 1/\log_2(k+1)$ and $\mathrm{IDCG}$ the discounted sum of
the ideal order of the same candidates, $J(y) = \frac{1}{\mathrm{IDCG}} \sum_k d_k g_k$ is the quality of the list
(NDCG). A list whose IDCG is 0 (no candidate has a gain) has nothing to learn from: all of its rewards are 0,
never NaN.

The causal sums over later ranks cost O(K): they are cumulative sums of the *differences between neighbours*,
$a_l = g_l - g_{l+1}$ and $b_l = d_l - d_{l+1} > 0$. This way nothing cancels: in the ideal order every summand is
$\ge 0$ and in the reversed order $\le 0$, so the sign of a reward is exact in floating point, a constant list gives
exact zeros.

Source: FlexRec (arXiv 2603.11901), swap reward; Rank-GRPO (arXiv 2510.20150), the rank-level rewards.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from flexrec.ranking.gains import cutoff as cutoff_rank
from flexrec.rl._lists import blockwise, checked_lists, discount_steps, divide, rank_discounts, suffix_sums


def swap_rewards(ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]) -> Float[Tensor, "*batch K"]:
    r"""Causal swap reward: what the list gains on average by *not* swapping item k with a later one.

    $$r_k = \frac{1}{(K-k)\,\mathrm{IDCG}} \sum_{j>k} (g_k - g_j)(d_k - d_j), \qquad r_K = 0$$

    Good placements are rewarded: ideal order, every $r_k \ge 0$; reversed, every $r_k \le 0$; zero mean at every rank
    under a uniformly random order. With $X_k = \sum_{j>k}(g_k - g_j) = \sum_{l \ge k} (K-l)\,a_l$ and
    $Y_k = \sum_{j>k}(d_k - d_j)$ likewise, the sum over j is $\sum_{l \ge k} (b_l X_l + a_l Y_{l+1})$.

    Args:
        ranked_gains: Gains in the order of the rollout; finite, on the scale of the need.
        idcg: IDCG of each list, >= 0; may broadcast over the batch (one per prompt for its G rollouts).

    Returns:
        Rewards on the scale of NDCG, in [-1, 1] where the gains are not negative.

    Raises:
        InputError: Shapes that do not belong together, or integer gains.

    Source: FlexRec (arXiv 2603.11901), the item-level swap reward.
    """
    return blockwise(_swap, ranked_gains, idcg)


def noncausal_swap_rewards(
    ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch K"]:
    r"""Swap reward over *all* other ranks, an ablation: item k also answers for earlier choices.

    $$r_k = \frac{1}{(K-1)\,\mathrm{IDCG}} \sum_{j \ne k} (g_k - g_j)(d_k - d_j)$$

    Args:
        ranked_gains: Gains in the order of the rollout; finite.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        Rewards on the scale of NDCG; 0 for lists of one item.

    Raises:
        InputError: Shapes that do not belong together, or integer gains.

    Source: FlexRec (arXiv 2603.11901), ablation of the causal sum.
    """
    return blockwise(_noncausal_swap, ranked_gains, idcg)


def independent_rewards(
    ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch K"]:
    r"""Each item's own contribution to NDCG, an ablation: $r_k = g_k d_k / \mathrm{IDCG}$.

    Args:
        ranked_gains: Gains in the order of the rollout; finite.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        Rewards whose sum over the ranks is J(y).

    Raises:
        InputError: Shapes that do not belong together, or integer gains.

    Source: FlexRec (arXiv 2603.11901), ablation "independent".
    """
    gains, norm = checked_lists(ranked_gains, idcg)
    return divide(gains * rank_discounts(gains), norm)


def rank_rewards(
    ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"], cutoff: int | None = None
) -> Float[Tensor, "*batch K"]:
    r"""Rank-GRPO's `DCG@k:N`: what the list earns from rank k down to rank N, divided by IDCG.

    $$r_k = \frac{1}{\mathrm{IDCG}} \sum_{j=k}^{N} d_j g_j, \qquad r_k = 0 \text{ for } k > N$$

    The division (absent in the source) changes no advantage beyond eps, because Rank-GRPO standardises per rank
    among the rollouts of one prompt, which share their IDCG; it keeps the scale of the other rewards.

    Args:
        ranked_gains: Gains in the order of the rollout; finite.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.
        cutoff: N >= 1; None or an N beyond K means K.

    Returns:
        Rewards, not increasing in k for non-negative gains; $r_1 = J(y)$ for N = K.

    Raises:
        InputError: A cutoff below 1, shapes that do not belong together, or integer gains.

    Source: Rank-GRPO (arXiv 2510.20150), the reward DCG@k:N.
    """
    gains, norm = checked_lists(ranked_gains, idcg)
    contributions = gains * rank_discounts(gains)
    contributions[..., cutoff_rank(cutoff, gains.shape[-1]) :] = 0
    return divide(suffix_sums(contributions), norm)


def rank_relevance_rewards(
    ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch K"]:
    r"""Rank-GRPO's default reward `rel_k`: the gain of the item at rank k, $r_k = g_k / \mathrm{IDCG}$.

    The division by IDCG is ours, for the reason given in `rank_rewards`.

    Args:
        ranked_gains: Gains in the order of the rollout; finite.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        Rewards proportional to the gains.

    Raises:
        InputError: Shapes that do not belong together, or integer gains.

    Source: Rank-GRPO (arXiv 2510.20150), the reward rel_k.
    """
    gains, norm = checked_lists(ranked_gains, idcg)
    return divide(gains, norm)


def sequence_rewards(
    ranked_gains: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    r"""One reward per list, its NDCG: $J(y) = \frac{1}{\mathrm{IDCG}} \sum_k d_k g_k$.

    Args:
        ranked_gains: Gains in the order of the rollout; finite.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        J in [0, 1] for non-negative gains.

    Raises:
        InputError: Shapes that do not belong together, or integer gains.

    Source: Rec-R1 (arXiv 2503.24289); FlexRec (arXiv 2603.11901), objective.
    """
    gains, norm = checked_lists(ranked_gains, idcg)
    # not a matrix product: BLAS may round equal rows differently, and equal lists must have equal rewards
    return divide((gains * rank_discounts(gains)).sum(-1), norm.squeeze(-1))


def _swap(gains: Float[Tensor, "n K"], idcg: Float[Tensor, "n 1"]) -> Float[Tensor, "n K"]:
    later, steps, spans = discount_steps(gains)
    drops = gains[:, :-1] - gains[:, 1:]
    gain_spans = suffix_sums(later * drops)
    sums = suffix_sums(steps * gain_spans + drops * pad(spans[1:], (0, 1)))
    return pad(divide(sums / later, idcg), (0, 1))


def _noncausal_swap(gains: Float[Tensor, "n K"], idcg: Float[Tensor, "n 1"]) -> Float[Tensor, "n K"]:
    d = rank_discounts(gains)
    count = gains.shape[-1]
    # the sum does not change when all gains are shifted; shifting by one of them makes a constant list exact zeros
    shifted = gains - gains[:, -1:]
    total = (shifted * d).sum(-1, keepdim=True)
    sums = count * shifted * d - shifted * d.sum() - d * shifted.sum(-1, keepdim=True) + total
    return divide(sums / max(count - 1, 1), idcg)
