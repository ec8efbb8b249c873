"""Supervised warm-up: fine-tuning on the optimal list by the training gains.

The loss is the cross-entropy of the answer's tokens under the distribution that the policy is sampled from: where
decoding is constrained, among the identifiers that remain, so that no step is spent on learning the form of an answer.
It is what the paper gives its baselines as a start; `flexrec.rl.fine_tuning` goes on with it as a method of its own.
TRL's `SFTTrainer` computes the whole vocabulary's logits at every token of the prompt; only those of the answer are
needed here.
"""

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from flexrec.policy.grammar import Cursor, Kind, follow
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import AdapterSettings
from flexrec.progress import emit
from flexrec.prompting.answers import THINK_END, THINK_START
from flexrec.rl.arguments import on_one_device
from flexrec.rl.callbacks import refuse_divergence
from flexrec.rl.examples import Example, optimal_order, shortened
from flexrec.rl.settings import WarmUpSettings


def add_adapter(model: Any, settings: AdapterSettings, seed: int) -> Any:
    """The model with fresh trainable LoRA weights, or with all its weights trainable, which are float32 then.

    A step of 1e-6 is less than half of the distance between two numbers of bfloat16 wherever a weight exceeds 3e-4: a
    model trained in its own type would stay as it is.
    """
    if settings.kind == "full":
        return model.float()
    from peft import LoraConfig, get_peft_model

    from flexrec.policy.lora import in_model_type

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
        return in_model_type(get_peft_model(model, config))


@dataclass(frozen=True)
class Lesson:
    """A prompt and the answer to learn, as tokens.

    Attributes:
        prompt: Its tokens.
        answer: Its tokens.
        count: Candidates that it ranks.
    """

    prompt: list[int]
    answer: list[int]
    count: int


@dataclass(frozen=True)
class Update:
    """What one optimiser update learns from: how many lists, of how many candidates."""

    lists: int
    count: int


