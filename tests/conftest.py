"""What several parts of the suite share: real tokenizers and models, fetched once and kept in the data folder."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

from fork_server import ForkServer
from quick_settings import read_quickly
from whole_project import Run, WholeProject

ROOT = Path(__file__).parents[1]

# a busy machine is no failure
settings.register_profile("flexrec", deadline=None)
settings.load_profile("flexrec")

pytest.register_assert_rewrite("plain_computation", "raw_readings", "shown_prompts")


read_quickly()


LONGEST = (
    # the whole graph
    "study/test_whole_study.py",
    "pipelines/test_spark.py",
    "pipelines/test_bad_input.py",
    "pipelines/test_what_reruns.py",
    "pipelines/test_killed.py",
    "rl/test_specification.py",
    "pipelines/test_methods.py",
    "pipelines/test_reasoning.py",
    "pipelines/test_leaks.py",
    "pipelines/test_reproducible.py",
    "pipelines/test_predictions.py",
    "pipelines/test_chat_and_forgetting.py",
    "pipelines/test_probe.py",
    "pipelines/test_few_judged.py",
    "rewriting/test_pipeline.py",
    # the rest
    "policy/test_engine_in_bfloat16.py",
    "policy/test_engine.py",
    "test_tabular.py",
    "benchmarks/test_programs.py",
    "rl/test_methods_behaviour.py",
    "rl/test_trainer.py",
    "rl/test_fine_tuning.py",
    "planted/test_learning.py",
    "sources/test_mutations.py",
    "test_conf.py",
    "policy/test_models.py",
    "policy/test_vllm_agrees.py",
    "policy/test_vllm_engines.py",
    "policy/test_vllm_sampler.py",
    "sources/test_own.py",
    "sources/test_esci.py",
)
"""Files that take long, which start first: one that starts last leaves the other workers with nothing to do."""


UNTRACED = (
    "planted/test_learning.py",
    "policy/test_engine_in_bfloat16.py",
    "policy/test_engine_variants.py",
    "rl/test_methods_behaviour.py",
    "sources/test_mutations.py",
    "sources/test_mutations_of_parquet.py",
)
"""Files that go through the same lines many thousands of times, which others do, too: to trace them costs minutes."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    tracing = getattr(item.config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
    if tracing is not None:
        wanted = item.path not in {ROOT / "tests" / name for name in UNTRACED}
        if wanted != tracing.started:
            # once for a file: a worker does one after the other
            (tracing.resume if wanted else tracing.pause)()
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Have a folder made by the worker that asks first; all the others get the same one."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def shared(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / f"shared-{name}", base / f"shared-{name}.done"
        with FileLock(base / f"shared-{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return shared


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
def parsed_once() -> Iterator[None]:
    """What a GGUF file says beside its weights, read once; transformers takes seconds, up to four times for a model."""
    from transformers import configuration_utils, modeling_gguf_pytorch_utils, tokenization_utils_tokenizers
    from transformers.models.auto import tokenization_auto

    load, known = modeling_gguf_pytorch_utils.load_gguf_checkpoint, {}

    def quick(path: str, *args: Any, return_tensors: bool = False, **kwargs: Any) -> dict:
        if return_tensors or args or kwargs:
            return load(path, *args, return_tensors=return_tensors, **kwargs)
        # a file under the same name may be another
        stat = Path(path).stat()
        key = str(path), stat.st_size, stat.st_mtime_ns
        if key not in known:
            known[key] = load(path)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        for module in (configuration_utils, tokenization_utils_tokenizers, tokenization_auto):
            patch.setattr(module, "load_gguf_checkpoint", quick)
        yield


@pytest.fixture(scope="session")
def tiny_folder(once, downloads, models, parsed_once) -> Path:
    """A tiny random Llama with SmolLM2's tokenizer, as the test environment uses it."""
    from flexrec.policy.models import prepare_base_model

    return once("tiny", lambda folder: prepare_base_model(models["tiny"], downloads, folder, seed=0))


@pytest.fixture(scope="session")
def smollm2_folder(once, downloads, models, parsed_once) -> Path:
    """The real SmolLM2-135M-Instruct."""
    from flexrec.policy.models import prepare_base_model

    return once("smollm2", lambda folder: prepare_base_model(models["smollm2-135m"], downloads, folder, seed=0))


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
def whole(once, fork_server, tiny_folder) -> Whole:
    """The test environment's graph from nothing to the report, and once more. Not to be written to: copy it."""

    def make(folder: Path) -> None:
        project, said = WholeProject(folder / "project", fork_server, tracked=True), []
        for _ in range(2):
            with redirect_stdout(StringIO()) as out:
                run = project.run()
            said.append({"lines": run.lines, "printed": out.getvalue()})
        (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")

    folder = once("whole", make)
    said = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    first, second = (Run(tuple(one["lines"])) for one in said)
    project = WholeProject.there(folder / "project", fork_server)
    return Whole(project, first, second, (said[0]["printed"], said[1]["printed"]))


@pytest.fixture
def done(whole, tmp_path) -> WholeProject:
    """A copy of a project whose graph has been run."""
    return whole.project.copy(tmp_path / "project")


@pytest.fixture
def fresh(whole, tmp_path) -> WholeProject:
    """A project of which nothing has been run, but that has the base model."""
    return whole.project.copy(tmp_path / "project", "06_models/base")
