"""What several parts of the suite share: real tokenizers and models, fetched once and kept in the data folder."""

import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import yaml
from hypothesis import settings

from fork_server import ForkServer
from whole_project import Run, WholeProject

ROOT = Path(__file__).parents[1]

# a busy machine is no failure
settings.register_profile("flexrec", deadline=None)
settings.load_profile("flexrec")


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def duckdb_engine():
    """A connection to DuckDB, as the project's configuration makes it."""
    from flexrec.tabular import Engine, connect

    return connect(Engine.model_validate({"kind": "duckdb"}))


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


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@dataclass(frozen=True)
class Whole:
    """A project whose whole graph has been run twice."""

    project: WholeProject
    first: Run
    second: Run
    printed: tuple[str, str]


@pytest.fixture(scope="session")
def whole(tmp_path_factory, fork_server, tiny_folder) -> Whole:
    """The test environment's graph from nothing to the report, and once more. Not to be written to: copy it."""
    project = WholeProject(tmp_path_factory.mktemp("whole"), fork_server, tracked=True)
    runs, printed = [], []
    for _ in range(2):
        with redirect_stdout(StringIO()) as out:
            runs.append(project.run())
        printed.append(out.getvalue())
    return Whole(project, runs[0], runs[1], (printed[0], printed[1]))


@pytest.fixture
def done(whole, tmp_path) -> WholeProject:
    """A copy of a project whose graph has been run."""
    return whole.project.copy(tmp_path / "project")


@pytest.fixture
def fresh(whole, tmp_path) -> WholeProject:
    """A project of which nothing has been run, but that has the base model."""
    return whole.project.copy(tmp_path / "project", "06_models/base")
