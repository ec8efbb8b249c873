"""Supervised warm-up: fine-tuning on the optimal list by the training gains.

The loss is the cross-entropy of the answer's tokens under the distribution that the policy is sampled from: where
decoding is constrained, among the identifiers that remain, so that no step is spent on learning the form of an answer.
It is what the paper gives its baselines as a start, and with LoRA on the attention matrices it is TALLRec's recipe
with the optimal list as target (arXiv 2305.00447). TRL's `SFTTrainer` computes the whole vocabulary's logits at every
token of the prompt; only those of the answer are needed here.
"""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from flexrec.policy.grammar import Kind, follow
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import AdapterSettings
from flexrec.progress import emit
from flexrec.rl.examples import Example
from flexrec.rl.settings import WarmUpSettings


def add_adapter(model: Any, settings: AdapterSettings, seed: int) -> Any:
    """The model with fresh trainable LoRA weights, or with all its weights trainable."""
    if settings.kind == "full":
        return model
    from peft import LoraConfig, get_peft_model

    layers = model.config.num_hidden_layers
    adapted = None if settings.upper_layers is None else list(range(max(0, layers - settings.upper_layers), layers))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        layers_to_transform=adapted,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def target_tokens(ranker: Ranker, example: Example) -> list[int]:
    """The optimal list as the answer's tokens."""
    grammar = ranker.grammar(len(example.gains))
    names = [token for index in example.best_order for token in grammar.identifiers[index]]
    end = [] if ranker.decoding.constrained else [grammar.end_token]
    return [*grammar.opening, *names, *grammar.closing, *end]


def warm_up(
    ranker: Ranker, examples: Sequence[Example], *, settings: WarmUpSettings, work_folder: Path, seed: int
) -> pd.DataFrame:
    """Fine-tune the ranker's policy in place on optimal lists.

    Args:
        ranker: The policy, with trainable weights.
        examples: Training queries with their gains, all with the same number of candidates.
        settings: Steps, batch and learning rate.
        work_folder: Scratch folder of the trainer.
        seed: Seed of the choice and order of examples.

    Returns:
        The curve: `step`, `metric`, `value`; the loss in nats per token.
    """
    if settings.steps == 0:
        return pd.DataFrame({"step": [], "metric": [], "value": []})
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen = np.resize(order, settings.steps * settings.lists_per_step)
    trainer = _WarmUpTrainer(
        ranker,
        len(examples[0].gains),
        train_dataset=[{"example": examples[int(row)]} for row in chosen],
        callbacks=[_Curve()],
        args=TrainingArguments(
            output_dir=str(work_folder),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.lists_per_step,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rows = [
        (int(entry["step"]), "loss", float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


class _WarmUpTrainer(Trainer):
    """Cross-entropy of optimal lists under the policy's own distribution."""

    def __init__(self, ranker: Ranker, count: int, **options: Any) -> None:
        self._ranker, self._grammar, self._engine = ranker, ranker.grammar(count), ranker.engine()
        super().__init__(model=ranker.model, data_collator=self._collate, **options)

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        # the examples come in their seeded order
        return SequentialSampler(cast(Sized, self.train_dataset))

    def _collate(self, rows: Sequence[dict[str, Example]]) -> dict[str, Any]:
        pad = self._ranker.tokenizer.pad_token_id
        prompts = [self._ranker.prompt(row["example"].query) for row in rows]
        answers = [target_tokens(self._ranker, row["example"]) for row in rows]
        length = max(len(answer) for answer in answers)
        completions = torch.tensor([answer + [pad] * (length - len(answer)) for answer in answers])
        constraints, _ = follow(self._grammar, answers, length)
        return {"prompts": prompts, "completions": completions, "constraints": constraints}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood per learnt token."""
        logps, _ = self._engine.score(
            inputs["prompts"], inputs["completions"], inputs["constraints"], self._grammar, entropies=False
        )
        kind = torch.as_tensor(inputs["constraints"].kind, device=logps.device)
        learnt = (kind == int(Kind.FREE)) | (kind == int(Kind.CHOICE))
        return -logps.sum() / learnt.sum()


class _Curve(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            emit("warm_up", state.global_step, {"loss": float(logs["loss"])})
