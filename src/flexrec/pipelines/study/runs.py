"""The runs of a study: what is up to date, what is missing, and making it, one process per run.

A process per run keeps the memory of one training from the next, and survives whatever a run dies of. Every run is an
ordinary one (`kedro run --pipeline=evaluate --params ...`), so it keeps its results where the same command would.
"""

import copy
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import click
from kedro.config import OmegaConfigLoader
from kedro.framework.context import KedroContext
from kedro.framework.hooks.manager import _NullPluginManager
from kedro.framework.project import pipelines, settings
from kedro.io import CatalogProtocol
from omegaconf import DictConfig, OmegaConf

from flexrec.errors import InputError
from flexrec.fingerprint import leaves
from flexrec.hooks import PARENT_RUN, TrackingHooks
from flexrec.pipelines.study.uptodate import Inspector, NodeState, refuse_conflicts
from flexrec.runner import path_of, readable_path, unwrapped
from flexrec.session import FlexrecSession
from flexrec.study.collection import CellResult
from flexrec.study.plan import Cell, readable_time
from flexrec.study.settings import Seconds

logger = logging.getLogger(__name__)

PIPELINE = "evaluate"
"""The pipeline that every cell runs."""

ALSO = {"probe": ("probe_instance_metrics", "probe"), "chat": ("chat_instance_metrics", "test")}
"""What other pipelines keep their metrics in, and on which sample of instances those are."""

_LONGEST_REASON = 400
_PATIENCE_SECONDS = 20.0
"""What an interrupted run gets to end by itself."""


# --- The session that runs the study ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """Where and how a study was started."""

    folder: Path
    conf_source: str
    environment: str | None
    given: tuple[str, ...]
    tracking_run: str | None

    @classmethod
    def current(cls) -> "Project":
        """Of the session in which this node runs.

        Raises:
            InputError: There is none, for instance because the function was called by itself.
        """
        hooks = next((hook for hook in settings.HOOKS if isinstance(hook, TrackingHooks)), None)
        context: KedroContext | None = hooks.context if hooks else None
        if hooks is None or context is None:
            raise InputError("a study is run by `kedro run --pipeline=study`")
        given = getattr(context, "_runtime_params", None) or {}
        own = {name: value for name, value in given.items() if not name.startswith("study") and name != "fresh"}
        return cls(
            folder=Path(context.project_path),
            conf_source=str(context.config_loader.conf_source),
            environment=context.env,
            given=tuple(f"{name}={text}" for name, text in leaves("", own)) if own else (),
            tracking_run=hooks.tracking_run(),
        )

    def command(self, cell: Cell) -> list[str]:
        """The command line of one run, without the interpreter."""
        environment = cell.environment or self.environment
        command = [
            "-m",
            "kedro",
            "run",
            f"--pipelines={','.join((PIPELINE, *cell.also))}",
            f"--params={','.join(cell.arguments)}",
        ]
        if environment:
            command.append(f"--env={environment}")
        if self.conf_source != str(self.folder / settings.CONF_SOURCE):
            command.append(f"--conf-source={self.conf_source}")
        return command


# --- What there is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A cell as its run would find it."""

    cell: Cell
    catalog: CatalogProtocol
    states: tuple[NodeState, ...]

    @property
    def stale(self) -> tuple[NodeState, ...]:
        """The nodes that would run."""
        return tuple(state for state in self.states if state.reason is not None)

    @property
    def reason(self) -> str:
        """Why the first of them would, in words; empty where none would."""
        return f"{self.stale[0].node}: {self.stale[0].reason}" if self.stale else ""

    def parameter(self, name: str) -> Any:
        """What the cell is run with."""
        return self.catalog[f"params:{name}"].load()


def look(cells: Sequence[Cell], project: Project) -> list[Look]:
    """See what of every cell is up to date.

    Raises:
        InputError: A cell has parameters that the project refuses, or two would overwrite each other's results; nothing
            has run then.
    """
    inspector = Inspector()
    read: _Read = {}
    used = {PIPELINE, *(other for cell in cells for other in cell.also)}
    needed = {name for one in used for name in pipelines[one].datasets()}
    checked: set[Cell] = set()
    found = []
    for cell in cells:
        # neither its seed nor its method has an effect on whether the parameters can be used
        kind = replace(cell, seed=0, method="", also=())
        if kind not in checked:
            _check(cell, project)
            checked.add(kind)
        catalog = _catalog(cell, project, read, needed)
        whole = sum((pipelines[name] for name in cell.also), pipelines[PIPELINE])
        found.append(Look(cell, catalog, tuple(inspector.states(whole, catalog))))
    refuse_conflicts({one.cell.words: list(one.states) for one in found})
    return found


def _check(cell: Cell, project: Project) -> None:
    """Refuse what the cell's own session would refuse."""
    session = FlexrecSession.create(
        project.folder,
        save_on_close=False,
        env=cell.environment or project.environment,
        runtime_params=_runtime_parameters(cell),
        conf_source=project.conf_source,
    )
    assert isinstance(session, FlexrecSession)
    try:
        session.check_parameters()
    except InputError as error:
        raise InputError(f"{cell.words}: {error}") from error


