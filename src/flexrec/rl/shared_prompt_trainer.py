"""What TRL's `GRPOTrainer` needs to sample and score with shared prompts, whatever is rewarded.

Left out: micro-batches. A step is one batch of B groups, because TRL shuffles rollouts before it splits them, which
would scatter the groups that share a prompt.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from flexrec.policy.distribution import token_values, unpadded
from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine, make_engine
from flexrec.policy.grammar import Grammar, follow
from flexrec.policy.settings import DecodingSettings
from flexrec.rl.arguments import on_one_device
from flexrec.rl.callbacks import curves_of, last_complete_checkpoint
from flexrec.rl.costs import Costs
from flexrec.rl.settings import RlSettings


class Policy(Protocol):
    """A model with its tokenizer and decoding: a ranker, a rewriter."""

    model: Any
    tokenizer: Any
    decoding: DecodingSettings

    def engine(self, *, remember: bool = False, checkpointing: bool = False) -> SharedPromptEngine | ReplicatedEngine:
        """A new engine around the model."""


class SharedPromptTrainer(GRPOTrainer):
    """GRPO with our engine in the places where TRL would sample and score.

    A subclass has `rollout` (TRL's `rollout_func`), whose prompts are row numbers of `prompts`, each G times in a row.

    Args:
        policy: What is trained.
        prompts: Tokens of every prompt.
        grammar: The form of the answers.
        rewards: TRL's reward functions.
        callbacks: Beside the counting of costs.
        settings: Optimisation.
        clip: How far the importance ratio may fall below and rise above 1.
        work_folder: Checkpoints; an interrupted training goes on from the last complete one.
        seed: Seed of data order and sampling.
    """

    rollout: Callable[..., dict[str, list[Any]]]

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        grammar: Grammar,
        *,
        rewards: Any,
        callbacks: Sequence[TrainerCallback],
        settings: RlSettings,
        clip: tuple[float, float],
        work_folder: Path,
        seed: int,
    ) -> None:
        self._policy, self._prompts, self._grammar = policy, prompts, grammar
        self.rl_settings, self._seed = settings, seed
        # what one step can use again is kept; the validation has an engine of its own
        self._engine = policy.engine(remember=True, checkpointing=settings.gradient_checkpointing)
        self._reference_engine: SharedPromptEngine | ReplicatedEngine | None = None
        self._costs = Costs()
        super().__init__(
            model=policy.model,
            processing_class=policy.tokenizer,
            reward_funcs=cast(Any, rewards),
            rollout_func=self.rollout,
            train_dataset=Dataset.from_dict({"prompt": [str(row) for row in self._schedule()]}),
            callbacks=[self._costs, *callbacks],
            args=on_one_device(
                GRPOConfig(
                    output_dir=str(work_folder),
                    max_steps=settings.steps,
                    per_device_train_batch_size=settings.prompts_per_step * settings.rollouts,
                    gradient_accumulation_steps=1,
                    num_generations=settings.rollouts,
                    num_iterations=settings.iterations,
                    max_completion_length=grammar.max_length,
                    temperature=settings.temperature,
                    learning_rate=settings.learning_rate,
                    lr_scheduler_type="constant",
                    shuffle_dataset=False,
                    max_grad_norm=settings.max_gradient_norm,
                    beta=settings.kl,
                    # GRPO's own KL term; TRL 1.16 would multiply it by the importance ratio
                    use_bias_correction_kl=False,
                    entropy_coef=settings.entropy_bonus,
                    epsilon=clip[0],
                    epsilon_high=clip[1],
                    loss_type="grpo",
                    gradient_checkpointing=False,
                    bf16=False,
                    use_cpu=not torch.cuda.is_available(),
                    seed=seed,
                    logging_steps=1,
                    logging_nan_inf_filter=False,
                    # rollouts are not saved: a checkpoint stands between two batches of them
                    save_steps=-(-settings.save_every // settings.iterations) * settings.iterations,
                    save_total_limit=2,
                    report_to="none",
                    disable_tqdm=True,
                    dataloader_pin_memory=False,
                )
            ),
        )

    def _schedule(self) -> list[int]:
        """Which prompts each step uses, in seeded order, every prompt once before any twice.

        Written out in full, one epoch for the trainer: it would not find its place in a second one on resumption.
        """
        settings, count = self.rl_settings, len(self._prompts)
        rng = np.random.default_rng(self._seed)
        wanted = -(-settings.steps // settings.iterations) * settings.prompts_per_step
        rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
        return np.concatenate(rounds)[:wanted].tolist()

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler[int]:
        # as many rows as the steps use: an epoch that went on behind them would be gone on with by a training that was
        # killed after its last step
        settings = self.rl_settings
        return _First(
            super()._get_train_sampler(dataset), settings.steps * settings.prompts_per_step * settings.rollouts
        )

    def _step_seed(self) -> int:
        """Seed of this step's sampling: of nothing else, so that a resumed training samples as one that was not."""
        return int(np.random.SeedSequence([self._seed, self.state.global_step]).generate_state(1)[0])

    def _count_update(self, inputs: dict[str, Any]) -> None:
        """Count what an update has learned from, and log all costs so far."""
        size = self.rl_settings.rollouts
        self._costs.add(
            updates=1,
            prompts=len(inputs["prompt_ids"]) // size,
            prompt_tokens=int(inputs["prompt_mask"].sum()) // size,
            answer_tokens=int(inputs["completion_mask"].sum()),
        )
        for name, count in self._costs.metrics().items():
            self._metrics["train"][name].append(count)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Int[Tensor, "N S"],
        attention_mask: Int[Tensor, "N S"],
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"] | None, None]:
        completions, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        constraints, _orders = follow(self._grammar, unpadded(completions, mask), logits_to_keep)
        engine = self._engine_of(model)
        states = engine.states(
            unpadded(input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]), completions
        )
        logps, entropies = token_values(
            engine.head,
            states,
            completions,
            constraints,
            self._grammar,
            self.rl_settings.temperature,
            entropies=compute_entropy,
        )
        self._scored(logps, states)
        return logps, entropies, None

    def _scored(self, logps: Float[Tensor, "N T"], states: Float[Tensor, "N T d"]) -> None:
        """Told of every scoring; for what a loss needs beyond TRL's."""

    def _engine_of(self, model: Any) -> SharedPromptEngine | ReplicatedEngine:
        """The policy's engine, or that of a reference which is a model of its own (without adapters)."""
        model = self.accelerator.unwrap_model(model)
        if model is self._engine.model:
            return self._engine
        if self._reference_engine is None or self._reference_engine.model is not model:
            pad_token = self._policy.tokenizer.pad_token_id
            self._reference_engine = make_engine(self._policy.decoding.engine, model, pad_token)
        return self._reference_engine


class _First(Sampler[int]):
    """The first `count` of a sampler's rows."""

    def __init__(self, rows: Sampler[int], count: int) -> None:
        self._rows, self._count = rows, count

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._rows, self._count)

    def __len__(self) -> int:
        return self._count


def train(trainer: SharedPromptTrainer, work_folder: Path) -> pd.DataFrame:
    """Train, from the last complete checkpoint where there is one.

    Returns:
        The curves, one row per step and metric: `step`, `metric`, `value`.
    """
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_complete_checkpoint(work_folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return curves_of(trainer.state.log_history)
