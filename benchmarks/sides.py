"""The two sides of the comparisons: TRL's `GRPOTrainer` as it comes, and this project's engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CLIP = 0.2
STOCK_SETTINGS = {
    "stock TRL": "GRPOTrainer 1.16, no subclass; loss_type grpo; no Liger; no gradient checkpointing; no autocast, the "
    "model's own dtype; its fused output head (off a GPU it scores every position of prompt and answer)"
}


@dataclass(frozen=True)
class Batch:
    """Rollouts of one group, as TRL's trainer hands them to its loss."""

    prompt_ids: Int[Tensor, "G P"]
    completion_ids: Int[Tensor, "G C"]
    advantages: Float[Tensor, " G"]

    def inputs(self, rows: slice = slice(None), old: Float[Tensor, "G C"] | None = None) -> dict[str, Any]:
        """The dictionary that `GRPOTrainer._compute_loss` reads."""
        prompts, completions = self.prompt_ids[rows], self.completion_ids[rows]
        inputs = {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": completions,
            "completion_mask": torch.ones_like(completions),
            "advantages": self.advantages[rows],
            "num_items_in_batch": torch.tensor(completions.numel(), device=completions.device),
        }
        return inputs if old is None else inputs | {"old_per_token_logps": old[rows]}


def make_batch(prompt: Sequence[int], names: Sequence[int], rollouts: int, *, device: str, seed: int) -> Batch:
    """One prompt, and `rollouts` random permutations of `names` as its answers."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor(names)
    answers = torch.stack([tokens[torch.randperm(len(tokens), generator=generator)] for _ in range(rollouts)])
    advantages = torch.randn(rollouts, generator=generator)
    prompts = torch.tensor([list(prompt)]).expand(rollouts, -1).contiguous()
    return Batch(prompts.to(device), answers.to(device), advantages.to(device))


def stock_config(folder: Path, *, device: str, rollouts: int, length: int, micro_batch: int, **settings: Any) -> Any:
    """TRL's configuration for this work: its defaults but for what the work says."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=settings.pop("rows", rollouts) // micro_batch,
        num_generations=rollouts,
        max_completion_length=length,
        # exactly C tokens: the end token may not come before
        generation_kwargs={"min_new_tokens": length},
        loss_type="grpo",
        # pure computation in the model's dtype on both sides; the defaults would checkpoint and autocast
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=device == "cpu",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )


def no_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward function that costs nothing: how many distinct characters an answer has."""
    return [float(len(set(str(completion)))) for completion in completions]


def stock_trainer(model: Any, tokenizer: Any, config: Any, prompts: Sequence[Any] = ("-",)) -> Any:
    """A real `GRPOTrainer`."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=no_reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    return trainer


def slices(rows: int, size: int) -> Iterator[slice]:
    """`rows` in micro-batches of `size`."""
    for start in range(0, rows, size):
        yield slice(start, start + size)


def stock_update(trainer: Any, model: Any, batch: Batch, micro_batch: int, old: Tensor | None = None) -> float:
    """Forward and backward pass of the stock trainer; the loss."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for rows in slices(len(batch.prompt_ids), micro_batch):
        loss = trainer.compute_loss(model, batch.inputs(rows, old))
        loss.backward()
        total += loss.item()
    trainer._metrics["train"].clear()
    return total


def our_scores(model: Any, batch: Batch, grammar: Any, *, share: bool = True) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies by this project's engine, the walk along the grammar included."""
    from flexrec.policy.engine import make_engine
    from flexrec.policy.grammar import follow

    constraints, _ = follow(grammar, batch.completion_ids.tolist(), batch.completion_ids.shape[1])
    engine = make_engine("shared_prompt" if share else "replicated", model, pad_token=0)
    return engine.score(batch.prompt_ids.tolist(), batch.completion_ids, constraints, grammar)


def clipped_loss(
    logps: Float[Tensor, "G C"], advantages: Float[Tensor, " G"], old: Float[Tensor, "G C"] | None = None
) -> Float[Tensor, ""]:
    r"""GRPO's loss: $-\frac1G\sum_i\frac1C\sum_t\min(\rho A_i, \mathrm{clip}(\rho) A_i)$ (arXiv 2402.03300, eq. 3)."""
    ratio = (logps - (logps.detach() if old is None else old)).exp()
    weighted = torch.min(ratio * advantages[:, None], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[:, None])
    return -weighted.mean(1).mean()


def our_update(model: Any, batch: Batch, grammar: Any, *, share: bool = True, old: Tensor | None = None) -> float:
    """Forward and backward pass of this project's engine under the same loss; the loss."""
    model.zero_grad(set_to_none=True)
    logps, _ = our_scores(model, batch, grammar, share=share)
    loss = clipped_loss(logps, batch.advantages, old)
    loss.backward()
    return loss.item()


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    return float((first.double() - second.double()).norm() / second.double().norm().clamp(min=1e-30))


def gradients(model: Any) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.detach().double().flatten().cpu() for p in model.parameters() if p.grad is not None])