def updates(settings: WarmUpSettings, count: int) -> list[Update]:
    """The updates of a warm-up.

    The lists grow evenly from `shortest` candidates to all of them over the share `growing` of the steps. Where a line
    is, what it says and which identifier stands behind it is the same in a short list, with fewer to choose from: a
    model that does not yet know what is asked of it finds it there first (curriculum learning, Bengio et al., 2009).

    Args:
        settings: Of the warm-up.
        count: K, candidates of an instance, >= 2.
    """
    shortest = min(settings.shortest, count)
    growing = math.ceil(settings.growing * settings.steps)
    lengths = [shortest + (count - shortest) * step // growing for step in range(growing)]
    lengths += [count] * (settings.steps - growing)
    return [Update(settings.lists_per_step, length) for length in lengths]


def target_tokens(ranker: Ranker, order: Sequence[int]) -> list[int]:
    """A ranking as the answer's tokens; `order` names every candidate by its index.

    Optimal lists come without a reasoning to imitate. Where one is asked for, the target holds an empty one, closed at
    once: `<think></think><answer>...</answer>`, in which a constrained list is learnt among what remains. Without the
    closing tag the whole answer would be reasoning, and its list nobody's choice.
    """
    grammar = ranker.grammar(len(order))
    reasoning = _empty_reasoning(ranker)
    names = [token for index in order for token in grammar.identifiers[index]]
    if not grammar.constrained:
        return [*reasoning, *grammar.opening, *names, *grammar.closing, grammar.end_token]
    # along the grammar, which closes a reasoning itself where its budget ends before
    cursor, answer = Cursor(grammar), list[int]()
    written = {Kind.FREE: iter(reasoning), Kind.CHOICE: iter(names)}
    while cursor.kind is not Kind.DONE:
        token = next(written[cursor.kind]) if cursor.token is None else cursor.token
        answer.append(token)
        cursor.advance(token)
    return answer


def _empty_reasoning(ranker: Ranker) -> list[int]:
    if not ranker.prompting.reasoning:
        return []
    tags = (THINK_START, THINK_END)
    return [token for tag in tags for token in ranker.tokenizer.encode(tag, add_special_tokens=False)]


def lessons(ranker: Ranker, examples: Sequence[Example], updates: Sequence[Update], *, seed: int) -> list[list[Lesson]]:
    """The optimal lists that each update learns from: every example once before any twice, in seeded order.

    Args:
        ranker: Writes prompts and answers.
        examples: Training queries with their gains, not all of them equal.
        updates: What each update learns from.
        seed: Seed of the order of the examples, of the order of equal gains, and of the candidates of shorter lists.
    """
    sizes = [update.lists for update in updates]
    wanted = sum(sizes)
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(examples)) for _ in range(-(-wanted // len(examples)))]
    # streams of their own, so that neither equal gains nor shorter lists change which examples come
    ties, choices = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    rows = iter(np.concatenate([np.empty(0, dtype=np.int64), *rounds])[:wanted].tolist())
    prompts: dict[int, list[int]] = {}

    def lesson(row: int, count: int) -> Lesson:
        example = shortened(examples[row], count, choices)
        if example is not examples[row]:
            prompt = ranker.prompt(example.query)
        else:
            prompt = prompts[row] = prompts.get(row) or ranker.prompt(example.query)
        return Lesson(prompt, target_tokens(ranker, optimal_order(example.gains, ties)), len(example.gains))

    return [[lesson(next(rows), update.count) for _ in range(update.lists)] for update in updates]


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
    trainer = ListTrainer(
        ranker,
        lessons(ranker, examples, updates(settings, len(examples[0].gains)), seed=seed),
        learning_rate=settings.learning_rate,
        work_folder=work_folder,
        seed=seed,
        callbacks=[_Curve()],
    )
    trainer.train()
    rows = [
        (int(entry["step"]), "loss", float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


class ListTrainer(Trainer):
    """Cross-entropy of optimal lists under the policy's own distribution.

    Args:
        ranker: The policy, with trainable weights.
        updates: What each optimiser update learns from: lists of equally many candidates.
        learning_rate: Constant.
        work_folder: Scratch folder, and checkpoints where `save_every` is given.
        seed: Of the dropout of adapters.
        callbacks: Told of every step.
        save_every: Updates between two checkpoints; None keeps none.
        max_gradient_norm: Longer gradients are shortened to it.
        checkpointing: Compute activations again in the backward pass.
    """

    def __init__(
        self,
        ranker: Ranker,
        updates: Sequence[Sequence[Lesson]],
        *,
        learning_rate: float,
        work_folder: Path,
        seed: int,
        callbacks: Sequence[TrainerCallback],
        save_every: int | None = None,
        max_gradient_norm: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        self._grammar = ranker.grammar
        self._engine = ranker.engine(checkpointing=checkpointing)
        self._pad_token = ranker.tokenizer.pad_token_id
        super().__init__(
            model=ranker.model,
            data_collator=self._collate,
            # one row holds all lists of an update, whose number may change from one to the next
            train_dataset=cast(Any, [{"lessons": update} for update in updates]),
            callbacks=list(callbacks),
            args=on_one_device(
                TrainingArguments(
                    output_dir=str(work_folder),
                    max_steps=len(updates),
                    per_device_train_batch_size=1,
                    learning_rate=learning_rate,
                    lr_scheduler_type="constant",
                    max_grad_norm=max_gradient_norm,
                    use_cpu=not torch.cuda.is_available(),
                    seed=seed,
                    logging_steps=1,
                    logging_nan_inf_filter=False,
                    save_strategy="no" if save_every is None else "steps",
                    save_steps=save_every or len(updates),
                    save_total_limit=2,
                    report_to="none",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    dataloader_pin_memory=False,
                )
            ),
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        # the lists come in their seeded order
        return SequentialSampler(cast(Sized, self.train_dataset))

    def _collate(self, rows: Sequence[dict[str, Sequence[Lesson]]]) -> dict[str, Any]:
        update = [lesson for row in rows for lesson in row["lessons"]]
        answers = [lesson.answer for lesson in update]
        length = max(len(answer) for answer in answers)
        completions = torch.tensor([answer + [self._pad_token] * (length - len(answer)) for answer in answers])
        (count,) = {lesson.count for lesson in update}
        grammar = self._grammar(count)
        constraints, _ = follow(grammar, answers, length)
        prompts = [lesson.prompt for lesson in update]
        return {"prompts": prompts, "completions": completions, "constraints": constraints, "grammar": grammar}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood per learnt token."""
        # dropout depends on the step alone, so that a resumed training drops what the uninterrupted one would have
        seeds = np.random.SeedSequence([self.args.seed, self.state.global_step])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        logps, _ = self._engine.score(
            inputs["prompts"], inputs["completions"], inputs["constraints"], inputs["grammar"], entropies=False
        )
        kind = torch.as_tensor(inputs["constraints"].kind, device=logps.device)
        learnt = (kind == int(Kind.FREE)) | (kind == int(Kind.CHOICE))
        return -logps.sum() / learnt.sum()


class _Curve(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            refuse_divergence(logs, state.global_step, "`warm_up.learning_rate`")
            emit("warm_up", state.global_step, {"loss": float(logs["loss"])})
