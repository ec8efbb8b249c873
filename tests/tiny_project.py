"""A real Kedro project of a few nodes, written into a folder and run through real sessions."""

import importlib
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kedro.framework.project as kedro_project
import pytest
from kedro.framework.startup import bootstrap_project

FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "tiny"
        project_name = "tiny"
        kedro_init_version = "1.7.0"
        source_dir = "src"
    """,
    "src/tiny/__init__.py": "",
    "src/tiny/settings.py": """
        from flexrec.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS, CONTEXT_CLASS, HOOKS, SESSION_CLASS
    """,
    "src/tiny/cli.py": """
        from flexrec.cli import cli, run
    """,
    "src/tiny/pipeline_registry.py": """
        from tiny.pipelines.make import create_pipeline


        def register_pipelines():
            return {"__default__": create_pipeline(), "make": create_pipeline()}
    """,
    "src/tiny/pipelines/__init__.py": "",
    "src/tiny/pipelines/make/__init__.py": "from tiny.pipelines.make.pipeline import create_pipeline\n",
    "src/tiny/pipelines/make/pipeline.py": """
        from kedro.pipeline import node, pipeline

        from tiny.pipelines.make.nodes import describe, scale, train, write


        def create_pipeline():
            return pipeline(
                [
                    node(scale, ["raw", "params:factor"], "scaled", name="scale", tags="first"),
                    node(describe, ["scaled", "params:describe"], "summary", name="describe"),
                    node(write, "scaled", "text", name="write"),
                    node(train, ["scaled", "params:steps", "work"], ["model", "losses"], name="train"),
                ]
            )
    """,
    "src/tiny/pipelines/make/nodes.py": '''
        """Nodes."""

        from pathlib import Path

        import pandas as pd

        from tiny import words
        from tiny.maths.formulas import mean, times


        def scale(raw, factor):
            """Multiply."""
            return [times(value, factor) for value in raw]


        def describe(scaled, settings):
            return {"mean": round(mean(scaled), settings["digits"]), "counts": {"all": len(scaled)}}


        def write(scaled):
            return words.say(scaled)


        def train(scaled, steps, work: Path):
            from flexrec.errors import InputError
            from flexrec.progress import emit

            if steps < 0:
                raise InputError("steps cannot be negative; give 1 or more")
            if steps == 13:
                raise RuntimeError("an accident")
            done = len(list(work.glob("step_*")))
            for step in range(done, steps):
                emit("train", step, {"loss@1": 1.0 / (step + 1)})
                (work / f"step_{step}").write_text("")
                if steps == 99 and step == 1:
                    raise RuntimeError("killed")

            def save(folder: Path) -> None:
                (folder / "weights.txt").write_text(f"{sum(scaled)} after {steps}, resumed at {done}")

            return save, pd.DataFrame({"step": range(steps)})
    ''',
    "src/tiny/words.py": """
        def say(values):
            return " ".join(str(value) for value in values)
    """,
    "src/tiny/maths/__init__.py": "",
    "src/tiny/maths/formulas.py": """
        def times(a, b):
            from .deep import product

            return product(a, b)


        def mean(values):
            return sum(values) / len(values)
    """,
    "src/tiny/maths/deep.py": """
        def product(a, b):
            # the only multiplication
            return a * b
    """,
    "conf/base/catalog.yml": """
        raw:
          type: flexrec.datasets.JSONDataset
          filepath: data/01_raw/raw.json
        scaled:
          type: flexrec.datasets.JSONDataset
          filepath: data/02_intermediate/scaled.json
        summary:
          type: flexrec.datasets.JSONDataset
          filepath: data/08_reporting/summary.json
          versioned: true
          metadata: {flexrec: {metrics: true}, kedro-viz: {layer: reporting}}
        text:
          type: flexrec.datasets.TextDataset
          filepath: data/08_reporting/text.md
        work:
          type: flexrec.datasets.WorkFolder
          filepath: data/06_models/work
        model:
          type: flexrec.datasets.FolderDataset
          filepath: data/06_models/model
          versioned: true
        losses:
          type: flexrec.datasets.ParquetDataset
          filepath: data/08_reporting/losses.parquet
    """,
    "conf/base/parameters.yml": """
        factor: 2
        steps: 3
        fresh: false
        describe:
          digits: 1
          note: none
    """,
    "conf/base/mlflow.yml": "enabled: false\n",
    "conf/local/.gitkeep": "",
    "data/01_raw/raw.json": "[1, 2, 3]",
}


class TinyProject:
    """The project's files, and runs of it in this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log: list[str] = []
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def newest(self, name: str) -> Path:
        """The latest version of a versioned output."""
        folder = self.path / name
        return max(path for path in folder.iterdir() if (path / folder.name).exists()) / folder.name

    def run(self, parameters: dict[str, Any] | None = None, **selection: Any) -> set[str]:
        """One session as `kedro run` makes it, with the code as it is on disk now; returns the nodes that ran."""
        forget_tiny()
        bootstrap_project(self.path)
        from flexrec.session import FlexrecSession

        self.log.clear()
        with collected(self.log), FlexrecSession.create(self.path, runtime_params=parameters) as session:
            session.run(**selection)
        return {line.partition(":")[0] for line in self.log if ": runs, because " in line}

    def reason(self, node: str) -> str:
        """Why a node ran in the last run."""
        return next(line.partition(" because ")[2] for line in self.log if line.startswith(f"{node}: runs"))


def forget_tiny() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@contextmanager
def collected(lines: list[str]) -> Iterator[None]:
    """Keep what our own loggers say; Kedro's logging set-up takes pytest's handlers away."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("flexrec"), Keep(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def tiny_project(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyProject]:
    """Make the project in `path`, and leave this process as it was afterwards."""
    before = kedro_project.PACKAGE_NAME
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    try:
        yield TinyProject(path)
    finally:
        forget_tiny()
        if before:
            kedro_project.configure_project(before)
