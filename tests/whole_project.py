"""The project itself in a folder of a test: its configuration, links to its downloads, and runs of its graph."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project
from kedro.io import CatalogProtocol

from fork_server import ASKED, ROOT, Done, ForkServer
from tiny_project import collected

RUNS = re.compile(r"(?:^|  )(\w+): runs, because (.*)$")
REUSED = re.compile(r"(?:^|  )(\w+): reused, ")
FACTS = {"results_markdown", "report"}
"""Outputs that say by which command and at which commit they were made; the others are functions of the inputs."""

PRINTING = {"print_task", "print_results"}
"""Nodes that make nothing and therefore always run."""

STEP = re.compile(r"(?:^|  )(\w+) step (\d+)  ")


@dataclass(frozen=True)
class Run:
    """What one run said."""

    lines: tuple[str, ...]

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why each node ran, in the order in which they did."""
        return {match[1]: match[2] for line in self.lines if (match := RUNS.search(line))}

    @property
    def ran(self) -> set[str]:
        return set(self.reasons)

    @property
    def reused(self) -> set[str]:
        return {match[1] for line in self.lines if (match := REUSED.search(line))}

    def steps(self, curve: str) -> list[int]:
        """The steps at which points of a curve were made, each once."""
        return sorted({int(m[2]) for line in self.lines if (m := STEP.search(line)) and m[1] == curve})


class WholeProject:
    """A folder with the project's configuration."""

    def __init__(self, path: Path, server: ForkServer, *, tracked: bool = False) -> None:
        """Make it; `tracked` keeps MLflow on, whose database takes seconds to make."""
        self._open(path, server)
        path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "conf", path / "conf", ignore=shutil.ignore_patterns("local"))
        (path / "conf" / "local").mkdir()
        shutil.copy(ROOT / "pyproject.toml", path)
        (path / "src").mkdir()
        raw = path / "data" / "01_raw"
        raw.mkdir(parents=True)
        for file in (ROOT / "data" / "01_raw").glob("*.gguf"):
            (raw / file.name).symlink_to(file)
        if not tracked:
            self.set("base/mlflow.yml", enabled=False)

    def _open(self, path: Path, server: ForkServer) -> None:
        self.path, self._server = path, server
        # to read the configuration takes a second; whatever may change what a catalog finds empties this
        self._catalogs: dict[str, CatalogProtocol] = {}

    @classmethod
    def there(cls, path: Path, server: ForkServer) -> "WholeProject":
        """A project that has been made already."""
        project = cls.__new__(cls)
        project._open(path, server)
        return project

    def copy(self, path: Path, *parts: str) -> "WholeProject":
        """Another project with the same data (or parts of it), untracked."""
        other = WholeProject(path, self._server)
        for part in parts or ("",):
            # links to downloads are there already
            ignored = shutil.ignore_patterns("*.gguf")
            shutil.copytree(self.path / "data" / part, path / "data" / part, ignore=ignored, dirs_exist_ok=True)
        return other

    def set(self, file: str, **values: Any) -> None:
        """Change values of a file of the configuration; a mapping is merged into the one that is there."""
        self._catalogs.clear()
        place = self.path / "conf" / file
        content = yaml.safe_load(place.read_text(encoding="utf-8")) or {}
        for name, value in values.items():
            content[name] = content.get(name, {}) | value if isinstance(value, dict) else value
        place.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file of the project."""
        self._catalogs.clear()
        text = (self.path / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        (self.path / file).write_text(text.replace(old, new), encoding="utf-8")

    def with_source(self) -> "WholeProject":
        """Give the project a copy of the package's source, which its command lines then use."""
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", self.path / "src", ignore=ignored, dirs_exist_ok=True)
        return self

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process as if it had been started in the project's folder."""
        folder, path, python_path = Path.cwd(), [*sys.path], os.environ.get("PYTHONPATH")
        os.chdir(self.path)
        try:
            bootstrap_project(self.path)
            yield
        finally:
            os.chdir(folder)
            sys.path[:] = path
            os.environ.pop("PYTHONPATH", None)
            if python_path is not None:
                os.environ["PYTHONPATH"] = python_path

    def run(self, parameters: dict[str, Any] | None = None, *, env: str = "test", **selection: Any) -> Run:
        """A session in this process."""
        from flexrec.session import FlexrecSession

        lines: list[str] = []
        self._catalogs.clear()
        with self.entered(), collected(lines):
            try:
                with FlexrecSession.create(self.path, env=env, runtime_params=parameters) as session:
                    session.run(**selection)
            finally:
                self.last = Run(tuple(lines))
        return self.last

    def kedro(self, *arguments: str, kill: str | None = None) -> Done:
        """A command line, in a process of its own."""
        self._catalogs.clear()
        return self._server.run(self.path, *arguments, kill=kill)

    def command(self, *arguments: str, kill: str | None = None) -> Run:
        """`kedro run --env test`, which has to end well, or to be killed."""
        done = self.kedro("run", "--env", "test", *arguments, kill=kill)
        assert done.status == (-9 if kill else 0), done.err[-4000:]
        assert ASKED not in done.err
        return Run(tuple(done.err.splitlines()))

    def catalog(self, parameters: dict[str, Any] | None = None, *, env: str = "test") -> CatalogProtocol:
        """The catalog as a session sees it; enter the project to load from it."""
        from flexrec.session import FlexrecSession

        key = f"{env} {parameters}"
        if key not in self._catalogs:
            with self.entered(), FlexrecSession.create(self.path, env=env, runtime_params=parameters) as session:
                self._catalogs[key] = session.load_context().catalog
        return self._catalogs[key]

    def load(self, name: str, parameters: dict[str, Any] | None = None) -> Any:
        """One dataset or parameter (`params:seed`), checked as a node's input is."""
        with self.entered():
            return self.catalog(parameters)[name].load()

    def outputs(self, parameters: dict[str, Any] | None = None) -> dict[str, Path | None]:
        """Where every persisted output of the graph lies (the newest version), None where there is none."""
        from flexrec.runner import is_persisted, path_of, unwrapped

        catalog = self.catalog(parameters)
        with self.entered():
            found = {name: unwrapped(catalog[name]) for name in sorted(pipelines["__default__"].all_outputs())}
            return {name: path_of(dataset) for name, dataset in found.items() if is_persisted(dataset)}

    def digests(self, parameters: dict[str, Any] | None = None) -> dict[str, dict[str, str]]:
        """SHA-256 of every file of every persisted output."""
        from flexrec.fingerprint import SUFFIX, content_digest

        result = {}
        for name, place in self.outputs(parameters).items():
            assert place is not None, name
            files = [place] if place.is_file() else [file for file in sorted(place.rglob("*")) if file.is_file()]
            result[name] = {
                file.relative_to(place).as_posix(): content_digest(file)
                for file in files
                if not file.match(f"*{SUFFIX}")
            }
        return result
