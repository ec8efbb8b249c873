"""Supervised warm-up: fine-tuning on the optimal list by the training gains, with TRL's `SFTTrainer`.

The loss is the plain cross-entropy of the answer's tokens. It is what the paper gives its baselines as a start, and
with LoRA on the attention matrices it is TALLRec's recipe with the optimal list as target (arXiv 2305.00447).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

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
        examples: Training queries with their gains.
        settings: Steps, batch and learning rate.
        work_folder: Scratch folder of the trainer.
        seed: Seed of the choice and order of examples.

    Returns:
        The curve: `step`, `metric`, `value`.
    """
    if settings.steps == 0:
        return pd.DataFrame({"step": [], "metric": [], "value": []})
    wanted = settings.steps * settings.lists_per_step
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen = [examples[row] for row in np.resize(order, wanted)]
    prompts = [ranker.prompt(example.query) for example in chosen]
    answers = [target_tokens(ranker, example) for example in chosen]
    dataset = Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)],
            "completion_mask": [
                [0] * len(prompt) + [1] * len(answer) for prompt, answer in zip(prompts, answers, strict=True)
            ],
        }
    )
    trainer = SFTTrainer(
        model=ranker.model,
        processing_class=ranker.tokenizer,
        train_dataset=dataset,
        callbacks=[_Curve()],
        args=SFTConfig(
            output_dir=str(work_folder),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.lists_per_step,
            gradient_accumulation_steps=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rows = [
        (int(entry["step"]), "loss", float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


class _Curve(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            emit("warm_up", state.global_step, {"loss": float(logs["loss"])})
