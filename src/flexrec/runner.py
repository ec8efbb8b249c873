"""A runner that runs a node only if something that its outputs depend on has changed, and says what.

Every persisted output gets a sidecar file with the fingerprint of what made it (`flexrec.fingerprint`). Before a node
runs, its fingerprint is computed anew; where every output is there, unaltered, with that fingerprint, the node is
skipped. Inputs count by content, so a rerun that gives the same bytes reruns nothing after it.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from kedro.framework.hooks.markers import hook_spec
from kedro.framework.project import pipelines
from kedro.io import AbstractDataset, AbstractVersionedDataset, CatalogProtocol
from kedro.io.core import Version, VersionNotFoundError, is_parameter
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner
from kedro.runner.task import Task
from kedro.validation.exceptions import DataValidationError
from pluggy import PluginManager

from flexrec.errors import FlexrecError, InputError
from flexrec.fingerprint import Fingerprint, Sidecar, canonical, content_digest, parameter_parts, size_of
from flexrec.source_code import Code, Disk, code_of, unwrap

logger = logging.getLogger(__name__)

PLACE = frozenset({"filepath", "path", "interactions", "engine", "version", "metadata", "credentials"})
"""Arguments of a dataset that say where it is, or what computes it, not how it is read or written."""


class NodeError(FlexrecError):
    """A user's mistake that surfaced in a node; the message begins with the node's name."""


@dataclass(frozen=True)
class Stored:
    """A dataset as it lies on disk."""

    name: str
    path: Path
    content: str
    size: int
    version: str | None
    sidecar: Sidecar | None
    """What made it, where that is known."""


@dataclass(frozen=True)
class Settled:
    """What became of a node: its outputs were made, found up to date, or pinned to a version."""

    node: str
    state: Literal["made", "reused", "pinned"]
    seconds: float
    inputs: tuple[Stored, ...]
    outputs: tuple[Stored, ...]


class RunSpecs:
    """What the runner and the session tell the project's hooks, beyond Kedro's own events."""

    @hook_spec(firstresult=True)
    def tracking_run(self) -> str | None:
        """The id of the run at the tracking service, to be kept with what is made."""

    @hook_spec
    def after_node_settled(self, settled: Settled) -> None:
        """A node's outputs are there, together with the record of what made them."""

    @hook_spec
    def after_run_left(self) -> None:
        """The run is over, however it ended; it may have been interrupted from the keyboard."""


def user_error(error: BaseException) -> Exception | None:
    """The mistake of the user behind an exception, if it is one."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, FlexrecError) or (isinstance(current, DataValidationError) and current.failures):
            return current
        # OmegaConf hides the exception of a resolver
        hidden = current.__context__ if type(current).__module__.startswith("omegaconf") else None
        current = current.__cause__ or hidden
    return None


# --- Datasets ---------------------------------------------------------------------------------------------------------


def unwrapped(dataset: AbstractDataset) -> AbstractDataset:
    """The dataset inside a `CachedDataset`, or the dataset itself."""
    return getattr(dataset, "_dataset", dataset)


def is_persisted(dataset: AbstractDataset) -> bool:
    """Whether it lies on this machine's disk, where its bytes can be read."""
    local = getattr(dataset, "_protocol", "file") == "file"
    return local and (hasattr(dataset, "_filepath") or hasattr(dataset, "_path"))


def is_work_folder(dataset: AbstractDataset) -> bool:
    """Whether it is scratch space that belongs to a node and to no fingerprint."""
    return hasattr(dataset, "bind") and hasattr(dataset, "clear")


def path_of(dataset: AbstractDataset) -> Path | None:
    """Where it would be loaded from now, or None where there is nothing."""
    try:
        if isinstance(dataset, AbstractVersionedDataset):
            path = Path(dataset._get_load_path())
        else:
            path = Path(getattr(dataset, "_filepath", None) or dataset._path)  # type: ignore[attr-defined]
    except VersionNotFoundError:
        return None
    return path if path.exists() else None


def version_of(dataset: AbstractDataset) -> str | None:
    """The version that would be loaded now; None where the dataset has no versions."""
    return dataset.resolve_load_version() if isinstance(dataset, AbstractVersionedDataset) else None


def format_of(dataset: AbstractDataset) -> dict[str, Any]:
    """The arguments of its catalog entry that say how it is read and written."""
    arguments: dict[str, Any] = dataset._init_args  # type: ignore[attr-defined]
    # Kedro sees those of an inherited constructor as `args` and `kwargs`.
    arguments = {**arguments, "kwargs": None, **(arguments.get("kwargs") or {})}
    return {key: value for key, value in arguments.items() if key not in PLACE and value not in (None, ())}


