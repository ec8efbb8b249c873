"""Reinforcement learning of a query rewriter: Rec-R1 on its own task (arXiv 2503.24289).

TRL's `GRPOTrainer` with one reward per answer, its own group-relative advantages, and our engine in the places where it
would sample and score: every prompt is encoded once per group. What comes of a rewrite is told by a function; the
trainer knows neither retriever nor documents.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine, make_engine, unpadded
from flexrec.policy.grammar import follow
from flexrec.rewriting.rewriter import Rewriter
from flexrec.rl.callbacks import CheckpointMarks, Curves, Validation, curves_of, last_complete_checkpoint
from flexrec.rl.costs import Costs
from flexrec.rl.settings import RlSettings

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


class RewritingTrainer(GRPOTrainer):
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
        self.rewriter, self.rl_settings = rewriter, settings
        self._reward, self._seed = reward, seed
        self._prompts = [rewriter.prompt(query) for query in queries]
        self._engine = rewriter.engine(remember=True, checkpointing=settings.gradient_checkpointing)
        self._reference_engine: SharedPromptEngine | ReplicatedEngine | None = None
        self._costs = Costs()
        super().__init__(
            model=rewriter.model,
            processing_class=rewriter.tokenizer,
            reward_funcs=cast(Any, [_retrieval, _form]),
            rollout_func=self.rollout,
            train_dataset=Dataset.from_dict({"prompt": [str(row) for row in self._schedule(len(queries))]}),
            callbacks=[
                self._costs,
                Curves(CURVE),
                Validation(CURVE, lambda: _validation(rewriter, validate), settings.validate_every),
                CheckpointMarks(),
            ],
            args=GRPOConfig(
                output_dir=str(work_folder),
                max_steps=settings.steps,
                per_device_train_batch_size=settings.prompts_per_step * settings.rollouts,
                gradient_accumulation_steps=1,
                num_generations=settings.rollouts,
                num_iterations=settings.iterations,
                max_completion_length=rewriter.grammar.max_length,
                temperature=settings.temperature,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="constant",
                shuffle_dataset=False,
                max_grad_norm=settings.max_gradient_norm,
                beta=settings.kl,
                # GRPO's own KL term; TRL 1.16 would multiply it by the importance ratio
                use_bias_correction_kl=False,
                entropy_coef=settings.entropy_bonus,
                epsilon=settings.clip_low,
                epsilon_high=settings.clip_high,
                loss_type="grpo",
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                seed=seed,
                logging_steps=1,
                save_steps=settings.save_every,
                save_total_limit=2,
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )

    def _schedule(self, count: int) -> list[int]:
        """Which queries each step uses, in seeded order, every query once before any twice."""
        rng = np.random.default_rng(self._seed)
        wanted = self.rl_settings.steps * self.rl_settings.prompts_per_step
        rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
        return np.concatenate(rounds)[:wanted].tolist()

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Sample G rewrites for each of B queries, and see what each is worth (TRL's `rollout_func`).

        `prompts` holds row numbers of the queries, each G times in a row. The seed depends on the step alone, so that
        a resumed training samples what the uninterrupted one would have.
        """
        rows = [int(row) for row in prompts]
        size = self.rl_settings.rollouts
        seed = int(np.random.SeedSequence([self._seed, self.state.global_step]).generate_state(1)[0])
        sampled = self._engine.sample(
            [self._prompts[row] for row in rows[::size]],
            self.rewriter.grammar,
            rollouts=size,
            temperature=self.rl_settings.temperature,
            seed=seed,
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
        size = self.rl_settings.rollouts
        self._costs.add(
            updates=1,
            prompts=len(inputs["prompt_ids"]) // size,
            prompt_tokens=int(inputs["prompt_mask"].sum()) // size,
            answer_tokens=int(inputs["completion_mask"].sum()),
        )
        for name, count in self._costs.metrics().items():
            self._metrics["train"][name].append(count)
        return loss

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
        constraints, _orders = follow(self.rewriter.grammar, unpadded(completions, mask), logits_to_keep)
        logps, entropies = self._engine_of(model).score(
            unpadded(input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]),
            completions,
            constraints,
            self.rewriter.grammar,
            temperature=self.rl_settings.temperature,
            entropies=compute_entropy,
        )
        return logps, entropies, None

    def _engine_of(self, model: Any) -> SharedPromptEngine | ReplicatedEngine:
        """The policy's engine, or that of a reference which is a model of its own (without adapters)."""
        model = self.accelerator.unwrap_model(model)
        if model is self._engine.model:
            return self._engine
        if self._reference_engine is None or self._reference_engine.model is not model:
            kind, pad_token = self.rewriter.decoding.engine, self.rewriter.tokenizer.pad_token_id
            self._reference_engine = make_engine(kind, model, pad_token)
        return self._reference_engine


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
    trainer = RewritingTrainer(rewriter, queries, reward, validate, settings, work_folder, seed)
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_complete_checkpoint(work_folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return curves_of(trainer.state.log_history)
