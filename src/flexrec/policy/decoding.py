"""Attention of the newest token of every answer, as answers are decoded.

A row is one token, so that the two parts of `flexrec.policy.attention`, merged, would be two small kernels and a merge.
There are two other forms of the same: one kernel with a mask, or one softmax over products taken in two places.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


class DecodingPass(Protocol):
    """The newest token of every answer sees its prompt and the answer so far, which grows by that token.

    Attributes:
        step: Tokens that every answer has.
    """

    step: int

    def see(
        self,
        query: Float[Tensor, "B S H d"],
        key: Float[Tensor, "B S Hkv d"],
        value: Float[Tensor, "B S Hkv d"],
        scale: float,
    ) -> Float[Tensor, "B S Hd"]:
        """Attention of one token of each of S answers, laid out as projections leave it."""

    def attend(
        self, query: Float[Tensor, "B H S d"], key: Tensor, value: Tensor, scale: float
    ) -> Float[Tensor, "B H S d"]:
        """The same, as a Hugging Face layer has it."""
        out = self.see(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale)
        return out.unflatten(2, (query.shape[1], -1)).transpose(1, 2)


def decoding_passes(
    layers: Iterator[tuple[Float[Tensor, "B Hkv P d"], Float[Tensor, "B Hkv P d"]]],
    seen: Bool[Tensor, "B 1 1 P"] | None,
    answers: int,
    length: int,
    shared: int,
) -> Iterator[DecodingPass]:
    """What decodes `answers` answers of at most `length` tokens to each prompt, layer by layer.

    Args:
        layers: Keys and values of the prompts.
        seen: False at padding.
        answers: Answers per prompt.
        length: Of an answer, at most.
        shared: Query heads for each key head.
    """
    mask = None
    for keys, values in layers:
        if _pays_joined(keys, answers, length):
            mask = _own(keys, seen, answers, length, shared) if mask is None else mask
            yield JoinedDecoding(keys, values, mask, answers)
        else:
            yield PartedDecoding(keys, values, seen, answers, length)


def _pays_joined(keys: Float[Tensor, "B Hkv P d"], answers: int, length: int) -> bool:
    """Whether one kernel over all answers' keys is faster than two products, although most of what it sees is masked.

    On CPUs it is, twice as fast with eight answers, until others' answers are most of what it sees. In float32, where
    small products are cheaper, that is early.
    """
    if keys.device.type != "cpu" or answers == 1:
        return False
    return answers * length <= keys.shape[2] * (4 if keys.dtype == torch.bfloat16 else 1)


def _own(
    keys: Float[Tensor, "B Hkv P d"], seen: Bool[Tensor, "B 1 1 P"] | None, answers: int, length: int, shared: int
) -> Float[Tensor, "B 1 rows L"]:
    """0 at the prompt and a row's own answer, -inf at padding and other answers; those token by token."""
    answer = torch.arange(answers, device=keys.device)
    own = answer.repeat_interleave(shared)[:, None] == answer.repeat(length)
    prompt = torch.ones(1, 1, 1, keys.shape[2], dtype=torch.bool, device=keys.device) if seen is None else seen
    mask = torch.cat([prompt.expand(-1, 1, len(own), -1), own.expand(len(prompt), 1, -1, -1)], -1)
    return torch.zeros(mask.shape, dtype=keys.dtype, device=keys.device).masked_fill_(~mask, -torch.inf)