def pin_of(dataset: AbstractDataset) -> str | None:
    """The version that the user asked to load, if any."""
    version = getattr(dataset, "_version", None)
    return version.load if version else None


def readable_size(size: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def readable_path(path: Path) -> str:
    """A path relative to the working folder where it lies inside."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()


# --- Runner -----------------------------------------------------------------------------------------------------------


@dataclass
class RunState:
    """The state of one run."""

    catalog: CatalogProtocol
    hooks: Any
    run_id: str | None
    fresh: bool
    code: Mapping[str, tuple[Code, str]]
    contents: dict[Path, str] = field(default_factory=dict)
    settled: list[Settled] = field(default_factory=list)

    def dataset(self, name: str) -> AbstractDataset:
        """The catalog's entry of a name, whatever wraps it."""
        return unwrapped(self.catalog[name])

    def persisted(self, names: list[str]) -> list[str]:
        """Those of the names that are kept on disk as results."""
        return [
            name
            for name in names
            if not is_parameter(name) and not is_work_folder(self.dataset(name)) and is_persisted(self.dataset(name))
        ]

    def content(self, path: Path) -> str:
        """Digest of a file or folder, read once per run."""
        if path not in self.contents:
            self.contents[path] = content_digest(path)
        return self.contents[path]

    def stored(self, name: str) -> Stored:
        """What lies on disk under a name.

        Raises:
            InputError: Nothing does.
        """
        dataset = self.dataset(name)
        path = path_of(dataset)
        if path is None:
            raise InputError(f"`{name}` is not there ({dataset!r}). Make it first: kedro run --to-outputs={name}")
        content = self.content(path)
        sidecar = Sidecar.read(path)
        known = sidecar if sidecar is not None and sidecar.content == content else None
        return Stored(name, path, content, size_of(path), version_of(dataset), known)


class FingerprintRunner(SequentialRunner):
    """Runs nodes one after the other and skips those whose outputs are up to date."""

    def __str__(self) -> str:
        # kedro-viz records the status of runs only where it finds this name
        return "<flexrec.runner.FingerprintRunner, a kedro.runner.sequential_runner.SequentialRunner object>"

    def _run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        """Run the nodes of `pipeline` that have to run.

        Raises:
            NodeError: A node failed because of something that the user can repair.
        """
        nodes = pipeline.nodes
        _check_inputs(nodes, catalog)
        _check_pins(nodes, catalog)
        _pin_siblings(_with_makers(nodes), catalog)
        # Before anything runs: what is edited during the run was not what ran.
        disk = Disk()
        code = {node.name: code_behind(node, catalog, disk) for node in nodes}
        run = RunState(catalog, hook_manager, run_id, _is_fresh(catalog), code)
        loads = Counter(chain.from_iterable(node.inputs for node in nodes))
        start = perf_counter()
        try:
            for node in nodes:
                try:
                    self._settle(node, run)
                except Exception as error:
                    if (known := user_error(error)) is None:
                        error.add_note(f"This happened in node '{node.name}'.")
                        raise
                    raise NodeError(f"Node '{node.name}': {known}") from error
                self._release_datasets(node, catalog, loads, pipeline)
        finally:
            _summarise(run, len(nodes), perf_counter() - start)

    def _settle(self, node: Node, run: RunState) -> None:
        """Make the node's outputs unless they are up to date."""
        persisted = run.persisted(node.outputs)
        pins = {name: pin for name in persisted if (pin := pin_of(run.dataset(name)))}
        if pins:
            outputs = tuple(run.stored(name) for name in persisted)
            logger.info("%s: not run, pinned to %s", node.name, ", ".join(f"{n} {v}" for n, v in pins.items()))
            made_by = {one.sidecar.fingerprint for one in outputs if one.name in pins and one.sidecar}
            for one in outputs:
                if one.name not in pins and one.sidecar and one.sidecar.fingerprint not in made_by:
                    logger.warning("%s is kept once only, and is of another run than what is pinned", one.name)
            return self._note(run, Settled(node.name, "pinned", 0.0, (), outputs))

        inputs = tuple(run.stored(name) for name in run.persisted(node.inputs))
        fingerprint = fingerprint_of(node, run, inputs)
        reason = "a fresh run was asked for" if run.fresh else reason_to_run(node, run, persisted, fingerprint)
        if reason is None:
            logger.info("%s: reused, nothing that it depends on has changed", node.name)
            outputs = tuple(run.stored(name) for name in persisted)
            return self._note(run, Settled(node.name, "reused", 0.0, inputs, outputs))

        logger.info("%s: runs, because %s", node.name, reason, extra={"markup": False})
        folders = [dataset for name in node.inputs if is_work_folder(dataset := run.dataset(name))]
        try:
            return self._note(run, self._make(node, run, persisted, inputs, fingerprint, folders))
        finally:
            for folder in folders:
                folder.release()

    def _make(
        self,
        node: Node,
        run: RunState,
        persisted: list[str],
        inputs: tuple[Stored, ...],
        fingerprint: Fingerprint,
        folders: list[AbstractDataset],
    ) -> Settled:
        for folder in folders:
            if folder.bind(fingerprint.digest, wipe=run.fresh):  # type: ignore[attr-defined]
                left = readable_path(folder.load())
                logger.info("%s: may go on from what an earlier run left in %s", node.name, left)
        start = perf_counter()
        with _quiet_node_errors():
            Task(node, run.catalog, self._is_async, run.hooks, run.run_id).execute()
        # of a training that goes on, all of it
        earlier = sum(folder.seconds for folder in folders)  # type: ignore[attr-defined]
        seconds = earlier + perf_counter() - start
        for name in persisted:
            _record(name, node, run, fingerprint, seconds)
        for folder in folders:
            folder.clear()  # type: ignore[attr-defined]
        outputs = tuple(run.stored(name) for name in persisted)
        before = f", {earlier:.1f} s of them before it was interrupted" if earlier else ""
        logger.info("%s: done in %.1f s%s", node.name, seconds, before)
        return Settled(node.name, "made", seconds, inputs, outputs)

    @staticmethod
    def _note(run: RunState, settled: Settled) -> None:
        run.settled.append(settled)
        if (tell := getattr(run.hooks.hook, "after_node_settled", None)) is not None:
            tell(settled=settled)


def _check_inputs(nodes: list[Node], catalog: CatalogProtocol) -> None:
    """Refuse, before anything runs, what could not be fingerprinted."""
    for node in nodes:
        for name in node.inputs:
            dataset = unwrapped(catalog[name])
            if not (is_parameter(name) or is_work_folder(dataset) or is_persisted(dataset)):
                raise InputError(
                    f"node '{node.name}' reads `{name}`, which lies in no local file: give it a catalog entry, so that "
                    "a later run can tell whether it has changed"
                )


def _check_pins(nodes: list[Node], catalog: CatalogProtocol) -> None:
    """Refuse, before anything runs, a version that is to be loaded and is not there."""
    for node in nodes:
        for name in (*node.inputs, *node.outputs):
            dataset = unwrapped(catalog[name])
            pin = None if is_parameter(name) else pin_of(dataset)
            if pin is None or path_of(dataset) is not None:
                continue
            place = Path(dataset._filepath)  # type: ignore[attr-defined]
            there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
            raise InputError(f"`{name}` has no version {pin}; there are: {', '.join(there[-8:]) or 'none'}")


def _with_makers(nodes: list[Node]) -> list[Node]:
    """The nodes that run, and of the project's others those that make what they read."""
    read = {name for node in nodes for name in node.inputs}
    others = {node.name: node for pipeline in pipelines.values() for node in pipeline.nodes}
    running = {node.name for node in nodes}
    return nodes + [node for name, node in others.items() if name not in running and read & set(node.outputs)]


def _pin_siblings(nodes: list[Node], catalog: CatalogProtocol) -> None:
    """Load what was made together with a pinned version in the same version: a policy with its own curves."""
    for node in nodes:
        versioned = {
            name: dataset
            for name in node.outputs
            if not is_parameter(name)
            and name in catalog
            and isinstance(dataset := unwrapped(catalog[name]), AbstractVersionedDataset)
        }
        pins = {pin for dataset in versioned.values() if (pin := pin_of(dataset))}
        if len(pins) != 1:
            continue
        (pin,) = pins
        for dataset in versioned.values():
            if pin_of(dataset) is None and dataset._version and Path(dataset._get_versioned_path(pin)).exists():
                dataset._version = Version(pin, dataset._version.save)


def _is_fresh(catalog: CatalogProtocol) -> bool:
    fresh = catalog["params:fresh"].load() if "params:fresh" in catalog else False
    if not isinstance(fresh, bool):
        raise InputError(f"parameter `fresh` is true or false, not {fresh!r}")
    return fresh


def code_behind(node: Node, catalog: CatalogProtocol, disk: Disk | None = None) -> tuple[Code, str]:
    """The code behind a node and its datasets, and what is bound to its function."""
    try:
        functions, bound = unwrap(node.func)
        formats: set[type] = set()
        validators = []
        specs = getattr(catalog, "validator_specs", {})
        for name in [*node.inputs, *node.outputs]:
            if is_parameter(name):
                continue
            formats.update(
                base
                for base in type(unwrapped(catalog[name])).__mro__
                if issubclass(base, AbstractDataset) and not base.__module__.startswith("kedro.")
            )
            if name in specs:
                validators.append(specs[name].class_path)
        return code_of([*functions, *sorted(formats, key=repr)], validators, disk), bound
    except InputError as error:
        raise NodeError(f"Node '{node.name}': {error}") from error


def fingerprint_of(node: Node, run: RunState, inputs: tuple[Stored, ...]) -> Fingerprint:
    """What the node's outputs would be a function of if it ran now."""
    code, bound = run.code[node.name]
    parameters = {name: run.catalog[name].load() for name in node.inputs if is_parameter(name)}
    if "parameters" in parameters:
        parameters["parameters"] = {k: v for k, v in parameters["parameters"].items() if k != "fresh"}
    specs = getattr(run.catalog, "validator_specs", {})
    entries = {}
    for name in run.persisted([*node.inputs, *node.outputs]):
        dataset = run.dataset(name)
        check = specs[name].to_config() if name in specs else None
        entries[name] = canonical([type(dataset).__name__, format_of(dataset), check])
    return Fingerprint(
        {
            "code": code.modules,
            **parameter_parts(parameters),
            "input": {stored.name: stored.content for stored in inputs},
            "library": code.libraries,
            "entry": entries,
            "wiring": {
                "function": node.func.__name__ if hasattr(node.func, "__name__") else "",
                "bound arguments": bound,
                "inputs": canonical(node._inputs),
                "outputs": canonical(node._outputs),
            },
        }
    )


def reason_to_run(node: Node, run: RunState, persisted: list[str], fingerprint: Fingerprint) -> str | None:
    """Why the outputs are not what the node would make now, or None if they are."""
    if not node.outputs:
        return "it has no outputs"
    if kept := [name for name in node.outputs if name not in persisted]:
        return f"{kept[0]} is not kept on disk"
    sidecars = []
    for name in persisted:
        path = path_of(run.dataset(name))
        if path is None:
            return f"{name} is missing"
        sidecar = Sidecar.read(path)
        if sidecar is None:
            return f"there is no readable record of what made {name}"
        sidecars.append((name, path, sidecar))
    for name, _, sidecar in sidecars:
        if sidecar.fingerprint != fingerprint.digest:
            return fingerprint.difference(sidecar.parts) or f"{name} was recorded in another format"
    for name, path, sidecar in sidecars:
        if sidecar.content != run.content(path):
            return f"{name} was altered after it was made"
    return None


def _record(name: str, node: Node, run: RunState, fingerprint: Fingerprint, seconds: float) -> None:
    """Write the sidecar of an output that was just saved."""
    dataset = run.dataset(name)
    path = path_of(dataset)
    if path is None:
        raise InputError(f"`{name}` was saved, but it is not there ({dataset!r})")
    if isinstance(dataset, AbstractVersionedDataset) and version_of(dataset) != dataset.resolve_save_version():
        raise InputError(f"`{name}` was saved, but {path} counts as newer: remove it, or set this machine's clock")
    run.contents[path] = content_digest(path)
    tracking_run = getattr(run.hooks.hook, "tracking_run", None)
    Sidecar(
        dataset=name,
        node=node.name,
        fingerprint=fingerprint.digest,
        parts={kind: dict(part) for kind, part in fingerprint.parts.items()},
        content=run.contents[path],
        size=size_of(path),
        seconds=round(seconds, 3),
        session=run.run_id,
        mlflow_run=tracking_run() if tracking_run is not None else None,
    ).write(path)


@contextmanager
def _quiet_node_errors() -> Iterator[None]:
    """Keep Kedro's node from printing an error that is raised, and reported, anyway."""
    node_logger = logging.getLogger("kedro.pipeline.node")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    node_logger.addFilter(keep)
    try:
        yield
    finally:
        node_logger.removeFilter(keep)


def _summarise(run: RunState, total: int, seconds: float) -> None:
    """Say in a few lines what was made and what was reused."""
    made = [stored for settled in run.settled if settled.state == "made" for stored in settled.outputs]
    reused = [stored.name for settled in run.settled if settled.state != "made" for stored in settled.outputs]
    count = sum(settled.state == "made" for settled in run.settled)
    lines = [f"{count} of {total} nodes ran, {seconds:.1f} s"]
    lines += [f"  made   {readable_path(stored.path)}, {readable_size(stored.size)}" for stored in made]
    if reused:
        lines.append(f"  reused {', '.join(reused)}")
    if made and len(run.settled) < total:
        lines.append("What was made stays: the same command goes on from here.")
    logger.info("%s", "\n".join(lines), extra={"markup": False})
