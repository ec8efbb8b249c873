"""Supervised fine-tuning on optimal lists as a method of its own, at the budget of the RL methods.

TALLRec's recipe (arXiv 2305.00447) with the optimal list as the target: the loss of the warm-up, an adapter of its own,
as many updates as the others make, and in each as many tokens as theirs learns from (docs/protocol.md).
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flexrec.policy.ranker import Ranker
from flexrec.rl.callbacks import curves_of, last_complete_checkpoint
from flexrec.rl.costs import Costs
from flexrec.rl.examples import Example
from flexrec.rl.settings import RlSettings, SftMethodSettings, WarmUpSettings
from flexrec.rl.trainer import callbacks
from flexrec.rl.warm_up import Lesson, ListTrainer, Update, lessons, target_tokens, updates

logger = logging.getLogger(__name__)


def fine_tune(
    ranker: Ranker,
    examples: Sequence[Example],
    validation: Sequence[Example],
    *,
    method: SftMethodSettings,
    settings: RlSettings,
    warm_up: WarmUpSettings,
    work_folder: Path,
    seed: int,
) -> pd.DataFrame:
    """Fine-tune the ranker's policy in place on optimal lists.

    Args:
        ranker: The policy, with trainable weights.
        examples: Training queries with their gains, all with the same number of candidates.
        validation: Validation queries with their true gains; may be empty.
        method: Learning rate, lists per update, and whether the adapter is its own.
        settings: The budget: updates, prompts and answers of each; also validation, checkpoints and gradients.
        warm_up: What the others have learned from before; comes first where the adapter is the method's own.
        work_folder: Checkpoints. A training that was killed goes on from the last complete one, and ends with the
            same weights as one that was not.
        seed: Seed of the order of the examples and of the dropout.

    Returns:
        The curves, one row per step and metric: `step`, `metric`, `value`; the loss in nats per token. Costs are
        counted from the end of the warm-up, as those of the methods that start from it.
    """
    count = len(examples[0].gains)
    before = [] if method.adapter is None else updates(warm_up, count)
    size = method.lists_per_step or _lists_per_step(ranker, examples, settings)
    logger.info(
        "fine-tuning: %s%d updates of %d lists",
        f"{len(before)} updates of {warm_up.lists_per_step} lists, then " if before else "",
        settings.steps,
        size,
    )
    costs = Costs()
    rate = "`rl.learning_rate`" if method.learning_rate is None else "the method's `learning_rate`"
    trainer = _Trainer(
        costs,
        len(before),
        ranker,
        lessons(ranker, examples, [*before, *([Update(size, count)] * settings.steps)], seed=seed),
        learning_rate=method.learning_rate or settings.learning_rate,
        work_folder=work_folder,
        seed=seed,
        callbacks=[*callbacks(ranker, validation, settings, rate), costs],
        save_every=settings.save_every,
        max_gradient_norm=settings.max_gradient_norm,
        checkpointing=settings.gradient_checkpointing,
    )
    checkpoint = last_complete_checkpoint(work_folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return curves_of(trainer.state.log_history)


def lists_of_equal_tokens(prompt: float, answer: float, *, prompts: int, rollouts: int) -> int:
    r"""How many lists have the tokens that one update by RL learns from: B prompts and G answers to each.

    .. math:: L = \lceil B (P + G A) / (P + A) \rceil

    Rounded up, in favour of fine-tuning.

    Args:
        prompt: P, tokens of a prompt.
        answer: A, tokens of an answer.
        prompts: B.
        rollouts: G.
    """
    return math.ceil(prompts * (prompt + rollouts * answer) / (prompt + answer))


def _lists_per_step(ranker: Ranker, examples: Sequence[Example], settings: RlSettings) -> int:
    prompt = float(np.mean([len(ranker.prompt(example.query)) for example in examples]))
    # every order of K candidates has the same number of tokens
    answer = len(target_tokens(ranker, range(len(examples[0].gains))))
    return lists_of_equal_tokens(prompt, answer, prompts=settings.prompts_per_step, rollouts=settings.rollouts)


class _Trainer(ListTrainer):
    """Counts what it learns from after the first `before` updates, and logs the counts with the loss."""

    def __init__(
        self, costs: Costs, before: int, ranker: Ranker, updates: Sequence[Sequence[Lesson]], **options: Any
    ) -> None:
        self._costs, self._before = costs, before
        super().__init__(ranker, updates, **options)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Mean negative log-likelihood per learnt token."""
        if self.state.global_step >= self._before:
            self._costs.add(
                updates=1,
                prompts=len(inputs["prompts"]),
                prompt_tokens=sum(map(len, inputs["prompts"])),
                answer_tokens=inputs["completions"].numel(),
            )
        return super().compute_loss(model, inputs, *rest, **options)

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """The trainer's, with the counts."""
        super().log({**logs, **self._costs.metrics()} if "loss" in logs else logs, *rest)