_Read = dict[tuple[str | None, str], Any]
"""Files of the configuration, by environment and kind."""


class _Loader(OmegaConfigLoader):
    """Kedro's, made for many cells: it reads every file once, and resolves of the catalog only what they need.

    What it overrides are steps of Kedro's own; where Kedro no longer takes them, it is slower and nothing else.
    """

    def __init__(self, *args: Any, read: _Read, needed: Collection[str], **kwargs: Any) -> None:
        self._read, self._needed = read, needed
        super().__init__(*args, **kwargs)

    def _read_raw_config(self, key: str) -> Any:
        if (self.env, key) not in self._read:
            *configs, base_path, env_path, files = super()._read_raw_config(key)
            if key == "catalog":
                configs = [{path: self._reduced(config) for path, config in part.items()} for part in configs]
            self._read[self.env, key] = (*configs, base_path, env_path, files)
        # what is made of it is written into it
        return copy.deepcopy(self._read[self.env, key])

    def _resolve_catalog_config(self, aggregate_config: Iterable[DictConfig]) -> Any:
        merged: Any = OmegaConf.unsafe_merge(*aggregate_config)
        # the parts of paths, which hold each other, once instead of in every path
        for name in merged:
            if str(name).startswith("_"):
                merged[name] = merged[name]
        return super()._resolve_catalog_config([merged])

    def _reduced(self, config: Any) -> Any:
        kept = [str(name) for name in config if str(name).startswith("_") or name in self._needed]
        return OmegaConf.masked_copy(config, kept)


def _catalog(cell: Cell, project: Project, read: _Read, needed: Collection[str]) -> CatalogProtocol:
    """The catalog as the cell's own session would make it, without the hooks of this one."""
    environment, parameters = cell.environment or project.environment, _runtime_parameters(cell)
    loader = _Loader(
        project.conf_source,
        env=environment,
        runtime_params=parameters,
        read=read,
        needed=needed,
        **settings.CONFIG_LOADER_ARGS,
    )
    context = settings.CONTEXT_CLASS(
        project_path=project.folder,
        config_loader=loader,
        env=environment,
        package_name=project.folder.name,
        hook_manager=_NullPluginManager(),
        runtime_params=parameters,
    )
    return cast(CatalogProtocol, context.catalog)


def _runtime_parameters(cell: Cell) -> dict[str, Any]:
    """What the command line of the cell's run makes of its arguments."""
    # the command line is not needed for anything else
    from flexrec.cli import split_params

    context, option = click.Context(click.Command("run")), click.Option(["--params"])
    given: dict[str, Any] = split_params(context, option, ",".join(cell.arguments))
    return given


# --- Times ------------------------------------------------------------------------------------------------------------


class Times:
    """How long nodes take: as they took for the same dataset and model, else roughly."""

    def __init__(self, rough: Seconds) -> None:
        self._rough = rough
        self._known: dict[tuple[str, str, str], float] = {}

    def learn(self, looks: Sequence[Look]) -> None:
        """Note what the nodes took that are up to date."""
        for one in looks:
            for state in one.states:
                if state.reason is None and state.seconds is not None:
                    self._known[self._key(one, state)] = state.seconds

    def seconds(self, looks: Sequence[Look]) -> list[float]:
        """What each of the runs may take, one after the other: shared parts are counted once, where they come first."""
        made: set[Path] = set()
        result = []
        for one in looks:
            own = [state for state in one.stale if not made.issuperset(state.places)]
            made.update(place for state in own for place in state.places)
            start = self._rough.start if one.stale else 0.0
            result.append(start + sum(self._node(one, state) for state in own))
        return result

    def _node(self, one: Look, state: NodeState) -> float:
        return self._known.get(self._key(one, state), getattr(self._rough, state.node, 1.0))

    @staticmethod
    def _key(one: Look, state: NodeState) -> tuple[str, str, str]:
        return state.node, str(one.parameter("dataset")), str(one.parameter("model"))


def plan_text(name: str, looks: Sequence[Look], times: Times) -> str:
    """What a study would run, and how long that may take."""
    seconds = times.seconds(looks)
    count = sum(bool(one.stale) for one in looks)
    lines = [
        f"study {name}: {len(looks)} runs, {len(looks) - count} up to date, {count} to make"
        + (f", about {readable_time(sum(seconds))}" if count else "")
    ]
    for number, (one, time_needed) in enumerate(zip(looks, seconds, strict=True), start=1):
        state = f"about {readable_time(time_needed)}; {one.reason}" if one.stale else "up to date"
        lines.append(f"  {number:3d}  {one.cell.words}: {state}")
    return "\n".join(lines)


# --- Making what is missing -------------------------------------------------------------------------------------------


