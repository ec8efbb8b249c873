"""Drawing tokens from a vocabulary, and reading log-probabilities from it a few positions at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from flexrec.policy.distribution import drawn_from_many, token_values
from flexrec.policy.grammar import Grammar, follow


def test_draws_follow_the_probabilities():
    probabilities = torch.softmax(torch.randn(3, 40, generator=torch.Generator().manual_seed(0)), -1)
    probabilities[1, 5:30] = 0
    probabilities /= probabilities.sum(-1, keepdim=True)
    drawn = drawn_from_many(probabilities.repeat(8000, 1), torch.Generator().manual_seed(1)).view(8000, 3)
    for row in range(3):
        counts = np.bincount(drawn[:, row].numpy(), minlength=40)
        possible = probabilities[row].numpy() > 0
        assert counts[~possible].sum() == 0
        expected = probabilities[row].double().numpy()[possible]
        assert chisquare(counts[possible], 8000 * expected / expected.sum()).pvalue > 1e-3


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.3, 1.0]), min_size=1, max_size=12).filter(any),
    place=st.sampled_from([0.0, 0.25, 0.5, 1 - 2**-24]),
)
def test_nothing_impossible_is_drawn_wherever_the_random_number_falls(weights, place):
    probabilities = torch.tensor([weights]) / sum(weights)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "rand", lambda *shape, generator, dtype: torch.full(shape, place, dtype=dtype))
        (pick,) = drawn_from_many(probabilities, torch.Generator())[0].tolist()
    assert 0 <= pick < len(weights)
    assert weights[pick] > 0


def test_the_same_seed_draws_the_same():
    probabilities = torch.softmax(torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)), -1)
    first, again = (drawn_from_many(probabilities, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)


VOCABULARY, WIDTH = 70, 12
THINKING = Grammar(
    ((10,), (11,), (12,)),
    constrained=True,
    end_token=VOCABULARY - 1,
    max_length=20,
    reasoning_closed=lambda tokens: tokens[-1] == 50,
    reasoning_end=(50,),
    max_reasoning=9,
)
FREE = Grammar(((10,), (11,)), constrained=False, end_token=VOCABULARY - 1, max_length=20)


def scored(grammar, *, bias, entropies, dtype):
    """Values and entropies of random answers, gradients of states and output matrix, and what the graph keeps."""
    torch.manual_seed(0)
    head, states = torch.nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype), torch.randn(5, 13, WIDTH)
    states = states.to(dtype).requires_grad_()
    thoughts = torch.randint(13, 50, (5, 9)).tolist()
    answers = [[*thought[: 4 + row], 50, 11, 10, 12] for row, thought in enumerate(thoughts)]
    answers = [answer + [0] * (13 - len(answer)) for answer in answers]
    constraints, _ = follow(grammar, answers, 13)
    rows, kept = [], [0]
    head.register_forward_hook(lambda _module, inputs, _out: rows.append(len(inputs[0])))

    def count(tensor):
        kept[0] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        found = token_values(head, states, torch.tensor(answers), constraints, grammar, 0.7, entropies=entropies)
    logps, spreads = found
    weights = torch.randn(logps.shape)
    loss = (weights * logps).sum() + (0.0 if spreads is None else (weights * spreads).sum())
    loss.backward()
    grads = [states.grad, *(weight.grad for weight in head.parameters())]
    return [x for x in (*found, *grads) if x is not None], rows, kept[0]


@pytest.mark.parametrize("grammar", [THINKING, FREE], ids=["constrained", "free"])
@pytest.mark.parametrize("entropies", [True, False])
@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("at_once", [8, 1])
def test_free_positions_a_few_at_a_time_are_the_same(monkeypatch, grammar, entropies, dtype, bias, at_once):
    options = {"bias": bias, "entropies": entropies, "dtype": dtype}
    whole, (rows,), kept = scored(grammar, **options)
    assert rows > 3 * 8
    monkeypatch.setattr("flexrec.policy.distribution.FREE_AT_ONCE", at_once * VOCABULARY + 1)
    pieces, sizes, kept_of_pieces = scored(grammar, **options)
    # once forwards, and once more backwards, where nothing of the tables was kept
    assert max(sizes) == at_once
    assert sum(sizes) == 2 * rows
    assert kept_of_pieces < kept - rows * VOCABULARY
    # the gradient of the matrix is a sum over pieces, rounded in bfloat16 to 2^-8
    tolerance = 1e-6 if dtype is torch.float32 else 2**-6
    for one, other in zip(whole[: 1 + entropies], pieces[: 1 + entropies], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    for one, other in zip(whole[1 + entropies :], pieces[1 + entropies :], strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_free_positions_without_a_graph_are_read_once(monkeypatch):
    torch.manual_seed(0)
    head, states, answers = torch.nn.Linear(WIDTH, VOCABULARY), torch.randn(2, 6, WIDTH), [[20] * 6, [21] * 6]
    given = head, states, torch.tensor(answers), follow(FREE, answers, 6)[0], FREE, 1.0
    sizes = []
    head.register_forward_hook(lambda _module, inputs, _out: sizes.append(len(inputs[0])))
    with torch.no_grad():
        whole = token_values(*given)
        # fewer than the logits of one position: it is one at a time
        monkeypatch.setattr("flexrec.policy.distribution.FREE_AT_ONCE", 1)
        pieces = token_values(*given)
    assert sizes == [12, *[1] * 12]
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
