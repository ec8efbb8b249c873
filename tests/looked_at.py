"""Cells of a study as a look at them finds them."""

from pathlib import Path
from types import SimpleNamespace

from flexrec.fingerprint import Fingerprint
from flexrec.pipelines.study.look import Look
from flexrec.pipelines.study.uptodate import NodeState
from flexrec.study.plan import Cell


def looked(method: str, states: list[NodeState]) -> Look:
    catalog = {f"params:{name}": SimpleNamespace(load=lambda name=name: name) for name in ("dataset", "model")}
    return Look(Cell("trend", method, 0), catalog, tuple(states))


def state(node: str, place: str, *, stale: bool = True, seconds: float | None = None) -> NodeState:
    return NodeState(node, (Path(place),), "it is missing" if stale else None, Fingerprint({}), seconds, None)
