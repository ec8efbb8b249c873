"""Exact shared-prompt scoring and sampling.

The rollouts of a group share their prompt. It is encoded once, and all rollouts of the group are put behind it as one
sequence: a mask lets every rollout see the prompt and itself, and positions count from the end of the prompt for each.
That gives the same log-probabilities and gradients as encoding the prompt for every rollout (Prefix Grouper, arXiv
2506.05433) at G(P+C)/(P+GC) of the tokens, on any Hugging Face decoder and without copying the prompt's cache G times.
Only the logits that are needed are computed: the columns of the identifiers where the answer is constrained, the whole
vocabulary where it is free.

Left out: gradient checkpointing (a cache cannot be checkpointed by Hugging Face's modules), and models whose logits
are capped or scaled after the output matrix, which are refused in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexrec.errors import InputError
from flexrec.policy.grammar import Constraints, Cursor, Grammar, Kind


@dataclass(frozen=True)
class Rollouts:
    """Sampled answers.

    Attributes:
        completions: Token ids of each answer, prompts outermost, rollouts within.
        log_probabilities: Of each token under the sampling distribution; 0 for forced tokens.
    """

    completions: list[list[int]]
    log_probabilities: list[list[float]]


@dataclass(frozen=True)
class _Encoded:
    """Prompts after their forward pass; `cache` grows with every continuation."""

    cache: Any
    last: Float[Tensor, "B d"]
    mask: Int[Tensor, "B P"]
    lengths: Int[Tensor, " B"]


def _parts(model: Any) -> tuple[Any, Any]:
    """Decoder and output matrix of a causal language model, looking through a PEFT wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(base.config, name, None) not in (None, 1.0):
            raise InputError(
                f"models with `{name}` are not supported: their logits are changed after the output matrix"
            )
    if any(kind != "full_attention" for kind in getattr(base.config, "layer_types", None) or ()):
        raise InputError("models with sliding-window layers are not supported by the shared-prompt engine")
    return base.get_decoder(), base.get_output_embeddings()


