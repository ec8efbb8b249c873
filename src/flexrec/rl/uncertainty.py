r"""How sure a reward is, and how much its rollout counts.

Under sparse feedback most gains are a critic's predictions with a variance; an observed label has variance 0. The
rewards of `flexrec.rl.rewards` are linear in the gains, so that their variances are exact, the gains taken as
independent and the IDCG as known. The advantages of a rollout are multiplied by a weight that falls with the variance
of its list reward, scaled to mean 1 so that weighting does not change the learning rate, then clipped so that no
single rollout takes over.

Source: FlexRec (arXiv 2603.11901), uncertainty-aware updates; the weights' scope and range are chosen.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from flexrec.errors import InputError
from flexrec.rl._lists import blockwise, checked_lists, discount_steps, divide, rank_discounts, suffix_sums


def sequence_variances(
    ranked_variances: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    r"""Exact variance of `sequence_rewards` for independent gains: $u = \sum_k d_k^2 s_k^2 / \mathrm{IDCG}^2$.

    The discount matters: without it the sum would be the same for every order of one candidate set, and could not
    tell the rollouts of a group apart.

    Args:
        ranked_variances: Variances of the gains in the order of the rollout, >= 0.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        Variances, >= 0.

    Raises:
        InputError: Shapes that do not belong together, or integer variances.

    Source: FlexRec (arXiv 2603.11901), uncertainty of the reward.
    """
    variances, norm = checked_lists(ranked_variances, idcg)
    norm = norm.squeeze(-1)
    return divide(divide((variances * rank_discounts(variances) ** 2).sum(-1), norm), norm)


def swap_reward_variances(
    ranked_variances: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch K"]:
    r"""Exact variance of `swap_rewards` for independent gains with variances $s_k^2$; IDCG is taken as known.

    $$\mathrm{Var}[r_k] = \frac{\bigl(\sum_{j>k} (d_k - d_j)\bigr)^2 s_k^2 + \sum_{j>k} (d_k - d_j)^2 s_j^2}
    {\bigl((K-k)\,\mathrm{IDCG}\bigr)^2}, \qquad \mathrm{Var}[r_K] = 0$$

    With $S_k = \sum_{j>k} s_j^2$ and $P_k = \sum_{j>k} (d_k - d_j) s_j^2 = \sum_{l \ge k} b_l S_l$, the second sum is
    $\sum_{l \ge k} (b_l^2 S_l + 2 b_l P_{l+1})$.

    How sure the reward of one item is. For analysis, and timed in the benchmarks: no update uses it, a rollout is
    weighted by the variance of its whole list (`sequence_variances`).

    Args:
        ranked_variances: Variances of the gains in the order of the rollout, >= 0; 0 for an observed label.
        idcg: IDCG of each list, >= 0; may broadcast over the batch.

    Returns:
        Variances of the rewards, >= 0.

    Raises:
        InputError: Shapes that do not belong together, or integer variances.

    Source: follows from the swap reward of FlexRec (arXiv 2603.11901), which is linear in the gains.
    """
    return blockwise(_swap_variance, ranked_variances, idcg)


def uncertainty_weights(
    variances: Float[Tensor, "B G"],
    *,
    scope: Literal["group", "batch"],
    low: float,
    high: float,
    eps: float,
    counted: Bool[Tensor, "B G"] | None = None,
) -> Float[Tensor, "B G"]:
    r"""Inverse-variance weights: $c_i = \frac{1/(u_i + \epsilon)}{\mathrm{mean}_j\, 1/(u_j + \epsilon)}$, clipped.

    Args:
        variances: Variance u of each rollout's reward, by prompt and rollout; >= 0, in units of the squared reward.
        scope: What the mean runs over: the rollouts of one prompt (`group`: prompts keep equal weight) or all of
            them (`batch`: prompts whose candidates are better known count more).
        low: Smallest weight, in [0, 1].
        high: Largest weight, >= 1.
        eps: Added to the variances, > 0; the larger, the nearer all weights are to 1.
        counted: Rollouts that can be rewarded at all; None for all of them. One of a list in which nothing gains has
            variance 0 and nothing to teach: without this it would take the weight of all others in its batch.

    Returns:
        Weights in [low, high], of mean 1 over the counted in scope before clipping; 1 for any other, and everywhere
        where the variances are equal.

    Raises:
        InputError: An unknown scope, a range that does not hold 1, eps not positive, or a variance that is negative
            or not finite.

    Source: FlexRec (arXiv 2603.11901), uncertainty-aware policy update.
    """
    if variances.ndim != 2:
        raise InputError(f"variances must have the axes (prompt, rollout), got shape {tuple(variances.shape)}")
    if not 0 <= low <= 1 <= high:
        raise InputError(f"the weights' range must hold 1 and not be negative, got low={low}, high={high}")
    if not eps > 0:
        raise InputError(f"eps must be positive, got {eps}: a fully observed list has variance 0")
    if not bool(((variances >= 0) & variances.isfinite()).all()):
        raise InputError("variances must be finite and not negative: check the critic's predictions")
    dims = {"group": (1,), "batch": (0, 1)}.get(scope)
    if dims is None:
        raise InputError(f"unknown scope {scope!r} of the uncertainty weights: use 'group' or 'batch'")
    # relative to the least uncertain rollout: the same ratio, and equal variances give exactly 1
    if counted is None:
        counted = torch.ones_like(variances, dtype=torch.bool)
    shifted = (variances + eps).masked_fill(~counted, torch.inf)
    certainty = (shifted.amin(dims, keepdim=True) / shifted).masked_fill(~counted, 0.0)
    mean = certainty.sum(dims, keepdim=True) / counted.sum(dims, keepdim=True)
    return torch.where(counted, certainty / mean, 1.0).clamp(low, high)


def _swap_variance(variances: Float[Tensor, "n K"], idcg: Float[Tensor, "n 1"]) -> Float[Tensor, "n K"]:
    later, steps, spans = discount_steps(variances)
    totals = suffix_sums(variances[:, 1:])
    weighted = suffix_sums(steps * totals)
    others = suffix_sums(steps**2 * totals + 2 * steps * pad(weighted[:, 1:], (0, 1)))
    sums = spans**2 * variances[:, :-1] + others
    return pad(divide(divide(sums / later**2, idcg), idcg), (0, 1))
