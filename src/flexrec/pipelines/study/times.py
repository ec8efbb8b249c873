"""How long a study may take."""

from collections.abc import Sequence
from pathlib import Path

from flexrec.pipelines.study.look import Look
from flexrec.pipelines.study.uptodate import NodeState
from flexrec.progress import readable_time
from flexrec.ranking.task import TaskSettings
from flexrec.rl.settings import RlSettings, WarmUpSettings
from flexrec.study.settings import Seconds

UNIT = {"train_warm_up": 960, "train_rl": 960, "rank": 160}
"""Lists of a warm-up, rollouts of a training, and instances to rank that the rough times are for."""


def amount_of(one: Look, node: str) -> float:
    """How much a node of a run has to do, in units of what the rough times are for; 1 where that is always the same."""
    if node == "train_warm_up":
        warm_up: WarmUpSettings = one.parameter("warm_up")
        return warm_up.steps * warm_up.lists_per_step / UNIT[node]
    if node == "train_rl":
        rl: RlSettings = one.parameter("rl")
        return rl.steps * rl.prompts_per_step * rl.rollouts / UNIT[node]
    if node.startswith("rank_") and node != "rank_baselines":
        task: TaskSettings = one.parameter("task")
        return task.instances.test / UNIT["rank"]
    return 1.0


class Times:
    """How long nodes take: by what they took for the same dataset and model, else roughly, and by how much they do."""

    def __init__(self, rough: Seconds) -> None:
        self._rough = rough
        self._known: dict[tuple[str, str, str], float] = {}

    def learn(self, looks: Sequence[Look]) -> None:
        """Note what the nodes took that are up to date."""
        for one in looks:
            for state in one.states:
                if state.reason is None and state.seconds is not None:
                    self._known[self._key(one, state)] = state.seconds / max(amount_of(one, state.node), 1e-9)

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
        unit = self._known.get(self._key(one, state), getattr(self._rough, state.node, 1.0))
        return unit * amount_of(one, state.node)

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
