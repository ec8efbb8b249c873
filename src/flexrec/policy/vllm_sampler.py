"""vLLM as a generation backend: the same answers, from the same distribution, as the shared-prompt engine's.

The grammar of answers goes with every request, and a logits processor of ours (`flexrec.policy.vllm_processor`) applies
it inside vLLM. Every answer that comes back is walked again here, so that a server without the processor is noticed.
The engines are in `flexrec.policy.vllm_engines`: one in this process, or a `vllm serve` that is asked over HTTP.

Left out: several GPUs per engine, and vLLM's sleep mode.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flexrec.errors import InputError
from flexrec.policy.grammar import Cursor, Grammar, Kind, closed_by
from flexrec.policy.merged_weights import MergedWeights

if TYPE_CHECKING:
    from flexrec.policy.distribution import Rollouts

PROCESSOR = "flexrec.policy.vllm_processor:GrammarProcessor"
EXTENSION = "flexrec.policy.vllm_processor.WeightLoading"
GRAMMAR_ARGUMENT = "flexrec_grammar"
LOGPROBS_MODE = "processed_logprobs"


def write_grammar(grammar: Grammar) -> str:
    """A grammar as text that travels with a request."""
    return json.dumps(
        {
            "identifiers": grammar.identifiers,
            "end_token": grammar.end_token,
            "max_length": grammar.max_length,
            "opening": grammar.opening,
            "closing": grammar.closing,
            "reasoning": grammar.reasoning_closed is not None,
            "reasoning_end": grammar.reasoning_end,
            "max_reasoning": grammar.max_reasoning,
        },
        separators=(",", ":"),
    )


def read_grammar(text: str, tokenizer: Any) -> Grammar:
    """The constrained grammar that `write_grammar` wrote.

    Args:
        text: What it wrote.
        tokenizer: Decodes the reasoning, to see where it ends; None where that is not asked for.

    Raises:
        InputError: The text is no grammar.
    """
    try:
        value = json.loads(text)
        reasoning_end = tuple(value["reasoning_end"])
        closed: Callable[[Sequence[int]], bool] | None = None
        if value["reasoning"] and tokenizer is not None:
            closed = closed_by(tokenizer.decode(list(reasoning_end)), tokenizer.decode)
        return Grammar(
            identifiers=tuple(tuple(sequence) for sequence in value["identifiers"]),
            constrained=True,
            end_token=value["end_token"],
            max_length=value["max_length"],
            opening=tuple(value["opening"]),
            closing=tuple(value["closing"]),
            reasoning_closed=closed,
            reasoning_end=reasoning_end,
            max_reasoning=value["max_reasoning"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{GRAMMAR_ARGUMENT}` of a request is no grammar of flexrec: {error}") from error


@dataclass(frozen=True)
class Request:
    """One prompt and how to answer it.

    Attributes:
        prompt: Its tokens.
        count: Answers to sample.
        temperature: 0 for the most probable token at every position.
        seed: Of these answers.
        max_tokens: Most tokens to sample.
        end_token: Token that ends an answer.
        grammar: The form of a constrained answer; None for a free one.
    """

    prompt: list[int]
    count: int
    temperature: float
    seed: int
    max_tokens: int
    end_token: int
    grammar: str | None


Sampled = tuple[list[int], list[float]]
"""The tokens of one answer and their log-probabilities, the end token included where there is one."""


class Engine(Protocol):
    """A running vLLM."""

    def generate(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """The answers to each request."""
        ...

    def load(self, weights: MergedWeights) -> None:
        """Replace the model's weights; names as in its Hugging Face folder."""
        ...


