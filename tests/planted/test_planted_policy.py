from itertools import permutations

import numpy as np
import pytest
import torch

from flexrec.planted.policy import Policies
from flexrec.planted.world import feature_groups

R, B, K, F, E, H = 2, 3, 4, 7, 5, 6


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return (
        torch.tensor(rng.standard_normal((R, B, K, F)), dtype=torch.float32),
        torch.tensor(rng.standard_normal((R, B, E)), dtype=torch.float32),
    )


def policies(views: bool = False) -> Policies:
    groups = np.stack(list(feature_groups(F - 3).values())) if views else None
    made = Policies([3, 8], F, E, H, groups)
    with torch.no_grad():
        # far from uniform, so that a mistake shows
        made.weights["out"].mul_(10)
        for name in ("view", "view_bias"):
            values = np.random.default_rng(5).standard_normal(tuple(made.weights[name].shape))
            made.weights[name].copy_(torch.tensor(values))
    return made


def all_orders() -> torch.Tensor:
    return torch.tensor(list(permutations(range(K)))).expand(R, B, 24, K)


def test_the_probabilities_of_all_permutations_sum_to_1(inputs):
    orders = all_orders()
    logps = policies().log_probabilities(*inputs, torch.zeros(R, B, 24, dtype=torch.int64), orders)
    total = logps.sum(-1).exp().sum(-1)
    np.testing.assert_allclose(total.detach(), 1, rtol=1e-5)
    # and with a view, over views too
    made = policies(views=True)
    total = sum(
        made.log_probabilities(*inputs, torch.full((R, B, 24), view), orders).sum(-1).exp().sum(-1) for view in range(3)
    )
    np.testing.assert_allclose(total.detach(), 1, rtol=1e-5)


def test_log_probabilities_by_hand(inputs):
    """One rollout of one policy in plain numpy, choice by choice, from the formula of the module."""
    made, order = policies(), [2, 0, 3, 1]
    features, needs = (values[1, 2].numpy().astype(np.float64) for values in inputs)
    w = {name: values[1].detach().numpy().astype(np.float64) for name, values in made.weights.items()}
    expected, chosen = [], np.zeros(F)
    for rank, item in enumerate(order):
        logits = {}
        for other in order[rank:]:
            hidden = (1 + needs @ w["gate"]) * (features[other] @ w["item"]) + needs @ w["need"] + w["bias"][0]
            hidden += chosen / K @ w["state"] + rank / K * w["rank"][0]
            logits[other] = np.maximum(hidden, 0) @ w["out"][:, 0]
        expected.append(logits[item] - np.log(sum(np.exp(value) for value in logits.values())))
        chosen += features[item]
    orders = torch.tensor(order).expand(R, B, 1, K)
    logps = made.log_probabilities(*inputs, torch.zeros(R, B, 1, dtype=torch.int64), orders)
    np.testing.assert_allclose(logps[1, 2, 0].detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("views", [False, True])
def test_rollouts_come_with_their_probabilities(inputs, views):
    made, G = policies(views), 4000
    uniforms = torch.rand(R, B, G, made.tokens(K), generator=torch.Generator().manual_seed(0))
    seen, orders = made.sample(*inputs, uniforms)
    np.testing.assert_array_equal(orders.sort(-1).values, torch.arange(K).expand(R, B, G, K))
    every = all_orders()
    for view in range(3 if views else 1):
        wanted = made.log_probabilities(*inputs, torch.full((R, B, 24), view), every).sum(-1).exp().detach()
        same = (orders[:, :, :, None] == every[:, :, None]).all(-1) & (seen == view)[..., None]
        # standard error at most sqrt(.25 / 4000) = .008
        np.testing.assert_allclose(same.float().mean(2), wanted, atol=0.032)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24, 1.0])
def test_the_ends_of_the_unit_interval(inputs, uniform):
    """A product with the total may round up to it, as 1 does."""
    _, orders = policies().sample(*inputs, torch.full((R, B, 1, K), uniform))
    np.testing.assert_array_equal(orders[:, :, 0].sort(-1).values, torch.arange(K).expand(R, B, K))


def test_the_likeliest_choice_at_every_rank(inputs):
    made = policies(views=True)
    views, orders = made.sample(*inputs)
    assert orders.shape == (R, B, 1, K)
    logps = made.log_probabilities(*inputs, views, orders)
    for rank in range(K - 1):
        swapped = orders.clone()
        for later in range(rank + 1, K):
            swapped[..., [rank, later]] = orders[..., [later, rank]]
            other = made.log_probabilities(*inputs, views, swapped)
            assert (logps[..., rank] >= other[..., rank]).all()
            swapped = orders.clone()
    for view in range(3):
        other = made.log_probabilities(*inputs, torch.full_like(views, view), orders)
        assert (logps[..., K] >= other[..., K]).all()


def test_what_a_view_leaves_out_does_not_matter(inputs):
    made = policies(views=True)
    features, needs = inputs
    changed = features.clone()
    changed[..., -2] += 5  # the trend
    orders = all_orders()
    for name, view in (("taste", 0), ("trend", 1), ("quality", 2)):
        views = torch.full((R, B, 24), view)
        same = torch.equal(
            made.log_probabilities(features, needs, views, orders),
            made.log_probabilities(changed, needs, views, orders),
        )
        # a shift that all candidates share changes what is seen of them
        assert same == (name != "trend"), name


def test_policies_begin_nearly_uniform_and_by_their_seed(inputs):
    made = Policies([3, 8], F, E, H)
    logps = made.log_probabilities(*inputs, torch.zeros(R, B, 24, dtype=torch.int64), all_orders()).sum(-1)
    assert (logps + np.log(24)).abs().max() < 1.5
    np.testing.assert_array_equal(Policies([8], F, E, H).weights["item"][0].detach(), made.weights["item"][1].detach())
