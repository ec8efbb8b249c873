"""A language model as a ranker: instance and need in, a ranking of the candidates out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flexrec.errors import InputError
from flexrec.policy.grammar import Grammar, closed_by, follow
from flexrec.policy.settings import DecodingSettings
from flexrec.progress import track
from flexrec.prompting import (
    PromptSettings,
    build_messages,
    control_tokens,
    identifier_tokens,
    identifiers,
    parse_answer,
    token_offsets,
    token_ranks,
)
from flexrec.ranking.instances import Instance
from flexrec.ranking.needs import Need

if TYPE_CHECKING:
    from flexrec.policy.distribution import Rollouts
    from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine

REASONING_END = "</think>"
ANSWER_START, ANSWER_END = "<answer>", "</answer>"


@dataclass(frozen=True)
class Answer:
    """What an answer says.

    Attributes:
        order: Candidates that it names, best first, by index; each at most once.
        ranks: For each token the 0-based rank of the item that it names, -1 for other tokens.
        invalid: Identifiers that are none of the candidates'.
        repeated: Identifiers named again.
        missing: Candidates not named.
        text: What was written, special tokens left out; of rankings only.
    """

    order: tuple[int, ...]
    ranks: tuple[int, ...]
    invalid: int = 0
    repeated: int = 0
    missing: int = 0
    text: str = ""


@dataclass(frozen=True)
class Query:
    """One ranking to be made: an instance under a need."""

    instance: Instance
    need: Need


class Ranker:
    """A policy with its tokenizer, prompt layout and decoding.

    Args:
        model: A causal language model or a PEFT model around one.
        tokenizer: Its tokenizer, with a chat template.
        prompting: Layout of the prompt.
        decoding: How answers are produced.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompting: PromptSettings, decoding: DecodingSettings | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        tokens = (*prompting.special_tokens, *control_tokens(tokenizer))
        self.prompting = prompting.model_copy(update={"special_tokens": tuple(dict.fromkeys(tokens))})
        self.decoding = decoding or DecodingSettings()
        self._grammars: dict[int, Grammar] = {}
        self._engine: SharedPromptEngine | ReplicatedEngine | None = None

    def engine(self, *, remember: bool = False, checkpointing: bool = False) -> "SharedPromptEngine | ReplicatedEngine":
        """A new engine around the model: what samples answers and scores them."""
        from flexrec.policy.engine import make_engine

        pad_token = self.tokenizer.pad_token_id
        return make_engine(self.decoding.engine, self.model, pad_token, remember=remember, checkpointing=checkpointing)

    def prompt(self, query: Query) -> list[int]:
        """Token ids of the prompt, up to the place where the answer begins."""
        messages = build_messages(query.instance, query.need, self.prompting)
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        limit = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        room, setting = self.decoding.max_answer_tokens, "`decoding.max_answer_tokens`"
        if self.decoding.constrained:
            room, setting = 4 * len(query.instance.candidates), ""
            if self.prompting.reasoning:
                # and the tags
                room += self.decoding.max_reasoning_tokens + 16
                setting = "`decoding.max_reasoning_tokens`"
        if limit is not None and len(ids) + room > limit:
            raise InputError(
                f"instance {query.instance.instance_id}: its prompt has {len(ids)} tokens, {room} are kept for the "
                f"answer, and the model reads {limit}. Lower `candidates`, or `prompt.max_history`, "
                f"`prompt.max_title_chars` or `prompt.max_query_chars`{setting and f', or {setting}'}."
            )
        return list(ids)

    def grammar(self, count: int) -> Grammar:
        """The form of an answer that ranks `count` candidates."""
        if count not in self._grammars:
            self._grammars[count] = self._make_grammar(count)
        return self._grammars[count]

    def _make_grammar(self, count: int) -> Grammar:
        tokenizer, reasoning = self.tokenizer, self.prompting.reasoning
        sequences: tuple[tuple[int, ...], ...]
        if self.prompting.identifiers == "letters":
            sequences = tuple((token,) for token in identifier_tokens(tokenizer, "letters", count))
        else:
            # a comma ends every number, so that no number begins another
            sequences = tuple(tuple(self._encode(f"{name},")) for name in identifiers("numbers", count))
        constrained = self.decoding.constrained

        return Grammar(
            identifiers=sequences,
            constrained=constrained,
            end_token=tokenizer.eos_token_id,
            max_length=self.decoding.max_answer_tokens,
            opening=tuple(self._encode(ANSWER_START)) if reasoning else (),
            closing=tuple(self._encode(ANSWER_END)) if reasoning else (),
            reasoning_closed=closed_by(REASONING_END, tokenizer.decode) if reasoning and constrained else None,
            reasoning_end=tuple(self._encode(REASONING_END)),
            max_reasoning=self.decoding.max_reasoning_tokens,
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def sample(
        self, prompts: Sequence[Sequence[int]], count: int, *, rollouts: int, temperature: float, seed: int
    ) -> "Rollouts":
        """Sample `rollouts` answers per prompt; all prompts rank `count` candidates."""
        if self._engine is None:
            self._engine = self.engine()
        return self._engine.sample(prompts, self.grammar(count), rollouts=rollouts, temperature=temperature, seed=seed)

    def read(self, completion: Sequence[int], count: int) -> Answer:
        """What an answer says about `count` candidates."""
        if self.decoding.constrained:
            constraints, (order,) = follow(self.grammar(count), [completion], len(completion))
            return Answer(tuple(order), tuple(constraints.rank[0].tolist()), missing=count - len(order))
        text, offsets = token_offsets(self.tokenizer, [t for t in completion if t != self.tokenizer.eos_token_id])
        parsed = parse_answer(text, count, self.prompting)
        ranks = list(token_ranks(offsets, parsed))
        ranks += [-1] * (len(completion) - len(ranks))
        return Answer(tuple(parsed.order), tuple(ranks), parsed.invalid, parsed.repeated, parsed.missing)

    def text(self, completion: Sequence[int]) -> str:
        """What an answer says in words, special tokens left out."""
        text: str = self.tokenizer.decode(list(completion), skip_special_tokens=True)
        return text

    def rank(self, queries: Sequence[Query], *, description: str = "ranking") -> list[Answer]:
        """Greedy rankings, prompts batched.

        Candidates that an answer does not name are left out of `order`; `flexrec.prompting.complete_order` adds them
        by the caller's rule.
        """
        answers: list[Answer | None] = [None] * len(queries)
        by_count: dict[int, list[int]] = {}
        for index, query in enumerate(queries):
            by_count.setdefault(len(query.instance.candidates), []).append(index)
        size = self.decoding.prompts_per_batch
        batches = [
            (count, rows[start : start + size])
            for count, rows in sorted(by_count.items())
            for start in range(0, len(rows), size)
        ]
        for count, rows in track(batches, description=description):
            prompts = [self.prompt(queries[row]) for row in rows]
            sampled = self.sample(prompts, count, rollouts=1, temperature=0.0, seed=0)
            for row, completion in zip(rows, sampled.completions, strict=True):
                answers[row] = replace(self.read(completion, count), text=self.text(completion))
        return [answer for answer in answers if answer is not None]