class VllmSampler:
    """Samples rollouts with a running vLLM."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        grammar: Grammar,
        *,
        rollouts: int,
        temperature: float,
        seed: int,
    ) -> "Rollouts":
        """Sample answers.

        Args:
            prompts: B token sequences.
            grammar: The form of the answers.
            rollouts: G answers per prompt.
            temperature: 0 takes the most probable token at every position.
            seed: Seed of the sampling. The answers are those of this seed as long as vLLM batches the requests alike;
                a change in the last bits of a logit may change an answer.

        Returns:
            B*G answers, prompts outermost, with the log-probabilities of the constrained, temperature-scaled
            distribution that they were drawn from (of temperature 1 where it is 0); 0 for certain tokens.

        Raises:
            InputError: vLLM returned what the grammar does not allow.
        """
        from flexrec.policy.distribution import Rollouts

        text = write_grammar(grammar) if grammar.constrained else None
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts))
        # greedy answers to one prompt are all the same
        distinct = rollouts if temperature > 0 else 1
        requests = [
            Request(list(prompt), distinct, temperature, int(own), sampled_tokens(grammar), grammar.end_token, text)
            for prompt, own in zip(prompts, seeds, strict=True)
        ]
        answers = [
            complete_answer(grammar, *answer)
            for group in self._engine.generate(requests)
            for answer in (group if distinct == rollouts else group * rollouts)
        ]
        return Rollouts([tokens for tokens, _ in answers], [values for _, values in answers])

    def refresh(self, model: Any) -> None:
        """Give vLLM the weights of a model, adapters merged; what it had cached of prompts is forgotten."""
        self._engine.load(MergedWeights(model))


def sampled_tokens(grammar: Grammar) -> int:
    """Most tokens that have to be sampled: the last identifier and what closes an answer are certain."""
    if not grammar.constrained:
        return grammar.max_length
    # the shortest identifier may be the one that is left
    certain = len(grammar.closing) + min(len(sequence) for sequence in grammar.identifiers)
    return max(1, grammar.longest - certain)


def complete_answer(grammar: Grammar, tokens: Sequence[int], log_probabilities: Sequence[float]) -> Sampled:
    """Walk along a sampled answer and add the tokens that are certain.

    Args:
        grammar: The form of the answer.
        tokens: Sampled tokens.
        log_probabilities: Of each.

    Returns:
        The whole answer as `engine.sample` gives it.

    Raises:
        InputError: The grammar does not allow a token, or the answer stops before its rest is certain.
    """
    cursor = Cursor(grammar)
    answer: list[int] = []
    values: list[float] = []

    def put(token: int, value: float) -> None:
        answer.append(token)
        values.append(value)
        cursor.advance(token)

    for token, value in zip(tokens, log_probabilities, strict=True):
        if cursor.kind is Kind.DONE or cursor.choices_left <= 1:
            break
        if not _fits(cursor, grammar, token) or math.isnan(value):
            raise InputError(
                f"vLLM sampled token {token} (log-probability {value}) at position {len(answer)} of an answer, which "
                f"the grammar does not allow. Was it started with `--logits-processors {PROCESSOR}`?"
            )
        put(token, 0.0 if cursor.kind is Kind.FORCED else value)
    while cursor.kind is not Kind.DONE and cursor.choices_left <= 1:
        put(_certain_token(cursor, grammar), 0.0)
    if cursor.kind is not Kind.DONE:
        raise InputError(
            f"vLLM ended an answer after {len(answer)} tokens, before it named every candidate; the prompt and the "
            "answer may not fit into `max_model_length`"
        )
    return answer, values


def _fits(cursor: Cursor, grammar: Grammar, token: int) -> bool:
    if cursor.kind is Kind.FORCED:
        return token == cursor.token
    if cursor.allowed is not None:
        return token in grammar.column and bool(cursor.allowed[grammar.column[token]])
    return not (grammar.constrained and token == grammar.end_token)


def _certain_token(cursor: Cursor, grammar: Grammar) -> int:
    if cursor.allowed is not None:
        return grammar.choices[int(cursor.allowed.argmax())]
    assert cursor.token is not None
    return cursor.token
