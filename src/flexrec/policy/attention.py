"""Attention over a prompt that several answers share.

A token of an answer sees the whole prompt and the tokens of its own answer before it. The two parts are computed apart
and merged by their log-sum-exps, which is exact: with (o_p, l_p) and (o_a, l_a) the outputs and log-sum-exps of the
softmax over the prompt's keys and over the answer's,

    l = log(exp(l_p) + exp(l_a)),    o = exp(l_p - l) o_p + exp(l_a - l) o_a.

So the prompt's keys and values are read once for all answers (Hydragen, arXiv 2402.05099) and never copied for each.
Only decoding, where a row is one token, has another form (`flexrec.policy.decoding`). Backwards, each
part's gradient is that of a softmax with the merged output and log-sum-exp, as in ring attention (arXiv 2310.01889).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flexrec.policy.decoding import DecodingPass

NAME = "flexrec_shared_prompt"


class PromptPass:
    """Prompts see themselves, causally; their keys and values are kept."""

    keys: Float[Tensor, "B Hkv P d"]
    values: Float[Tensor, "B Hkv P d"]

    def attend(
        self, query: Float[Tensor, "B H P d"], key: Tensor, value: Tensor, scale: float
    ) -> Float[Tensor, "B H P d"]:
        """Causal attention. Prompts are padded on the right, so that no token sees padding."""
        self.keys, self.values = key, value
        if _pays_in_blocks(query):
            return _CausalBlocks.apply(query, key, value, scale)
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )


class LastPass:
    """The last token of each prompt sees the whole prompt, itself included."""

    def __init__(
        self,
        keys: Float[Tensor, "B Hkv P d"],
        values: Float[Tensor, "B Hkv P d"],
        seen: Bool[Tensor, "B 1 1 P"] | None,
    ) -> None:
        self._keys, self._values, self._seen = keys, values, seen

    def attend(
        self, query: Float[Tensor, "B H 1 d"], key: Tensor, value: Tensor, scale: float
    ) -> Float[Tensor, "B H 1 d"]:
        """Attention over the prompt alone; the token's own key and value are among the prompt's."""
        folded = _fold(query, self._keys.shape[1])
        out = functional.scaled_dot_product_attention(
            folded, self._keys, self._values, attn_mask=self._seen, scale=scale
        )
        return out.reshape(query.shape)


class AnswerPass:
    """Tokens of given answers see their prompt and, causally, their own answer."""

    def __init__(
        self,
        keys: Float[Tensor, "B Hkv P d"],
        values: Float[Tensor, "B Hkv P d"],
        seen: Bool[Tensor, "B 1 1 P"] | None,
        answers: int,
    ) -> None:
        self._keys, self._values, self._seen, self._answers = keys, values, seen, answers

    def attend(
        self, query: Float[Tensor, "B H S d"], key: Tensor, value: Tensor, scale: float
    ) -> Float[Tensor, "B H S d"]:
        """Attention of S = answers * T tokens, answers outermost."""
        if _has_parts(query):
            return _SharedPrompt.apply(query, self._keys, self._values, key, value, self._seen, self._answers, scale)
        return _joined(query, self._keys, self._values, key, value, self._seen, self._answers, scale)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    part: PromptPass | LastPass | AnswerPass | DecodingPass,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention that a Hugging Face layer calls (its `AttentionInterface`); `part` says who sees what."""
    out = part.attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return out.transpose(1, 2), None


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)


BLOCK = 96
"""Rows of causal attention that are computed together on a CPU in bfloat16."""
PROMPTS = 4
"""Prompts that are: what is computed together should fit into the caches."""


