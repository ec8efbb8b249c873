"""A critic on disk."""

import json

import pytest
import torch

from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.settings import CriticSettings
from flexrec.critic.storage import DESCRIPTION, WEIGHTS, load_critic, save_critic
from flexrec.errors import InputError


@pytest.fixture
def critic() -> TwoTowerCritic:
    torch.manual_seed(0)
    critic = TwoTowerCritic(CriticSettings(hidden_size=8, interaction_size=4, beta=0.25), 5, "exponential")
    critic.target_mean.fill_(12.5)
    critic.target_std.fill_(3.0)
    return critic


def test_round_trip(critic, tmp_path) -> None:
    save_critic(critic, tmp_path / "new")
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    loaded = load_critic(tmp_path / "new")
    assert torch.equal(torch.rand(2), expected)
    assert (loaded.settings, loaded.gain, loaded.embedding_size) == (critic.settings, "exponential", 5)
    assert not loaded.training
    inputs = torch.randn(3, 5), torch.randn(3, 5), torch.randn(3, 2)
    for a, b in zip(loaded(*inputs), critic.eval()(*inputs), strict=True):
        assert torch.equal(a, b)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_same_critic_same_bytes(critic, tmp_path) -> None:
    for name in ("a", "b"):
        save_critic(critic, tmp_path / name)
    for name in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_missing_file(critic, tmp_path, name: str) -> None:
    save_critic(critic, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_critic(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_truncated_file(critic, tmp_path, name: str) -> None:
    save_critic(critic, tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="holds no readable critic"):
        load_critic(tmp_path)


def test_weights_of_another_network(critic, tmp_path) -> None:
    save_critic(critic, tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**description, "embedding_size": 6}))
    with pytest.raises(InputError, match="holds no readable critic"):
        load_critic(tmp_path)
