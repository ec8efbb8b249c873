"""Cells of a study as a look at them finds them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flexrec.fingerprint import Fingerprint
from flexrec.pipelines.study.look import Look
from flexrec.pipelines.study.uptodate import NodeState
from flexrec.study.plan import Cell


def looked(method: str, states: list[NodeState], **parameters: Any) -> Look:
    default = {
        "dataset": "dataset",
        "model": "model",
        "warm_up": SimpleNamespace(steps=240, lists_per_step=4),
        "rl": SimpleNamespace(steps=30, prompts_per_step=4, rollouts=8),
        "task": SimpleNamespace(instances=SimpleNamespace(test=160)),
    }
    given = (default | parameters).items()
    catalog = {f"params:{name}": SimpleNamespace(load=lambda value=value: value) for name, value in given}
    return Look(Cell("trend", method, 0), catalog, tuple(states))


def state(node: str, place: str, *, stale: bool = True, seconds: float | None = None) -> NodeState:
    return NodeState(node, (Path(place),), "it is missing" if stale else None, Fingerprint({}), seconds, None)
