"""The critic's loss against numbers made by hand, torch's own, and its closed gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.critic.loss import beta_nll

REAL = st.floats(-3, 3)
POSITIVE = st.floats(0.1, 10)


def tensors(*values: float, grad: bool = False) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=grad) for value in values]


def test_by_hand() -> None:
    # 0.5 * ((3 - 1)^2 / 4 + log 4) * 4^0.5 = 1 + log 4
    assert beta_nll(*tensors(1.0, 4.0, 3.0), 0.5).item() == pytest.approx(1 + math.log(4))


def test_gradient_by_hand() -> None:
    mean, variance = tensors(1.0, 4.0, grad=True)
    beta_nll(mean, variance, torch.tensor(2.0, dtype=torch.float64), 0.5).backward()
    # mean: -(2 - 1) / 4 * 2; variance: 0.5 * (1/4 - 1/16) * 2, without the derivative of the weight
    assert mean.grad.item() == pytest.approx(-0.5)
    assert variance.grad.item() == pytest.approx(0.1875)


@settings(deadline=None)
@given(REAL, POSITIVE, REAL, st.floats(0, 1))
def test_gradient_in_closed_form(mu: float, s2: float, y: float, beta: float) -> None:
    mean, variance = tensors(mu, s2, grad=True)
    beta_nll(mean, variance, torch.tensor(y, dtype=torch.float64), beta).backward()
    assert mean.grad.item() == pytest.approx((mu - y) / s2 ** (1 - beta), abs=1e-9)
    assert variance.grad.item() == pytest.approx(0.5 * (s2 - (y - mu) ** 2) / s2 ** (2 - beta), abs=1e-9)


@settings(deadline=None)
@given(REAL, POSITIVE, REAL)
def test_without_beta_it_is_the_likelihood(mu: float, s2: float, y: float) -> None:
    mean, variance, target = tensors(mu, s2, y)
    expected = torch.nn.GaussianNLLLoss(reduction="none")(mean, target, variance)
    assert beta_nll(mean, variance, target, 0.0).item() == pytest.approx(expected.item())


def test_not_reduced() -> None:
    assert beta_nll(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3), 0.5).tolist() == [[0.5] * 3] * 2
