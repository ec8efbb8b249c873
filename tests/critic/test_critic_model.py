"""The network: scales, bounds and options."""

import math
import subprocess
import sys

import pytest
import torch

from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.settings import CriticSettings

D = 5


def make(**changes) -> TwoTowerCritic:
    torch.manual_seed(0)
    return TwoTowerCritic(CriticSettings(hidden_size=16, interaction_size=4, **changes), D, "linear").eval()


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, D), torch.randn(n, D), torch.randn(n, 2)


def test_outputs_are_on_the_scale_of_the_gain() -> None:
    critic = make()
    mean, variance = critic.standardised(*inputs())
    critic.target_mean.fill_(10.0)
    critic.target_std.fill_(3.0)
    scaled_mean, scaled_variance = critic(*inputs())
    torch.testing.assert_close(scaled_mean, 3 * mean + 10)
    torch.testing.assert_close(scaled_variance, 9 * variance)


@pytest.mark.parametrize("bound", [0.5, 6.0])
def test_log_variance_is_bounded_and_keeps_a_gradient(bound: float) -> None:
    critic = make(log_variance_bound=bound)
    with torch.no_grad():
        critic.log_variance_head.weight.zero_()
    for raw in (-1e4, -2.0, 0.0, 2.0, 1e4):
        with torch.no_grad():
            critic.log_variance_head.bias.fill_(raw)
        log_variance = critic.standardised(*inputs())[1].log()
        assert log_variance[0].item() == pytest.approx(bound * math.tanh(raw / bound), abs=1e-5)
    with torch.no_grad():
        critic.log_variance_head.bias.fill_(2 * bound)
    critic.standardised(*inputs())[1].sum().backward()
    assert critic.log_variance_head.bias.grad.item() > 0


def test_item_statistics_are_an_option() -> None:
    history, candidate, statistics = inputs()
    for used in (True, False):
        critic = make(item_statistics=used)
        same = torch.equal(critic(history, candidate, statistics)[0], critic(history, candidate, statistics + 1)[0])
        assert same is not used


def test_item_statistics_are_standardised() -> None:
    critic = make()
    history, candidate, statistics = inputs()
    expected = critic(history, candidate, statistics)[0]
    critic.statistics_mean.copy_(torch.tensor([1.0, 2.0]))
    critic.statistics_std.copy_(torch.tensor([3.0, 4.0]))
    shifted = statistics * torch.tensor([3.0, 4.0]) + torch.tensor([1.0, 2.0])
    torch.testing.assert_close(critic(history, candidate, shifted)[0], expected)


def test_interaction_features() -> None:
    critic = make()
    history, candidate, statistics = inputs()
    seen = []
    critic.interaction.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    critic(history, candidate, statistics)
    u, v = critic.history_tower(history), critic.candidate_projection(candidate)
    torch.testing.assert_close(seen[0], torch.cat([u, v, u * v, (u - v).abs(), statistics], dim=1))


def test_history_matters() -> None:
    critic = make()
    history, candidate, statistics = inputs()
    assert not torch.allclose(critic(history, candidate, statistics)[0], critic(-history, candidate, statistics)[0])


def test_modules_without_a_network_do_not_import_torch() -> None:
    modules = ("settings", "examples", "item_statistics", "completion", "calibration")
    names = ", ".join(["flexrec.critic", "flexrec.baselines", *(f"flexrec.critic.{name}" for name in modules)])
    script = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
