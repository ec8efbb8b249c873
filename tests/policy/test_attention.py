"""Causal attention in blocks against torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from flexrec.policy import attention
from flexrec.policy.attention import BLOCK, PROMPTS


def tensors(batch, length, dtype, heads=6, kv_heads=2, width=8):
    """Query, key and value as the layers make them: positions outside, heads inside."""
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(batch, length, count, width, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    ]


def attended(compute, query, key, value):
    """The output, and the gradients of a random combination of it."""
    out = compute(query, key, value)
    factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return out, *torch.autograd.grad((out.double() * factors).sum(), (query, key, value))


def in_blocks(query, key, value, scale=0.3):
    return attention._CausalBlocks.apply(query, key, value, scale)


def plain(query, key, value, scale=0.3):
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("batch", [1, PROMPTS, PROMPTS + 1])
def test_outputs_and_gradients_are_those_of_the_plain_computation(length, batch):
    inputs = tensors(batch, length, torch.float64)
    for found, expected in zip(attended(in_blocks, *inputs), attended(plain, *inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_in_bfloat16_it_errs_as_eager_attention_does():
    inputs = tensors(2, 300, torch.bfloat16)
    exact = attended(plain, *(x.detach().double().requires_grad_() for x in inputs))

    def eager(query, key, value, scale=0.3):
        # as in the models' files: scores in the model's type, softmax in float32
        scores = query @ key.repeat_interleave(3, 1).mT * scale
        scores = scores.masked_fill(torch.ones(300, 300, dtype=torch.bool).triu(1), -torch.inf)
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value.repeat_interleave(3, 1)

    found, usual = attended(in_blocks, *inputs), attended(eager, *inputs)
    for ours, theirs, expected in zip(found, usual, exact, strict=True):
        assert (ours.double() - expected).abs().mean() <= 1.2 * (theirs.double() - expected).abs().mean()


def test_prompts_of_some_length_take_it_on_a_cpu_in_bfloat16():
    for dtype, length, taken in [
        (torch.bfloat16, 2 * BLOCK + 1, True),
        (torch.bfloat16, 2 * BLOCK, False),
        (torch.float32, 2 * BLOCK + 1, False),
    ]:
        query, key, value = tensors(1, length, dtype)
        out = attention.PromptPass().attend(query, key, value, 0.3)
        assert (type(out.grad_fn).__name__ == "_CausalBlocksBackward") is taken
