"""What a run would do, without running it: which of its nodes are up to date, and why the others are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from flexrec.errors import InputError
from flexrec.fingerprint import Fingerprint, Sidecar
from flexrec.runner import (
    RunState,
    code_behind,
    fingerprint_of,
    path_of,
    reason_to_run,
    unwrapped,
)
from flexrec.source_code import Disk


@dataclass(frozen=True)
class NodeState:
    """A node as a run would find it.

    Attributes:
        node: Its name.
        places: Where its outputs are kept, without versions.
        reason: Why it would run; None where its outputs are up to date.
        static: Its fingerprint without its inputs: code, parameters, libraries and wiring.
        seconds: How long its outputs took to make; None where that is not known.
        made: Kedro's session that made them.
    """

    node: str
    places: tuple[Path, ...]
    reason: str | None
    static: Fingerprint
    seconds: float | None
    made: str | None


class Inspector:
    """Looks at runs one after the other; what they share is read once.

    The bytes of every artifact are read, as the runner does before it skips a node. What was read is remembered, so a
    new inspector is needed after anything has run.
    """

    def __init__(self) -> None:
        self._contents: dict[Path, str] = {}
        self._codes: dict[tuple[object, ...], Any] = {}
        self._disk = Disk()

    def states(self, pipeline: Pipeline, catalog: CatalogProtocol) -> list[NodeState]:
        """The nodes that make something, in the order in which they would run.

        A node that reads what another would make anew counts as one that would run, too; if the new bytes turn out to
        be the old ones, it will not.

        Raises:
            InputError: As the runner, for what cannot be fingerprinted.
        """
        nodes = [node for node in pipeline.nodes if node.outputs]
        code = {}
        for node in nodes:
            names = [name for name in [*node.inputs, *node.outputs] if not is_parameter(name)]
            key = node.name, *(type(unwrapped(catalog[name])) for name in names)
            if key not in self._codes:
                self._codes[key] = code_behind(node, catalog, self._disk)
            code[node.name] = self._codes[key]
        run = RunState(catalog, None, None, fresh=False, code=code, contents=self._contents)
        anew: set[str] = set()
        found = []
        for node in nodes:
            static = fingerprint_of(node, run, ())
            persisted = run.persisted(node.outputs)
            waits = [name for name in node.inputs if name in anew]
            if waits:
                reason: str | None = f"{waits[0]} is made anew"
            else:
                inputs = {name: run.stored(name).content for name in run.persisted(node.inputs)}
                reason = reason_to_run(node, run, persisted, Fingerprint({**static.parts, "input": inputs}))
            if reason is not None:
                anew.update(node.outputs)
            sidecars = [
                sidecar
                for name in persisted
                if (path := path_of(run.dataset(name))) and (sidecar := Sidecar.read(path))
            ]
            found.append(
                NodeState(
                    node=node.name,
                    places=tuple(_place(run.dataset(name)) for name in persisted),
                    reason=reason,
                    static=static,
                    seconds=max((sidecar.seconds for sidecar in sidecars), default=None),
                    made=max((sidecar.session or "" for sidecar in sidecars), default=None),
                )
            )
        return found


def _place(dataset: Any) -> Path:
    return Path(getattr(dataset, "_filepath", None) or dataset._path)


def refuse_conflicts(runs: Mapping[str, list[NodeState]]) -> None:
    """Refuse runs that would overwrite each other's artifacts: each would make the other's results stale.

    Args:
        runs: The states of each run, by its name in words.

    Raises:
        InputError: Two runs keep different things in the same place; the message names both and what differs.
    """
    owners: dict[Path, tuple[str, NodeState]] = {}
    for name, states in runs.items():
        for state in states:
            for place in state.places:
                other, known = owners.setdefault(place, (name, state))
                if known.static.digest != state.static.digest:
                    what = state.static.difference(known.static.parts) or "they differ"
                    raise InputError(
                        f"{name} and {other} keep what node '{state.node}' makes in the same place, but not the same "
                        f"thing: {what}. Put them into two studies, or let them differ in something that is part of "
                        "the paths (dataset, density, need, model, method, seed)"
                    )