def _pays_in_blocks(query: Float[Tensor, "B H P d"]) -> bool:
    """Whether plain products in blocks are faster than the fused kernel.

    They are on CPUs in bfloat16, where the kernel's small products run at a fraction of the matrix rate. As in the
    models' own `eager` attention, scores are rounded to bfloat16 before the softmax.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] > 2 * BLOCK


class _CausalBlocks(torch.autograd.Function):
    """Causal attention, a block of rows at a time; the weights are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for rows, keys, values, outs in zip(*(x.split(PROMPTS) for x in (query, key, value, out)), strict=True):
            blocks = _Blocks(rows, keys, scale)
            flat_values = values.flatten(0, 1)
            for begin, end in blocks:
                blocks.put(outs, blocks.weights(begin, end) @ flat_values[:, :end], begin, end)
        ctx.save_for_backward(query, key, value, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, out = ctx.saved_tensors
        grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
        wide = torch.promote_types(grad.dtype, torch.float32)
        expected = (grad * out).sum(-1, keepdim=True, dtype=wide).to(grad.dtype)
        parts = (x.split(PROMPTS) for x in (query, key, value, grad, expected, *grads))
        for rows, keys, values, out_grads, means, row_grads, key_grads, value_grads in zip(*parts, strict=True):
            blocks = _Blocks(rows, keys, ctx.scale)
            flat_values = values.flatten(0, 1)
            # sums over the blocks, in more than the precision of one
            key_sums, value_sums = (torch.zeros_like(blocks.keys, dtype=wide) for _ in range(2))
            for begin, end in blocks:
                weights, above = blocks.weights(begin, end), blocks.rows(out_grads, begin, end)
                value_sums[:, :end] += weights.mT @ above
                scores = (above @ flat_values[:, :end].mT).sub_(blocks.rows(means, begin, end)).mul_(weights)
                blocks.put(row_grads, _scaled(scores, blocks.keys[:, :end], ctx.scale), begin, end)
                key_sums[:, :end] += _scaled(scores.mT, blocks.rows(rows, begin, end), ctx.scale)
            key_grads.copy_(key_sums.view(keys.shape))
            value_grads.copy_(value_sums.view(values.shape))
        return *grads, None


class _Blocks:
    """Rows of causal attention, block by block; the query heads that share a key head as rows of one product."""

    def __init__(self, query: Float[Tensor, "B H P d"], key: Float[Tensor, "B Hkv P d"], scale: float) -> None:
        self._query, self._scale = query, scale
        self.keys = key.flatten(0, 1)
        self._shared = query.shape[1] // key.shape[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        length = self._query.shape[2]
        return iter([(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)])

    def rows(self, x: Float[Tensor, "B H P d"], begin: int, end: int) -> Float[Tensor, "BHkv rows d"]:
        """Some positions of what has the shape of the query."""
        return x[:, :, begin:end].unflatten(1, (-1, self._shared)).flatten(2, 3).flatten(0, 1)

    def put(self, target: Float[Tensor, "B H P d"], rows: Tensor, begin: int, end: int) -> None:
        """Put rows back in their places."""
        batch, heads, _, width = target.shape
        shape = (batch, heads // self._shared, self._shared, end - begin, width)
        target[:, :, begin:end] = rows.view(shape).flatten(1, 2)

    def weights(self, begin: int, end: int) -> Float[Tensor, "BHkv rows end"]:
        """Softmax over the keys up to each row's own."""
        scores = _scaled(self.rows(self._query, begin, end), self.keys[:, :end].mT, self._scale)
        size = end - begin
        later = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu_(1)
        scores.unflatten(1, (-1, size))[..., begin:].masked_fill_(later, -torch.inf)
        return scores.softmax(-1)


def _scaled(first: Float[Tensor, "n a b"], second: Float[Tensor, "n b c"], scale: float) -> Float[Tensor, "n a c"]:
    return torch.baddbmm(first.new_empty(1, 1, 1), first, second, beta=0, alpha=scale)


def _has_parts(query: Tensor) -> bool:
    """Whether there is a kernel that returns log-sum-exps and takes them back: torch has one for CPUs."""
    return query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _fold(query: Float[Tensor, "B H S d"], kv_heads: int) -> Float[Tensor, "B Hkv rows d"]:
    """The query heads that share a key head, as further rows: they see the same keys and no order among themselves."""
    return query.unflatten(1, (kv_heads, -1)).flatten(2, 3)


def _additive(seen: Bool[Tensor, "B 1 1 P"] | None, dtype: torch.dtype) -> Tensor | None:
    return None if seen is None else torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)


def _part(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one part."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=_additive(seen, query.dtype), scale=scale
    )


def _merge(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
    lse = torch.logaddexp(first_lse, second_lse)
    out = first.float() * (first_lse - lse).exp()[..., None] + second.float() * (second_lse - lse).exp()[..., None]
    return out.to(first.dtype), lse


class _SharedPrompt(torch.autograd.Function):
    """Two parts, merged; `query` holds `answers` answers behind one another."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        own_keys: Tensor,
        own_values: Tensor,
        seen: Tensor | None,
        answers: int,
        scale: float,
    ) -> Tensor:
        folded = _fold(query, keys.shape[1])
        prompt_out, prompt_lse = _part(folded, keys, values, seen, scale)
        own_query, own_key, own_value = (_by_answer(x, answers, query.shape[1]) for x in (query, own_keys, own_values))
        own_out, own_lse = _part(own_query, own_key, own_value, None, scale, causal=True)
        out, lse = _merge(
            prompt_out.reshape(query.shape),
            prompt_lse.reshape(query.shape[:-1]),
            _behind(own_out, answers),
            _behind(own_lse[..., None], answers)[..., 0],
        )
        ctx.save_for_backward(query, keys, values, own_keys, own_values, out, lse)
        ctx.seen, ctx.answers, ctx.scale = seen, answers, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, keys, values, own_keys, own_values, out, lse = ctx.saved_tensors
        heads, kv_heads, answers = query.shape[1], keys.shape[1], ctx.answers
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad = grad.contiguous()
        grad_query, grad_keys, grad_values = backward(
            _fold(grad, kv_heads),
            _fold(query, kv_heads),
            keys,
            values,
            _fold(out, kv_heads),
            _fold(lse[..., None], kv_heads)[..., 0].contiguous(),
            0.0,
            False,
            attn_mask=_additive(ctx.seen, query.dtype),
            scale=ctx.scale,
        )
        own = backward(
            *(_by_answer(x, answers, heads) for x in (grad, query, own_keys, own_values, out)),
            _by_answer(lse[..., None], answers, heads)[..., 0].contiguous(),
            0.0,
            True,
            scale=ctx.scale,
        )
        own_grads = [_behind(x, answers) for x in own]
        grad_own_keys, grad_own_values = (x.unflatten(1, (kv_heads, heads // kv_heads)).sum(2) for x in own_grads[1:])
        grad_query = grad_query.reshape(query.shape) + own_grads[0]
        return grad_query, grad_keys, grad_values, grad_own_keys, grad_own_values, None, None, None


def _by_answer(x: Float[Tensor, "B h S d"], answers: int, heads: int) -> Float[Tensor, "BG H T d"]:
    """Answers as rows of a batch, each key head repeated for its query heads."""
    rows = x.unflatten(2, (answers, -1)).transpose(1, 2).flatten(0, 1)
    return rows if rows.shape[1] == heads else rows.repeat_interleave(heads // rows.shape[1], 1)


def _behind(x: Float[Tensor, "BG H T d"], answers: int) -> Float[Tensor, "B H S d"]:
    """Answers behind one another again."""
    return x.unflatten(0, (-1, answers)).transpose(1, 2).flatten(2, 3)


def _joined(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    seen: Tensor | None,
    answers: int,
    scale: float,
) -> Tensor:
    """The same in one attention with a mask, where no kernel returns log-sum-exps."""
    width, length = query.shape[2], query.shape[2] // answers
    place = torch.arange(width, device=query.device)
    own = (place[:, None] // length == place // length) & (place[:, None] >= place)
    prompt = torch.ones(1, 1, 1, keys.shape[2], dtype=torch.bool, device=query.device) if seen is None else seen
    mask = torch.cat([prompt.expand(len(query), 1, width, -1), own.expand(len(query), 1, -1, -1)], -1)
    repeats = query.shape[1] // keys.shape[1]
    all_keys, all_values = (
        torch.cat(pair, 2).repeat_interleave(repeats, 1) for pair in ((keys, own_keys), (values, own_values))
    )
    return functional.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=mask, scale=scale)
