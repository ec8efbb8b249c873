"""The distribution of answers: from hidden states to tokens, log-probabilities and entropies under a grammar.

Where the answer is constrained, only the columns of the identifiers are computed; where it is free, the whole
vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexrec.errors import InputError
from flexrec.policy.grammar import Constraints, Cursor, Grammar, Kind

FREE_AT_ONCE = 2**26
"""Most logits of free positions that are held at once: 256 MiB in float32, and a few times as much around them."""


def output_matrix(model: Any) -> nn.Linear:
    """The output matrix of a causal language model, looking through a PEFT wrapper.

    Where the answer is constrained, single columns are read from its weights: the logits have to be the last hidden
    state times this matrix, and nothing else.

    Raises:
        InputError: There is no such matrix, an adapter or another module stands in its place (LoRA on it, a trained
            copy of it), or the model changes its logits afterwards.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1.0):
            raise InputError(
                f"models with `{name}` are not supported: their logits are changed after the output matrix. "
                "Take a base model without it"
            )
    head = base.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(base).__name__} has no output matrix: a causal language model is needed")
    # the adapters of PEFT, quantised layers and parametrised ones are of other types
    if type(head) is not nn.Linear:
        name = next(name for name, module in base.named_modules() if module is head)
        kind = type(head)
        raise InputError(
            f"the output matrix `{name}` is not a plain torch.nn.Linear but {kind.__module__}.{kind.__qualname__}. "
            "Log-probabilities are read from its weights, so that an adapter there would neither count nor be "
            f"trained: leave `{name}` out of the adapter's `targets` (and PEFT's `modules_to_save`)"
        )
    return head


@dataclass(frozen=True)
class Rollouts:
    """Sampled answers.

    Attributes:
        completions: Token ids of each answer, prompts outermost, rollouts within.
        log_probabilities: Of each token under the sampling distribution; 0 for forced tokens.
    """

    completions: list[list[int]]
    log_probabilities: list[list[float]]


def token_values(
    head: Any,
    hidden: Float[Tensor, "N T d"],
    completions: Int[Tensor, "N T"],
    constraints: Constraints,
    grammar: Grammar,
    temperature: float,
    *,
    entropies: bool = True,
) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"] | None]:
    """Log-probability and entropy of every token of given answers.

    Args:
        head: The output matrix, as a module.
        hidden: For every token the state that predicts it.
        completions: Answer tokens, padded on the right.
        constraints: What the grammar allows at every position (`follow`).
        grammar: The form of the answers.
        temperature: Of the distribution, > 0.
        entropies: Whether entropies are wanted.

    Returns:
        In nats; 0 at forced positions and at padding.
    """
    device = completions.device
    kind = torch.as_tensor(constraints.kind, device=device)
    values = torch.zeros(completions.shape, device=device)
    spreads = torch.zeros(completions.shape, device=device) if entropies else None
    for wanted in (Kind.CHOICE, Kind.FREE):
        at = kind == int(wanted)
        if not at.any():
            continue
        if wanted is Kind.CHOICE:
            columns = torch.tensor(grammar.choices, device=device)
            allowed = torch.as_tensor(constraints.allowed, device=device)[at]
            table = _log_softmax(_choice_logits(head, hidden[at], columns), allowed, temperature)
            found = _read(table, torch.searchsorted(columns, completions[at]), entropies)
        else:
            found = _free_values(head, hidden[at], completions[at], grammar, temperature, entropies)
        values = values.masked_scatter(at, found[0])
        if spreads is not None:
            spreads = spreads.masked_scatter(at, found[1])
    return values, spreads


def _read(table: Float[Tensor, "n C"], target: Int[Tensor, " n"], entropies: bool) -> tuple[Float[Tensor, " n"], ...]:
    """Of each row of log-probabilities the one at `target`, and its entropy if asked for."""
    values = table.gather(1, target[:, None])[:, 0]
    return (values, _entropy(table)) if entropies else (values,)


