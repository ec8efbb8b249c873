"""A critic as a folder: the weights as safetensors, what they mean as JSON. Nothing is unpickled."""

import json
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from flexrec.config import Settings
from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.files import replacing
from flexrec.ranking.gains import GainKind

WEIGHTS = "critic.safetensors"
DESCRIPTION = "critic.json"


class _Description(Settings):
    """What has to be known to read the weights."""

    embedding_size: int = Field(ge=1)
    gain: GainKind
    settings: CriticSettings


def save_critic(critic: TwoTowerCritic, folder: Path) -> None:
    """Write the critic into a folder, which is made if need be; each file appears whole or not at all."""
    description = _Description(embedding_size=critic.embedding_size, gain=critic.gain, settings=critic.settings)
    with replacing(folder / WEIGHTS, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in critic.state_dict().items()}))
    with replacing(folder / DESCRIPTION) as file:
        file.write(json.dumps(description.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")


def load_critic(folder: Path) -> TwoTowerCritic:
    """Read a critic that `save_critic` wrote, in evaluation mode.

    Raises:
        InputError: A file is missing, cut short, or does not fit the other.
    """
    weights, description = folder / WEIGHTS, folder / DESCRIPTION
    for path in (weights, description):
        if not path.is_file():
            raise InputError(f"{path} is missing; train the critic again")
    try:
        known = _Description.model_validate_json(description.read_text(encoding="utf-8"))
        # the initial weights are drawn and overwritten: that must not move the caller's random state
        with torch.random.fork_rng(devices=[]):
            critic = TwoTowerCritic(known.settings, known.embedding_size, known.gain)
        critic.load_state_dict(load_file(weights))
    except (ValidationError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder} holds no readable critic; train it again ({error})") from error
    return critic.eval()
