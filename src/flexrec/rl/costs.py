"""What a training uses, counted: methods are compared at equal cost, and cost the same on every machine."""

from typing import Any

from transformers import TrainerCallback

COSTS = {
    "updates": "optimiser updates",
    "prompts": "prompts that updates learned from",
    "prompt_tokens": "their tokens, once for all answers to a prompt",
    "answer_tokens": "tokens of the answers that updates learned from",
    "rollouts": "answers sampled",
    "sampled_tokens": "their tokens",
}
"""Counts of a training so far, by name. What several updates learn from counts at each; tokens that the form of an
answer forces count like others."""
PREFIX = "cost/"


class Costs(TrainerCallback):
    """Counts over one training, for the trainer's log: a resumed training goes on from the last that was logged.

    The trainer calls `add`, and logs `metrics` at every step.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COSTS, 0)

    def add(self, **counts: int) -> None:
        """Add to counts by their names in `COSTS`."""
        for name, count in counts.items():
            self._counts[name] += count

    def metrics(self) -> dict[str, float]:
        """All counts so far, as `cost/...`."""
        return {PREFIX + name: float(count) for name, count in self._counts.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on counting where the checkpoint ends."""
        logged = [entry for entry in state.log_history if f"{PREFIX}updates" in entry]
        if logged:
            self._counts = {name: int(logged[-1][PREFIX + name]) for name in COSTS}
