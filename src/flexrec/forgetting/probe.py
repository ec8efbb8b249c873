"""A model is asked the prompts and reads held-out text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flexrec.errors import InputError
from flexrec.forgetting.checks import follows, on_topic
from flexrec.forgetting.prompts import PROMPTS
from flexrec.forgetting.settings import ForgettingSettings
from flexrec.progress import track

if TYPE_CHECKING:
    import torch

HELD_OUT = Path(__file__).with_name("held_out.txt")
"""The text; docs/forgetting.md says where it is from."""

_POSITIONS = 64  # whose distributions are compared at once: a few vocabularies of float32 each


@dataclass(frozen=True)
class Written:
    """An answer."""

    text: str
    tokens: int
    """With the one that ends it."""
    cut: bool
    """Whether it ended at the limit."""


def ask(model: Any, tokenizer: Any, settings: ForgettingSettings, *, name: str) -> pd.DataFrame:
    """Answer the prompts greedily, and check the answers.

    Args:
        model: A causal language model or a PEFT model around one.
        tokenizer: Its tokenizer, with a chat template, padding on the left.
        settings: How many prompts and tokens.
        name: What the model is called in the table.

    Returns:
        One row per prompt: `model`, `prompt` (its number), `kind`, `text`, `answer`, `followed` (the form),
        `on_topic` (missing where the prompt has no topic), `passed` (both), `tokens`, `cut`.
    """
    prompts = PROMPTS[: settings.prompts]
    starts = range(0, len(prompts), settings.batch_size)
    written: list[Written] = []
    for start in track(starts, description=f"{name} follows instructions"):
        texts = [prompt.text for prompt in prompts[start : start + settings.batch_size]]
        written += write(model, tokenizer, texts, max_tokens=settings.max_tokens)
    rows = [
        {
            "model": name,
            "prompt": number,
            "kind": prompt.kind,
            "text": prompt.text,
            "answer": answer.text,
            "followed": follows(prompt.kind, answer.text, prompt.arguments),
            "on_topic": on_topic(answer.text, prompt.topic) if prompt.topic else None,
            "tokens": answer.tokens,
            "cut": answer.cut,
        }
        for number, (prompt, answer) in enumerate(zip(prompts, written, strict=True))
    ]
    table = pd.DataFrame(rows).astype({"on_topic": "boolean"})
    table.insert(7, "passed", table["followed"] & table["on_topic"].fillna(True).astype(bool))
    return table


def write(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> list[Written]:
    """Greedy answers to requests, by the model's own chat template and `generate`, in one batch.

    Args:
        model: As for `ask`.
        tokenizer: As for `ask`.
        texts: n requests.
        max_tokens: Most tokens of an answer.
    """
    import torch

    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": text}] for text in texts],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
    ).to(model.device)
    model.eval()
    with torch.inference_mode():
        made = model.generate(
            **inputs,
            do_sample=False,
            # instruct checkpoints bring penalties of their own
            repetition_penalty=1.0,
            max_new_tokens=max_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    answers = []
    for tokens in made[:, inputs["input_ids"].shape[1] :].tolist():
        cut = tokenizer.eos_token_id not in tokens
        length = len(tokens) if cut else tokens.index(tokenizer.eos_token_id) + 1
        text = tokenizer.decode(tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answers.append(Written(text, length, cut))
    return answers


def windows_of(text: str, tokenizer: Any, *, windows: int, window_tokens: int) -> list[list[int]]:
    """The first pieces of a text, one after the other, without overlap.

    Returns:
        `windows` lists of `window_tokens` ids.

    Raises:
        InputError: The text is too short.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < windows * window_tokens:
        raise InputError(
            f"the held-out text has {len(ids)} tokens of this model's, {len(ids) // window_tokens} pieces of "
            f"{window_tokens}; lower forgetting.windows ({windows}) or forgetting.window_tokens"
        )
    return [ids[start * window_tokens : (start + 1) * window_tokens] for start in range(windows)]


def read(
    model: Any, tokenizer: Any, settings: ForgettingSettings, *, name: str, base: Any | None = None
) -> pd.DataFrame:
    """Let the model predict held-out text, token by token.

    Args:
        model: As for `ask`.
        tokenizer: As for `ask`.
        settings: How much is read.
        name: What the model is called in the table.
        base: The base model, to compare distributions with; None where `model` is the base model.

    Returns:
        One row per piece: `model`, `window`, `tokens` (predicted ones: the first of a piece is given), `loss` (mean
        negative log-likelihood, nats per token), `kl` (mean over positions of KL(base || model) in nats, 0 for the
        base model itself).

    Raises:
        InputError: The text is too short, or a piece is longer than the model reads.
    """
    import torch

    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and settings.window_tokens > limit:
        raise InputError(f"forgetting.window_tokens is {settings.window_tokens}, but {name} reads {limit} tokens")
    pieces = windows_of(
        HELD_OUT.read_text(encoding="utf-8"),
        tokenizer,
        windows=settings.windows,
        window_tokens=settings.window_tokens,
    )
    for one in (model, base):
        if one is not None:
            one.eval()
    rows = []
    with torch.inference_mode():
        for number, piece in enumerate(track(pieces, description=f"{name} reads")):
            ids = torch.tensor([piece], device=model.device)
            logits = model(ids).logits[0, :-1]
            loss = _mean_loss(logits, ids[0, 1:])
            kl = 0.0 if base is None else _mean_kl(base(ids.to(base.device)).logits[0, :-1], logits)
            rows.append({"model": name, "window": number, "tokens": len(piece) - 1, "loss": loss, "kl": kl})
    return pd.DataFrame(rows)


def _mean_loss(logits: "torch.Tensor", targets: "torch.Tensor") -> float:
    total = 0.0
    for start in range(0, len(targets), _POSITIONS):
        rows = logits[start : start + _POSITIONS].float().log_softmax(-1)
        total -= float(rows.gather(1, targets[start : start + _POSITIONS, None]).double().sum())
    return total / len(targets)


def _mean_kl(base: "torch.Tensor", logits: "torch.Tensor") -> float:
    r"""Mean over positions of :math:`\sum_v p_b(v) (\log p_b(v) - \log p(v))`."""
    total = 0.0
    for start in range(0, len(logits), _POSITIONS):
        ours = logits[start : start + _POSITIONS].float().log_softmax(-1)
        theirs = base[start : start + _POSITIONS].to(logits.device).float().log_softmax(-1)
        total += float((theirs.exp() * (theirs - ours)).double().sum())
    return total / len(logits)
