"""Variances of rewards and the weights made of them: numbers by hand, definitions, Monte Carlo, mean 1, clipping."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.rl.rewards import sequence_rewards, swap_rewards
from flexrec.rl.uncertainty import sequence_variances, swap_reward_variances, uncertainty_weights

WIDE = {"low": 0.0, "high": 1e9, "eps": 1e-3}
# d = 1, 1/log2(3) = 0.6309298, 0.5; IDCG of the gains 3, 2, 1 = 3 + 2 * 0.6309298 + 0.5 = 4.7618595
VARIANCES = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)
IDCG = torch.tensor(4.7618595071429155, dtype=torch.float64)


def discount(k: int) -> float:
    return 1 / math.log2(k + 1)


def near(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-7)


def variance_in_closed_form(variances: list[float], idcg: float) -> list[float]:
    K = len(variances)
    d = [discount(k) for k in range(1, K + 1)]
    result = []
    for k in range(K - 1):
        own = sum(d[k] - d[j] for j in range(k + 1, K)) ** 2 * variances[k]
        others = sum((d[k] - d[j]) ** 2 * variances[j] for j in range(k + 1, K))
        result.append((own + others) / ((K - 1 - k) * idcg) ** 2)
    return [*result, 0.0]


def test_variances_of_three_items_by_hand() -> None:
    # Var r_1 = [(.3690702+.5)^2 * 1 + .3690702^2 * 4 + .5^2 * .25] / (2 * 4.7618595)^2
    #         = (.7552831 + .5448513 + .0625) / 90.7012246 = 0.0150233
    # Var r_2 = [.1309298^2 * 4 + .1309298^2 * .25] / 4.7618595^2 = .0728560 / 22.6753061 = 0.0032130
    near(swap_reward_variances(VARIANCES, IDCG), [0.0150233, 0.0032130, 0.0])
    # (1 * 1 + .6309298^2 * 4 + .25 * .25) / 4.7618595^2 = (1 + 1.5922894 + .0625) / 22.6753061 = 0.1170784
    near(sequence_variances(VARIANCES, IDCG), 0.1170784)


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=12), st.floats(0.01, 100))
def test_variances_equal_the_closed_form(variances: list[float], idcg: float) -> None:
    tensor = torch.tensor(variances, dtype=torch.float64)
    expected = variance_in_closed_form(variances, idcg)
    actual = swap_reward_variances(tensor, torch.tensor(idcg, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-300)
    list_variance = sum(discount(k) ** 2 * v for k, v in enumerate(variances, 1)) / idcg**2
    assert float(sequence_variances(tensor, torch.tensor(idcg, dtype=torch.float64))) == pytest.approx(
        list_variance, rel=1e-9
    )


def test_variances_agree_with_monte_carlo() -> None:
    generator = torch.Generator().manual_seed(7)
    mean = torch.rand(8, generator=generator, dtype=torch.float64) * 3
    variance = torch.rand(8, generator=generator, dtype=torch.float64) * 2
    variance[2] = 0.0
    idcg = torch.tensor(6.0, dtype=torch.float64)
    noise = torch.randn(400_000, 8, generator=generator, dtype=torch.float64)
    draws = mean + variance.sqrt() * noise
    # the standard error of a variance over n draws is sqrt(2/n) = 0.22%; 1.5% is more than six of them
    sampled = swap_rewards(draws, idcg).var(0)
    torch.testing.assert_close(sampled, swap_reward_variances(variance, idcg), rtol=0.015, atol=1e-12)
    sampled = sequence_rewards(draws, idcg).var()
    torch.testing.assert_close(sampled, sequence_variances(variance, idcg), rtol=0.015, atol=0)


def test_orders_differ_in_their_variance_which_an_undiscounted_sum_would_not_see() -> None:
    orders = torch.tensor(list(itertools.permutations([0.0, 0.5, 1.0, 4.0])), dtype=torch.float64)
    discounted = sequence_variances(orders, IDCG)
    # certain items first .398 * .5 + .25 * 1 + .186 * 4 = 1.19, uncertain ones first 4 + .398 * 1 + .25 * .5 = 4.52
    assert discounted.max() - discounted.min() > 3 / IDCG**2


def test_weights_of_one_group_by_hand() -> None:
    # 1/(u + eps) with u = 0, 1, 3 and eps = 1: 1, 1/2, 1/4; their mean 7/12; weights 12/7, 6/7, 3/7
    variances = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[12 / 7, 6 / 7, 3 / 7]], dtype=torch.float64)
    wide = uncertainty_weights(variances, scope="group", low=0, high=9, eps=1)
    torch.testing.assert_close(wide, expected)
    # clipped to [0.5, 1.5]
    clipped = uncertainty_weights(variances, scope="group", low=0.5, high=1.5, eps=1)
    torch.testing.assert_close(clipped, torch.tensor([[1.5, 6 / 7, 0.5]], dtype=torch.float64))


def test_the_scope_decides_whether_prompts_compete() -> None:
    # 1/(u + 1): prompt 1 has 1 and 1/2, prompt 2 has 1/4 and 1/8; their means 3/4 and 3/16, of all 15/32
    variances = torch.tensor([[0.0, 1.0], [3.0, 7.0]], dtype=torch.float64)
    group = uncertainty_weights(variances, scope="group", low=0, high=9, eps=1)
    torch.testing.assert_close(group, torch.tensor([[4 / 3, 2 / 3], [4 / 3, 2 / 3]], dtype=torch.float64))
    batch = uncertainty_weights(variances, scope="batch", low=0, high=9, eps=1)
    torch.testing.assert_close(batch, torch.tensor([[32 / 15, 16 / 15], [8 / 15, 4 / 15]], dtype=torch.float64))


@given(st.lists(st.floats(0, 1e4), min_size=12, max_size=12))
def test_mean_one_over_the_scope_before_clipping(values: list[float]) -> None:
    variances = torch.tensor(values, dtype=torch.float64).reshape(3, 4)
    ones = torch.ones(3, dtype=torch.float64)
    group = uncertainty_weights(variances, scope="group", **WIDE)
    torch.testing.assert_close(group.mean(1), ones, rtol=1e-12, atol=0)
    batch = uncertainty_weights(variances, scope="batch", **WIDE)
    torch.testing.assert_close(batch.mean(), ones[0], rtol=1e-12, atol=0)
    # the more certain rollout never weighs less
    order = variances.flatten().argsort()
    assert (batch.flatten()[order].diff() <= 0).all()
    clipped = uncertainty_weights(variances, scope="batch", low=0.2, high=5, eps=1e-3)
    assert torch.equal(clipped, batch.clamp(0.2, 5))


@pytest.mark.parametrize("scope", ["group", "batch"])
@pytest.mark.parametrize("variance", [0.0, 0.1, 1e-30, 1e30])
def test_equal_variances_weigh_exactly_one(scope: str, variance: float) -> None:
    variances = torch.full((3, 7), variance)
    assert (uncertainty_weights(variances, scope=scope, low=1, high=1, eps=1e-8) == 1).all()
    assert (uncertainty_weights(variances, scope=scope, low=0, high=9, eps=1e-8) == 1).all()


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_a_list_in_which_nothing_gains_takes_no_weight_from_the_others(scope: str) -> None:
    # the second prompt has IDCG 0 and so variance 0; alone, the first has certainties 1/2 and 1/4: mean 3/8
    variances = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    counted = torch.tensor([[True, True], [False, False]])
    weights = uncertainty_weights(variances, scope=scope, low=0, high=9, eps=1, counted=counted)
    torch.testing.assert_close(weights, torch.tensor([[4 / 3, 2 / 3], [1, 1]], dtype=torch.float64))


def test_an_undiscounted_sum_would_do_nothing_within_a_group() -> None:
    # all orders of one candidate set as one group
    orders = torch.tensor(list(itertools.permutations([0.0, 0.5, 1.0, 4.0])), dtype=torch.float64)
    undiscounted = orders.sum(-1).unsqueeze(0)
    assert (uncertainty_weights(undiscounted, scope="group", **WIDE) == 1).all()
    discounted = sequence_variances(orders, torch.tensor(3.0, dtype=torch.float64)).unsqueeze(0)
    weights = uncertainty_weights(discounted, scope="group", **WIDE)
    assert weights.max() / weights.min() > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": "prompt"}, "unknown scope 'prompt'.*'group' or 'batch'"),
        ({"low": 1.5, "high": 2}, "must hold 1"),
        ({"low": -0.1}, "must hold 1"),
        ({"high": 0.9}, "must hold 1"),
        ({"eps": 0.0}, "eps must be positive"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        uncertainty_weights(torch.ones(2, 2), **{"scope": "group", "low": 0.2, "high": 5, "eps": 1e-8, **change})


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf")])
def test_bad_variances_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="finite and not negative"):
        uncertainty_weights(torch.tensor([[1.0, value]]), scope="group", **WIDE)


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(InputError, match="prompt, rollout"):
        uncertainty_weights(torch.ones(3), scope="group", **WIDE)
