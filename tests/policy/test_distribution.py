"""Drawing tokens from a vocabulary."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from flexrec.policy.distribution import drawn_from_many


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