def run_missing(name: str, looks: Sequence[Look], times: Times, project: Project, logs: Path) -> dict[Cell, str]:
    """Run every cell that is not up to date, in their order.

    Args:
        name: Of the study.
        looks: Its cells.
        times: For the time that is left.
        project: Of this session.
        logs: Folder of what the runs print.

    Returns:
        Why a cell failed, for those that did.

    Raises:
        InputError: Another study is running in this project.
    """
    failed: dict[Cell, str] = {}
    missing = [one for one in looks if one.stale]
    if not missing:
        return failed
    planned = times.seconds(missing)
    begin = time.perf_counter()
    with _alone(logs.parent) as lock:
        for number, one in enumerate(missing):
            # as much faster or slower than planned as those before
            pace = (time.perf_counter() - begin) / sum(planned[:number]) if number else 1.0
            logger.info(
                "study %s, run %d of %d: %s; about %s, %s with the others",
                name,
                number + 1,
                len(missing),
                one.cell.words,
                readable_time(pace * planned[number]),
                readable_time(pace * sum(planned[number:])),
            )
            log = logs / f"{one.cell.file_name}.log"
            start = time.perf_counter()
            status = launch(project.command(one.cell), folder=project.folder, log=log, variables=_variables(project),
                            lock=lock)  # fmt: skip
            took = readable_time(time.perf_counter() - start)
            if status == 0:
                logger.info("study %s, run %d of %d: done in %s", name, number + 1, len(missing), took)
            else:
                failed[one.cell] = failure(log, status, project.folder)
                logger.error(
                    "study %s, run %d of %d: failed after %s, the others go on. %s (all it said: %s)",
                    name,
                    number + 1,
                    len(missing),
                    took,
                    failed[one.cell],
                    readable_path(log),
                    extra={"markup": False},
                )
    return failed


def launch(
    command: Sequence[str], *, folder: Path, log: Path, variables: Mapping[str, str], lock: int | None = None
) -> int:
    """Run the interpreter with a command to its end; an interruption ends it, too.

    Args:
        command: Arguments of the interpreter.
        folder: Where it is started.
        log: File for what it prints.
        variables: Added to the environment.
        lock: Open file that it holds as long as it lives.

    Returns:
        Its exit status; minus the signal where it was ended by one.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, _ended_politely():
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            pass_fds=() if lock is None else (lock,),
        )
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _variables(project: Project) -> dict[str, str]:
    return {PARENT_RUN: project.tracking_run} if project.tracking_run else {}


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the lock of the project's studies; a run that outlives its study holds it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "another study, or a run that it left behind, is at work in this project; wait for its end"
            ) from error
        yield file.fileno()


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Let a request to terminate end the run that is going on, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def failure(log: Path, status: int, folder: Path) -> str:
    """Why a run failed, in its own words: what it said last, without the places of this machine.

    Args:
        log: What it printed.
        status: Its exit status.
        folder: The project's.
    """
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    told = " ".join(lines[starts[-1] :]) if starts else (lines[-1] if lines else "it said nothing")
    told = " ".join(re.sub(r"\s+", " ", told.replace(f"{folder}/", "")).split())
    ended = f"ended by signal {-status}: " if status < 0 else ""
    return (ended + told.removeprefix("Error: "))[:_LONGEST_REASON]


# --- What they left ---------------------------------------------------------------------------------------------------


def results(looks: Sequence[Look], failed: Mapping[Cell, str]) -> list[CellResult]:
    """What the cells hold that are up to date; the others with the reason why they are not."""
    return [_result(one, failed.get(one.cell)) for one in looks]


def _result(one: Look, failed: str | None) -> CellResult:
    known: dict[str, Any] = {
        "cell": one.cell,
        "dataset": str(one.parameter("dataset")),
        "density": float(one.parameter("density")),
        "model": str(one.parameter("model")),
        "gains": str(one.parameter("methods")[one.cell.method].get("gains", "critic")),
    }
    if one.stale:
        state, reason = ("failed", failed) if failed else ("not run", one.reason)
        return CellResult(**known, state=state, reason=reason or "")
    states = {state.node: state for state in one.states}
    critic = [_table(one, name) for name in ("critic_test_predictions", "critic_reliability")]
    metrics = [("test", one.catalog["instance_metrics"].load())]
    metrics += [(sample, one.catalog[name].load()) for name, sample in (ALSO[other] for other in one.cell.also)]
    return CellResult(
        **known,
        baselines=tuple(one.parameter("evaluate.baselines")),
        made=(states["measure"].made or "")[:10],
        seconds={name: state.seconds for name, state in states.items() if state.seconds is not None},
        metrics=tuple(metrics),
        curves=_table(one, "rl_curves"),
        critic=(critic[0], critic[1]) if critic[0] is not None and critic[1] is not None else None,
    )


def _table(one: Look, name: str) -> Any:
    """A table of the cell; None where there is none."""
    there = name in one.catalog and path_of(unwrapped(one.catalog[name])) is not None
    return one.catalog[name].load() if there else None