def _free_values(
    head: Any,
    hidden: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    grammar: Grammar,
    temperature: float,
    entropies: bool,
) -> tuple[Float[Tensor, " n"], ...]:
    """What `_read` finds at free positions, never with more than `FREE_AT_ONCE` logits at once.

    Every position has those of the whole vocabulary: 256 answers with 128 tokens of reasoning have 5e9 of Qwen's.
    """

    def compute(hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return _read(_log_softmax(_free_logits(head, hidden, grammar), None, temperature), target, entropies)

    size = max(1, FREE_AT_ONCE // len(head.weight))
    if len(hidden) <= size:
        return compute(hidden, target)
    run: Callable[[Tensor, Tensor], tuple[Tensor, ...]] = compute
    if torch.is_grad_enabled():
        from torch.utils.checkpoint import checkpoint

        # a graph would keep all the tables; nothing in them is random
        run = partial(checkpoint, compute, use_reentrant=False, preserve_rng_state=False)
    pieces = [run(*piece) for piece in zip(hidden.split(size), target.split(size), strict=True)]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


Draw = Callable[[Tensor, torch.Generator], Tensor]
"""One column of each row of probabilities."""


class Writer:
    """Answers in the making: what has been written, and what may come next.

    Args:
        grammar: The form of the answers.
        count: N, how many are written side by side.
    """

    def __init__(self, grammar: Grammar, count: int) -> None:
        self._grammar = grammar
        self._cursors = [Cursor(grammar) for _ in range(count)]
        self.completions: list[list[int]] = [[] for _ in range(count)]
        self.log_probabilities: list[list[float]] = [[] for _ in range(count)]
        self._step = 0

    def choose(self, head: Any, hidden: Float[Tensor, "N d"], temperature: float, generator: torch.Generator) -> None:
        """Write the next token of every answer that has not ended.

        Args:
            head: The output matrix, as a module.
            hidden: For every answer the state that predicts its next token.
            temperature: 0 takes the most probable token.
            generator: Of the sampling, on the CPU.
        """
        grammar = self._grammar
        rows: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for row, cursor in enumerate(self._cursors):
            rows[cursor.kind].append(row)
        for row in rows[Kind.FORCED]:
            token = self._cursors[row].token
            assert token is not None
            self._write(row, token, 0.0)
        if choice := rows[Kind.CHOICE]:
            columns = torch.tensor(grammar.choices, device=hidden.device)
            masks = [mask for row in choice if (mask := self._cursors[row].allowed) is not None]
            allowed = torch.as_tensor(np.stack(masks), device=hidden.device)
            table = _log_softmax(_choice_logits(head, hidden[choice], columns), allowed, temperature or 1.0)
            for row, pick, value in zip(choice, *_pick(table, temperature, generator), strict=True):
                self._write(row, grammar.choices[pick], value)
        if free := rows[Kind.FREE]:
            table = _log_softmax(_free_logits(head, hidden[free], grammar), None, temperature or 1.0)
            for row, pick, value in zip(free, *_pick(table, temperature, generator, draw=drawn_from_many), strict=True):
                self._write(row, pick, value)
        self._step += 1

    def finished(self) -> bool:
        """Whether every answer is complete; writes what has become certain: the last identifier and closing tags."""
        # a choice that is not certain may still follow
        if any(cursor.kind is not Kind.DONE and cursor.choices_left > 1 for cursor in self._cursors):
            return False
        for row, cursor in enumerate(self._cursors):
            while cursor.kind is not Kind.DONE:
                token = cursor.token
                if cursor.kind is Kind.CHOICE:
                    assert cursor.allowed is not None
                    token = self._grammar.choices[int(cursor.allowed.argmax())]
                assert token is not None
                self._write(row, token, 0.0)
        return True

    def newest(self, pad_token: int) -> list[int]:
        """The token just written to each answer; `pad_token` where one has ended."""
        return [answer[self._step - 1] if self._step <= len(answer) else pad_token for answer in self.completions]

    def _write(self, row: int, token: int, log_probability: float) -> None:
        self.completions[row].append(token)
        self.log_probabilities[row].append(log_probability)
        self._cursors[row].advance(token)


def _choice_logits(head: Any, hidden: Float[Tensor, "n d"], columns: Int[Tensor, " C"]) -> Float[Tensor, "n C"]:
    logits = hidden.float() @ head.weight[columns].float().T
    return logits if head.bias is None else logits + head.bias[columns].float()


def _free_logits(head: Any, hidden: Float[Tensor, "n d"], grammar: Grammar) -> Float[Tensor, "n V"]:
    logits = head(hidden).float()
    if grammar.constrained:
        # a constrained answer ends by its form; ending inside the reasoning is not one of its outcomes
        logits[:, grammar.end_token] = -torch.inf
    return logits


def _log_softmax(
    logits: Float[Tensor, "n C"], allowed: Bool[Tensor, "n C"] | None, temperature: float
) -> Float[Tensor, "n C"]:
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return torch.log_softmax(logits / temperature, dim=-1)


def _entropy(log_probabilities: Float[Tensor, "n C"]) -> Float[Tensor, " n"]:
    finite = log_probabilities.masked_fill(log_probabilities == -torch.inf, 0.0)
    return -(finite.exp() * finite * (log_probabilities > -torch.inf)).sum(-1)


def _pick(
    table: Float[Tensor, "n C"], temperature: float, generator: torch.Generator, draw: Draw | None = None
) -> tuple[list[int], list[float]]:
    if not bool(table.amax(-1).isfinite().all()):
        raise InputError(
            "the model's logits are no numbers: its weights are damaged, or were trained at too high a learning rate"
        )
    if temperature == 0:
        picks = table.argmax(-1, keepdim=True)
    else:
        picks = (draw or _drawn)(table.exp().cpu(), generator).to(table.device)
    return picks[:, 0].tolist(), table.gather(1, picks)[:, 0].tolist()


def _drawn(probabilities: Float[Tensor, "n C"], generator: torch.Generator) -> Int[Tensor, "n 1"]:
    return torch.multinomial(probabilities, 1, generator=generator)


def drawn_from_many(probabilities: Float[Tensor, "n C"], generator: torch.Generator) -> Int[Tensor, "n 1"]:
    """One draw from each row by its distribution function: one random number a row.

    `torch.multinomial` takes one for every entry, which for a whole vocabulary is half of the time of a token.

    Args:
        probabilities: Rows that sum to about 1.
        generator: On the CPU.

    Returns:
        Columns; never one of probability 0.
    """
    below = probabilities.cumsum(-1)
    total = below[:, -1:]
    place = torch.rand(len(below), 1, generator=generator, dtype=below.dtype) * total
    # rounding may reach the total, behind which there is nothing
    place = torch.minimum(place, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(below, place, right=True)


def grouped(
    prompts: Sequence[Sequence[int]], known: Sequence[tuple[int, ...]] = ()
) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
    """Different prompts, and for each prompt which of them it is.

    They stand in the order of their first place; in that of `known` where they are the same prompts, for a trainer
    shuffles its rollouts between one reading and the next.
    """
    rows = [tuple(prompt) for prompt in prompts]
    order = tuple(known) if set(known) == set(rows) else tuple(dict.fromkeys(rows))
    places: dict[tuple[int, ...], int] = {}
    for place, prompt in enumerate(order):
        places.setdefault(prompt, place)
    return order, [places[prompt] for prompt in rows]


def unpadded(tokens: Int[Tensor, "N P"], mask: Int[Tensor, "N P"]) -> list[list[int]]:
    """Rows without their padding."""
    return [row[keep].tolist() for row, keep in zip(tokens, mask.bool(), strict=True)]


def pad_prompts(
    prompts: Sequence[Sequence[int]], pad_token: int, device: str | torch.device = "cpu"
) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    """Prompts as one tensor padded on the left, and its mask."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width), pad_token, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)
