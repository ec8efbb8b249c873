"""What several parts of the suite share: real tokenizers and models, fetched once and kept in the data folder."""

import os
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def downloads() -> Path:
    """Where downloads are kept, checked by their digests at every use; `make run` uses the same folder."""
    folder = ROOT / "data" / "01_raw"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def models() -> dict:
    """The entries of models.yml."""
    from flexrec.policy.models import BaseModelSettings

    table = yaml.safe_load((ROOT / "conf" / "base" / "models.yml").read_text())["models"]
    return {name: BaseModelSettings.model_validate(entry).root for name, entry in table.items()}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, downloads, models) -> Path:
    """A tiny random Llama with SmolLM2's tokenizer, as the test environment uses it."""
    from flexrec.policy.models import prepare_base_model

    folder = tmp_path_factory.mktemp("tiny")
    prepare_base_model(models["tiny"], downloads, folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory, downloads, models) -> Path:
    """The real SmolLM2-135M-Instruct."""
    from flexrec.policy.models import prepare_base_model

    folder = tmp_path_factory.mktemp("smollm2")
    prepare_base_model(models["smollm2-135m"], downloads, folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(tiny_folder):
    from flexrec.policy.models import load_tokenizer

    return load_tokenizer(tiny_folder)
