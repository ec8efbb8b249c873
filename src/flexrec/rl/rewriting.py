"""Reinforcement learning of a query rewriter: Rec-R1 on its own task (arXiv 2503.24289).

TRL's `GRPOTrainer` with one reward per answer, its own group-relative advantages, and our engine in the places where it
would sample and score: every prompt is encoded once per group. What comes of a rewrite is told by a function; the
trainer knows neither retriever nor documents.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from flexrec.rewriting.rewriter import Rewriter
from flexrec.rl.callbacks import CheckpointMarks, Curves, Validation
from flexrec.rl.settings import RlSettings
from flexrec.rl.shared_prompt_trainer import SharedPromptTrainer, train

CURVE = "rewriting"


class Parts(Protocol):
    """A reward in its two parts, whose sum it is."""

    @property
    def retrieval(self) -> float:
        """What the retriever's answer is worth."""

    @property
    def form(self) -> float:
        """What the form of the answer adds."""


Reward = Callable[[Sequence[int], Sequence[str | None]], Sequence[Parts]]
"""Rows of the queries, and a rewrite of each (None where its form is wrong)."""

Validate = Callable[[Rewriter], Mapping[str, float]]
"""Metrics of the rewriter as it is, by name."""


class RewritingTrainer(SharedPromptTrainer):
    """GRPO on rewrites.

    Args:
        rewriter: The policy to train.
        queries: What is to be rewritten.
        reward: What a rewrite of a row of `queries` is worth.
        validate: For the validation curve; None leaves it out.
        settings: Optimisation.
        work_folder: Checkpoints; an interrupted training goes on from the last complete one.
        seed: Seed of data order and sampling.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        queries: Sequence[str],
        reward: Reward,
        validate: Validate | None,
        settings: RlSettings,
        work_folder: Path,
        seed: int,
    ) -> None:
        self.rewriter, self._reward = rewriter, reward
        super().__init__(
            rewriter,
            [rewriter.prompt(query) for query in queries],
            rewriter.grammar,
            rewards=[_retrieval, _form],
            callbacks=[
                Curves(CURVE, "`query_rewrite.training.learning_rate`"),
                Validation(CURVE, lambda: _validation(rewriter, validate), settings.validate_every),
                CheckpointMarks(),
            ],
            settings=settings,
            clip=(settings.clip_low, settings.clip_high),
            work_folder=work_folder,
            seed=seed,
        )

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Sample G rewrites for each of B queries, and see what each is worth (TRL's `rollout_func`).

        `prompts` holds row numbers of the queries, each G times in a row.
        """
        rows = [int(row) for row in prompts]
        size = self.rl_settings.rollouts
        sampled = self._engine.sample(
            [self._prompts[row] for row in rows[::size]],
            self.rewriter.grammar,
            rollouts=size,
            temperature=self.rl_settings.temperature,
            seed=self._step_seed(),
            graph=True,
        )
        rewrites = [self.rewriter.read(completion) for completion in sampled.completions]
        outcomes = self._reward(rows, rewrites)
        self._costs.add(rollouts=len(rows), sampled_tokens=sum(map(len, sampled.completions)))
        metrics = self._metrics["train"]
        metrics["answer/invalid_rate"].append(sum(text is None for text in rewrites) / len(rewrites))
        metrics["answer/retrieval"].append(float(np.mean([outcome.retrieval for outcome in outcomes])))
        metrics["answer/different"].append(
            float(np.mean([len(set(rewrites[at : at + size])) / size for at in range(0, len(rows), size)]))
        )
        return {
            "prompt_ids": [self._prompts[row] for row in rows],
            "completion_ids": sampled.completions,
            "logprobs": sampled.log_probabilities,
            "retrieval": [outcome.retrieval for outcome in outcomes],
            "form": [outcome.form for outcome in outcomes],
        }

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL writes what a rollout brings into these, which may be shared
        return super()._generate_and_score_completions([dict(example) for example in inputs])

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        self._count_update(inputs)
        return loss


def _retrieval(retrieval: Sequence[float], **_: Any) -> list[float]:
    return list(retrieval)


def _form(form: Sequence[float], **_: Any) -> list[float]:
    return list(form)


def _validation(rewriter: Rewriter, validate: Validate | None) -> dict[str, float]:
    return {} if validate is None else {f"validation/{name}": value for name, value in validate(rewriter).items()}


def train_rewriter(
    rewriter: Rewriter,
    queries: Sequence[str],
    reward: Reward,
    *,
    validate: Validate | None = None,
    settings: RlSettings,
    work_folder: Path,
    seed: int,
) -> pd.DataFrame:
    """Train the rewriter's policy in place.

    Args:
        rewriter: The policy; its reference for the KL term is the policy as it comes.
        queries: What is to be rewritten.
        reward: What a rewrite of a row of `queries` is worth.
        validate: For the validation curve; None leaves it out.
        settings: Optimisation.
        work_folder: Checkpoints. A training that was killed goes on from the last complete one, and ends with the
            same weights as one that was not.
        seed: Seed of data order and sampling.

    Returns:
        The curves, one row per step and metric: `step`, `metric`, `value`.
    """
    return train(RewritingTrainer(rewriter, queries, reward, validate, settings, work_folder, seed), work_folder)
