"""What goes along with every training: curves, looks at validation queries, marks on whole checkpoints."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TrainerCallback

from flexrec.errors import InputError
from flexrec.progress import emit
from flexrec.rl.costs import PREFIX as COST_PREFIX

# What goes into the curves. Times stay out: they would differ from run to run.
CURVES = {
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "clip_ratio/region_mean": "clipped",
}
PREFIXES = ("validation/", "advantage/", "weight/", "answer/", "value/", "sampling/", COST_PREFIX)
COMPLETE = "complete"


class Curves(TrainerCallback):
    """Publishes what a trainer logs, under the project's names.

    Args:
        curve: Name of the curve (`flexrec.progress.emit`).
        rate: Which setting is the learning rate, in words.

    Raises:
        InputError: The training diverges.
    """

    def __init__(self, curve: str, rate: str) -> None:
        self._curve, self._rate = curve, rate

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Publish one entry of the log."""
        refuse_divergence(logs or {}, state.global_step, self._rate)
        values = _curve_values(logs or {})
        if values:
            emit(self._curve, state.global_step, values)


def refuse_divergence(logs: Mapping[str, Any], step: int, rate: str) -> None:
    """Stop where a loss or a gradient is no number, before such weights are kept or ranked with.

    Args:
        logs: One entry of a trainer's log.
        step: Which step it is about.
        rate: Which setting is the learning rate, in words.

    Raises:
        InputError: It is no number, or infinite.
    """
    for name in ("loss", "grad_norm"):
        if name in logs and not math.isfinite(logs[name]):
            raise InputError(f"the training diverges: `{CURVES[name]}` is {logs[name]} at step {step}; lower {rate}")


class Validation(TrainerCallback):
    """Measures the policy before the first step, after some, and after the last.

    Args:
        curve: Name of the curve.
        measure: Metrics of the policy as it is, by the names that they have in the curves; none: nothing is published.
        every: Steps between two measurements.
    """

    def __init__(self, curve: str, measure: Callable[[], Mapping[str, float]], every: int) -> None:
        self._curve, self._measure, self._every = curve, measure, every

    def _look(self, state: Any) -> None:
        if values := dict(self._measure()):
            # not through the trainer's log(), which would close the books of the running step
            state.log_history.append({**values, "step": state.global_step})
            emit(self._curve, state.global_step, values)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure what the training begins with."""
        if state.global_step == 0:
            self._look(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where it is due."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._look(state)


class CheckpointMarks(TrainerCallback):
    """Marks whole checkpoints: a training killed while writing one resumes from the one before."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint that was just written."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # Where a checkpoint holds adapters in subfolders, transformers 5.17 loads those and forgets the main one. The
        # reference adapter is the policy that training started from, and is made again from it on resumption.
        shutil.rmtree(checkpoint / "ref", ignore_errors=True)
        (checkpoint / COMPLETE).touch()


def last_complete_checkpoint(work_folder: Path) -> Path | None:
    """The newest checkpoint that was written whole; None where there is none."""
    marked = [marker.parent for marker in work_folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(marked, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def curves_of(log_history: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A trainer's log as a table: `step`, `metric`, `value`."""
    rows = [(int(entry["step"]), name, value) for entry in log_history for name, value in _curve_values(entry).items()]
    table = pd.DataFrame(rows, columns=["step", "metric", "value"])
    return table.sort_values(["step", "metric"], ignore_index=True)


def _curve_values(logs: Mapping[str, Any]) -> dict[str, float]:
    values = {new: float(logs[old]) for old, new in CURVES.items() if old in logs}
    return values | {name: float(value) for name, value in logs.items() if name.startswith(PREFIXES)}