class JoinedDecoding(DecodingPass):
    """All answers' keys behind the prompt's, for one kernel with a mask.

    Args:
        keys: Of the prompts.
        values: Of the prompts.
        mask: What each row may see (`_own`).
        answers: Answers per prompt.
    """

    def __init__(
        self,
        keys: Float[Tensor, "B Hkv P d"],
        values: Float[Tensor, "B Hkv P d"],
        mask: Float[Tensor, "B 1 rows L"],
        answers: int,
    ) -> None:
        batch, kv_heads, self._prompt, width = keys.shape
        self._keys = keys.new_empty(batch, kv_heads, mask.shape[-1], width)
        self._values = torch.empty_like(self._keys)
        self._keys[:, :, : self._prompt] = keys
        self._values[:, :, : self._prompt] = values
        self._mask, self._answers = mask, answers
        self.step = 0

    def see(
        self,
        query: Float[Tensor, "B S H d"],
        key: Float[Tensor, "B S Hkv d"],
        value: Float[Tensor, "B S Hkv d"],
        scale: float,
    ) -> Float[Tensor, "B S Hd"]:
        """See `DecodingPass.see`."""
        start = self._prompt + self.step * self._answers
        end = start + self._answers
        self._keys[:, :, start:end] = key.transpose(1, 2)
        self._values[:, :, start:end] = value.transpose(1, 2)
        self.step += 1
        # the query heads that share a key head see the same keys: rows beside each other
        rows = query.unflatten(2, (key.shape[2], -1)).transpose(1, 2)
        out = functional.scaled_dot_product_attention(
            rows.flatten(2, 3),
            self._keys[:, :, :end],
            self._values[:, :, :end],
            attn_mask=self._mask[..., :end],
            scale=scale,
        )
        return out.view(rows.shape).transpose(1, 2).flatten(2)


class PartedDecoding(DecodingPass):
    """One softmax over both parts, each product taken where its keys are.

    With one token of each answer the products are so small that this is faster than a fused kernel for each part. As in
    the models' own `eager` attention, scores are of the model's type and the softmax is in float32.
    """

    def __init__(
        self,
        keys: Float[Tensor, "B Hkv P d"],
        values: Float[Tensor, "B Hkv P d"],
        seen: Bool[Tensor, "B 1 1 P"] | None,
        answers: int,
        length: int,
    ) -> None:
        batch, kv_heads, _, width = keys.shape
        self._keys = keys.transpose(-1, -2).flatten(0, 1).contiguous()
        self._values = values.flatten(0, 1).contiguous()
        # padding begins behind the shortest prompt: only there is anything to hide
        self._shortest = 0 if seen is None else int(seen.all(0).sum())
        self._padding = None if seen is None else ~seen[..., self._shortest :]
        self._own_keys = self._values.new_empty(batch, kv_heads, answers, length, width)
        self._own_values = torch.empty_like(self._own_keys)
        # the query heads of one key head of one answer are rows of one small product
        self._flat_keys, self._flat_values = (x.flatten(0, 2) for x in (self._own_keys, self._own_values))
        self.step = 0

    def see(
        self,
        query: Float[Tensor, "B S H d"],
        key: Float[Tensor, "B S Hkv d"],
        value: Float[Tensor, "B S Hkv d"],
        scale: float,
    ) -> Float[Tensor, "B S Hd"]:
        """See `DecodingPass.see`."""
        batch, kv_heads, answers, _, width = self._own_keys.shape
        self._own_keys[:, :, :, self.step] = key.transpose(1, 2)
        self._own_values[:, :, :, self.step] = value.transpose(1, 2)
        self.step += 1
        shared = query.shape[2] // kv_heads
        rows = (query.unflatten(2, (kv_heads, shared)).transpose(1, 2) * scale).contiguous()
        prompt = rows.view(batch * kv_heads, answers * shared, width) @ self._keys
        if self._padding is not None:
            prompt.unflatten(0, (batch, kv_heads))[..., self._shortest :].masked_fill_(self._padding, -torch.inf)
        own = rows.view(-1, shared, width) @ self._flat_keys[:, : self.step].mT
        # the kernel computes in float32 whatever the type
        weights = torch.cat([prompt, own.view(*prompt.shape[:2], self.step)], -1).softmax(-1)
        first, second = weights.split([prompt.shape[-1], self.step], -1)
        out = first @ self._values
        out.view(-1, shared, width).baddbmm_(second.view(-1, shared, self.step), self._flat_values[:, : self.step])
        return out.view(rows.shape).transpose(1, 2).reshape(batch, answers, -1)
