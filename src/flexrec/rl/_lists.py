"""Shared arithmetic of ranked lists: discounts, cumulative sums from the end, and the division by IDCG."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flexrec.errors import InputError
from flexrec.ranking.gains import discounts

# Elements per block: the intermediate results of a block stay in the processor's cache, five to ten times faster
# than passing over millions of lists as one tensor.
_BLOCK_ELEMENTS = 2**17

Formula = Callable[[Float[Tensor, "n K"], Float[Tensor, "n 1"]], Float[Tensor, "n K"]]


def rank_discounts(like: Float[Tensor, "*batch K"]) -> Float[Tensor, "K"]:
    """The discounts d_1 to d_K in the type and on the device of `like`."""
    return torch.from_numpy(discounts(like.shape[-1])).to(like)


def discount_steps(
    like: Float[Tensor, "n K"],
) -> tuple[Float[Tensor, "K-1"], Float[Tensor, "K-1"], Float[Tensor, "K-1"]]:
    """For ranks 1 to K-1: how many ranks follow; the step b_k to the next discount; Y_k, the sum of all steps down."""
    d = rank_discounts(like)
    later = torch.arange(len(d) - 1, 0, -1, dtype=like.dtype, device=like.device)
    steps = d[:-1] - d[1:]
    return later, steps, suffix_sums(later * steps)


def suffix_sums(values: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """At every place, the sum of the values from there to the end."""
    return values.flip(-1).cumsum(-1).flip(-1)


def divide(values: Float[Tensor, "*batch m"], idcg: Float[Tensor, "*#batch #m"]) -> Float[Tensor, "*batch m"]:
    """`values / idcg`, and 0 where the IDCG is 0."""
    return torch.where(idcg > 0, values / idcg, torch.zeros_like(values))


def checked_lists(
    ranked: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> tuple[Float[Tensor, "*batch K"], Float[Tensor, "*batch 1"]]:
    """The ranked values, and their IDCG in the same type with one axis more.

    Raises:
        InputError: Integer values, no rank, or an IDCG that does not belong to the lists.
    """
    if not ranked.is_floating_point():
        raise InputError(f"ranked values must be floating point, got {ranked.dtype}: convert them with .float()")
    if ranked.ndim == 0 or ranked.shape[-1] == 0:
        raise InputError(f"ranked values need a last axis of K >= 1 ranks, got shape {tuple(ranked.shape)}")
    batch = ranked.shape[:-1]
    try:
        norm = idcg.to(ranked).expand(batch)
    except RuntimeError as error:
        raise InputError(
            f"idcg of shape {tuple(idcg.shape)} does not belong to lists of batch shape {tuple(batch)}: "
            "give one IDCG per list, or a shape that broadcasts to it"
        ) from error
    return ranked, norm.unsqueeze(-1)


def blockwise(
    formula: Formula, ranked: Float[Tensor, "*batch K"], idcg: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch K"]:
    """Apply a formula of flat lists to lists with any leading axes, a block of lists at a time.

    Raises:
        InputError: As `checked_lists`.
    """
    checked, norm = checked_lists(ranked, idcg)
    K = checked.shape[-1]
    lists, norms = checked.reshape(-1, K), norm.reshape(-1, 1)
    size = max(1, _BLOCK_ELEMENTS // K)
    result = torch.empty_like(lists)
    for start in range(0, len(lists), size):
        block = slice(start, start + size)
        result[block] = formula(lists[block], norms[block])
    return result.reshape(checked.shape)