def _encode(model: Any, prompts: Int[Tensor, "B P"], mask: Int[Tensor, "B P"]) -> _Encoded:
    from transformers import DynamicCache

    decoder, _ = _parts(model)
    cache = DynamicCache(config=decoder.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = decoder(
        input_ids=prompts, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    # prompts are padded on the left, so the last column is the last token of every prompt
    return _Encoded(cache, output.last_hidden_state[:, -1], mask, mask.sum(1))


def _continue(
    model: Any,
    encoded: _Encoded,
    tokens: Int[Tensor, "B t"],
    positions: Int[Tensor, "B t"],
    visible: Bool[Tensor, "t seen"],
) -> Float[Tensor, "B t d"]:
    """Put tokens behind the prompts and what has been put there before.

    Args:
        model: The model.
        encoded: The prompts.
        tokens: Tokens of all rollouts of each prompt.
        positions: Position of each within its own rollout, from 0.
        visible: Which of the tokens behind the prompt (earlier ones and these) each token may see.
    """
    decoder, _ = _parts(model)
    batch, width = tokens.shape
    prompt = encoded.mask[:, None, None, :].bool().expand(batch, 1, width, -1)
    mask = torch.cat([prompt, visible.to(tokens.device).expand(batch, 1, *visible.shape)], -1)
    if decoder.config._attn_implementation != "sdpa":
        raise InputError("the shared-prompt engine needs a model loaded with attn_implementation='sdpa'")
    return decoder(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=encoded.lengths[:, None] + positions,
        past_key_values=encoded.cache,
        use_cache=True,
    ).last_hidden_state


def _choice_logits(model: Any, hidden: Float[Tensor, "n d"], columns: Int[Tensor, " C"]) -> Float[Tensor, "n C"]:
    _, head = _parts(model)
    logits = hidden.float() @ head.weight[columns].float().T
    return logits if head.bias is None else logits + head.bias[columns].float()


def _free_logits(model: Any, hidden: Float[Tensor, "n d"], grammar: Grammar) -> Float[Tensor, "n V"]:
    _, head = _parts(model)
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


def score(
    model: Any,
    prompts: Int[Tensor, "N P"],
    prompt_mask: Int[Tensor, "N P"],
    completions: Int[Tensor, "N T"],
    constraints: Constraints,
    grammar: Grammar,
    *,
    temperature: float = 1.0,
    share_prompts: bool = True,
) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
    """Log-probability and entropy of every token of given answers, with gradients.

    Args:
        model: A causal language model, or a PEFT model around one.
        prompts: Prompt tokens, padded on the left. Equal rows are encoded once.
        prompt_mask: 1 at tokens, 0 at padding.
        completions: Answer tokens, padded on the right.
        constraints: What the grammar allows at every position (`follow`).
        grammar: The form of the answers.
        temperature: Of the distribution that the answers were sampled from, > 0.
        share_prompts: False encodes the prompt of every row by itself: the plain computation, an oracle in tests.

    Returns:
        Log-probabilities and entropies in nats; 0 at forced positions and at padding.
    """
    device = completions.device
    length = completions.shape[1]
    if share_prompts:
        unique, group = torch.unique(torch.cat([prompt_mask, prompts], 1), dim=0, return_inverse=True)
        shared_mask, shared_prompts = unique.split(prompts.shape[1], dim=1)
    else:
        shared_prompts, shared_mask = prompts, prompt_mask
        group = torch.arange(len(prompts), device=device)
    encoded = _encode(model, shared_prompts, shared_mask)
    hidden = encoded.last[group][:, None]
    if length > 1:
        slot, slots = _slots(group)
        # unused slots hold padding, seen by nobody
        packed = completions.new_zeros(len(shared_prompts), slots, length - 1)
        packed[group, slot] = completions[:, :-1]
        own = torch.arange(slots).repeat_interleave(length - 1)
        position = torch.arange(length - 1).repeat(slots)
        # tokens after the end of an answer are seen by nobody before it, so padding needs no mask of its own
        visible = (own[:, None] == own) & (position[:, None] >= position)
        rest = _continue(model, encoded, packed.flatten(1), position.to(device).expand(len(packed), -1), visible)
        hidden = torch.cat([hidden, rest.unflatten(1, (slots, length - 1))[group, slot]], 1)

    kind = torch.as_tensor(constraints.kind, device=device)
    logps = torch.zeros(completions.shape, device=device)
    entropies = torch.zeros(completions.shape, device=device)
    choice = kind == int(Kind.CHOICE)
    if choice.any():
        columns = torch.tensor(grammar.choices, device=device)
        allowed = torch.as_tensor(constraints.allowed, device=device)[choice]
        table = _log_softmax(_choice_logits(model, hidden[choice], columns), allowed, temperature)
        target = torch.searchsorted(columns, completions[choice])
        logps = logps.masked_scatter(choice, table.gather(1, target[:, None])[:, 0])
        entropies = entropies.masked_scatter(choice, _entropy(table))
    free = kind == int(Kind.FREE)
    if free.any():
        table = _log_softmax(_free_logits(model, hidden[free], grammar), None, temperature)
        logps = logps.masked_scatter(free, table.gather(1, completions[free][:, None])[:, 0])
        entropies = entropies.masked_scatter(free, _entropy(table))
    return logps, entropies


def _slots(group: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], int]:
    """A place for every row among the rows of its group, and the size of the largest group."""
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group)
    starts = sizes.cumsum(0) - sizes
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), device=group.device) - starts[group[order]]
    return slot, int(sizes.max())


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


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    grammar: Grammar,
    *,
    rollouts: int,
    temperature: float,
    seed: int,
    pad_token: int,
) -> Rollouts:
    """Sample answers, encoding each prompt once.

    Args:
        model: A causal language model, or a PEFT model around one.
        prompts: B token sequences.
        grammar: The form of the answers.
        rollouts: G answers per prompt.
        temperature: 0 takes the most probable token at every position (greedy; `rollouts` is then 1).
        seed: Seed of the sampling.
        pad_token: Any token, for padding.

    Returns:
        B*G answers.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    tokens, mask = pad_prompts(prompts, pad_token, device)
    encoded = _encode(model, tokens, mask)
    hidden = encoded.last.repeat_interleave(rollouts, 0)
    cursors = [Cursor(grammar) for _ in range(len(prompts) * rollouts)]
    completions: list[list[int]] = [[] for _ in cursors]
    log_probabilities: list[list[float]] = [[] for _ in cursors]
    own = torch.eye(rollouts, dtype=torch.bool)
    step = 0
    while True:
        chosen = _choose(model, hidden, cursors, grammar, temperature, generator)
        for row, (token, value) in chosen.items():
            completions[row].append(token)
            log_probabilities[row].append(value)
            cursors[row].advance(token)
        _finish_certain(cursors, completions, log_probabilities, grammar)
        if all(cursor.kind is Kind.DONE for cursor in cursors):
            break
        # rows that have ended are fed padding, which nobody reads
        fed = torch.tensor([answer[step] if step < len(answer) else pad_token for answer in completions])
        fed = fed.reshape(len(prompts), rollouts).to(device)
        hidden = _continue(model, encoded, fed, torch.full_like(fed, step), own.repeat(1, step + 1)).flatten(0, 1)
        step += 1
    model.train(training)
    return Rollouts(completions, log_probabilities)


def _choose(
    model: Any,
    hidden: Float[Tensor, "N d"],
    cursors: Sequence[Cursor],
    grammar: Grammar,
    temperature: float,
    generator: torch.Generator,
) -> dict[int, tuple[int, float]]:
    """Token and log-probability for every row that is not done."""
    chosen: dict[int, tuple[int, float]] = {}
    choice = [row for row, cursor in enumerate(cursors) if cursor.kind is Kind.CHOICE]
    free = [row for row, cursor in enumerate(cursors) if cursor.kind is Kind.FREE]
    for row, cursor in enumerate(cursors):
        if cursor.kind is Kind.FORCED:
            assert cursor.token is not None
            chosen[row] = (cursor.token, 0.0)
    if choice:
        columns = torch.tensor(grammar.choices, device=hidden.device)
        masks = [mask for row in choice if (mask := cursors[row].allowed) is not None]
        allowed = torch.as_tensor(np.stack(masks), device=hidden.device)
        table = _log_softmax(_choice_logits(model, hidden[choice], columns), allowed, temperature or 1.0)
        picks, values = _pick(table, temperature, generator)
        chosen |= {row: (grammar.choices[pick], value) for row, pick, value in zip(choice, picks, values, strict=True)}
    if free:
        table = _log_softmax(_free_logits(model, hidden[free], grammar), None, temperature or 1.0)
        picks, values = _pick(table, temperature, generator)
        chosen |= {row: (pick, value) for row, pick, value in zip(free, picks, values, strict=True)}
    return chosen


def _pick(table: Float[Tensor, "n C"], temperature: float, generator: torch.Generator) -> tuple[list[int], list[float]]:
    if temperature == 0:
        picks = table.argmax(-1, keepdim=True)
    else:
        picks = torch.multinomial(table.exp().cpu(), 1, generator=generator).to(table.device)
    return picks[:, 0].tolist(), table.gather(1, picks)[:, 0].tolist()


def _finish_certain(
    cursors: Sequence[Cursor],
    completions: list[list[int]],
    log_probabilities: list[list[float]],
    grammar: Grammar,
) -> None:
    """Write the rest of answers that have only certain tokens left: the last identifier and the closing tags."""
    if any(_uncertain(cursor) for cursor in cursors):
        return
    for row, cursor in enumerate(cursors):
        while cursor.kind is not Kind.DONE:
            if cursor.kind is Kind.FORCED:
                assert cursor.token is not None
                token = cursor.token
            else:
                assert cursor.allowed is not None
                token = grammar.choices[int(cursor.allowed.argmax())]
            completions[row].append(token)
            log_probabilities[row].append(0.0)
            cursor.advance(token)


def _uncertain(cursor: Cursor) -> bool:
    """Whether a choice that is not certain may still follow."""
    return cursor.kind is not Kind.DONE and cursor.choices_left > 1
