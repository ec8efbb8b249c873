"""One token of every answer at a time, by one kernel with a mask and in two parts, against each answer on its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from flexrec.policy.decoding import JoinedDecoding, PartedDecoding, _own, decoding_passes

KV_HEADS, SHARED, WIDTH, SCALE = 2, 3, 8, 0.3


def decoded(kind, lengths, answers, steps, dtype=torch.float64):
    """What `kind` makes of random tokens behind prompts of these lengths, and what plain attention makes of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    batch, longest = len(lengths), max(lengths)
    keys, values = draw(batch, KV_HEADS, longest, WIDTH), draw(batch, KV_HEADS, longest, WIDTH)
    seen = None
    if min(lengths) < longest:
        seen = (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None]
    if kind is JoinedDecoding:
        part = JoinedDecoding(keys, values, _own(keys, seen, answers, steps, SHARED), answers)
    else:
        part = PartedDecoding(keys, values, seen, answers, steps)
    found, expected, own = [], [], []
    for step in range(steps):
        query = draw(batch, answers, KV_HEADS * SHARED, WIDTH)
        own.append((draw(batch, answers, KV_HEADS, WIDTH), draw(batch, answers, KV_HEADS, WIDTH)))
        found.append(part.see(query, *own[-1], SCALE))
        assert part.step == step + 1
        for prompt, length in enumerate(lengths):
            for answer in range(answers):
                past = [(k[prompt, answer][:, None], v[prompt, answer][:, None]) for k, v in own]
                all_keys = torch.cat([keys[prompt, :, :length], *(k for k, _ in past)], 1)
                all_values = torch.cat([values[prompt, :, :length], *(v for _, v in past)], 1)
                out = scaled_dot_product_attention(
                    query[prompt, answer][None, :, None].double(),
                    all_keys[None].double(),
                    all_values[None].double(),
                    scale=SCALE,
                    enable_gqa=True,
                )
                expected.append(out.flatten())
    return torch.stack(found).flatten(0, 2), torch.stack(expected)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3), answers=st.integers(1, 4), steps=st.integers(1, 4))
@pytest.mark.parametrize("kind", [JoinedDecoding, PartedDecoding])
def test_every_answer_sees_its_prompt_and_itself(kind, lengths, answers, steps):
    found, expected = decoded(kind, lengths, answers, steps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_one_kernel_rounds_no_more_in_bfloat16():
    errors = []
    for kind in (JoinedDecoding, PartedDecoding):
        found, expected = decoded(kind, [40, 31], 4, 6, torch.bfloat16)
        errors.append((found.double() - expected).norm())
    assert errors[0] <= 1.05 * errors[1]


@pytest.mark.parametrize(
    ("dtype", "answers", "length", "kind"),
    [
        (torch.bfloat16, 8, 20, JoinedDecoding),
        (torch.bfloat16, 8, 21, PartedDecoding),  # others' answers are more than four fifths of what it would see
        (torch.float32, 8, 5, JoinedDecoding),
        (torch.float32, 8, 6, PartedDecoding),
        (torch.bfloat16, 1, 5, PartedDecoding),  # nothing to hide
    ],
)
def test_which_of_the_two_decodes(dtype, answers, length, kind):
    rows = torch.zeros(1, KV_HEADS, 40, WIDTH, dtype=dtype)
    (part,) = decoding_passes(iter([(rows, rows)]), None, answers, length, SHARED)
    assert type(part) is kind
