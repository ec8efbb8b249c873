"""A language model as a rewriter: a request in, another query out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flexrec.errors import InputError
from flexrec.policy.grammar import Grammar
from flexrec.policy.settings import DecodingSettings
from flexrec.progress import track
from flexrec.prompting import control_tokens
from flexrec.rewriting.prompts import Shown, parse_rewrite, rewrite_messages
from flexrec.rewriting.settings import RewritePromptSettings

if TYPE_CHECKING:
    from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine


class Rewriter:
    """A policy with its tokenizer, prompt and form of answers.

    Args:
        model: A causal language model or a PEFT model around one.
        tokenizer: Its tokenizer, with a chat template.
        settings: Prompt and form of the answer.
        shown: What every prompt shows beside the request.
        items: What the dataset's items are called, plural.
        decoding: Which engine, and how many prompts at once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: RewritePromptSettings,
        *,
        shown: Shown,
        items: str,
        decoding: DecodingSettings | None = None,
    ) -> None:
        tokens = tuple(dict.fromkeys((*settings.special_tokens, *control_tokens(tokenizer))))
        self.model, self.tokenizer = model, tokenizer
        self.settings = settings.model_copy(update={"special_tokens": tokens})
        self.decoding = decoding or DecodingSettings()
        self._shown, self._items = shown, items
        end = tokenizer.eos_token_id
        # a free answer names no candidate; the grammar asks for one all the same
        self.grammar = Grammar(((end,),), constrained=False, end_token=end, max_length=settings.max_answer_tokens)

    def engine(self, *, remember: bool = False, checkpointing: bool = False) -> "SharedPromptEngine | ReplicatedEngine":
        """A new engine around the model: what samples answers and scores them."""
        from flexrec.policy.engine import make_engine

        pad_token = self.tokenizer.pad_token_id
        return make_engine(self.decoding.engine, self.model, pad_token, remember=remember, checkpointing=checkpointing)

    def prompt(self, query: str) -> list[int]:
        """Token ids of the prompt and the opening of the answer.

        Raises:
            InputError: It leaves the model no room for an answer.
        """
        messages = rewrite_messages(query, self._shown, self.settings, items=self._items)
        ids = list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        ids += self.tokenizer.encode(self.settings.opening, add_special_tokens=False)
        limit = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if limit is not None and len(ids) + self.settings.max_answer_tokens > limit:
            raise InputError(
                f"the prompt of the request {query[:40]!r} has {len(ids)} tokens and the model reads {limit}: lower "
                "`query_rewrite.prompt.max_answer_tokens`, `documents` or `examples`"
            )
        return ids

    def text(self, completion: Sequence[int]) -> str:
        """The whole answer as text, with its opening and without the token that ends it."""
        end = self.tokenizer.eos_token_id
        return self.settings.opening + self.tokenizer.decode([token for token in completion if token != end])

    def read(self, completion: Sequence[int]) -> str | None:
        """The query that an answer gives; None where its form is wrong."""
        return parse_rewrite(self.text(completion), self.settings)

    def rewrite(self, queries: Sequence[str], *, description: str = "rewriting") -> list[str | None]:
        """Greedy rewrites, prompts batched; None where the form is wrong."""
        engine, size = self.engine(), self.decoding.prompts_per_batch
        answers: list[str | None] = []
        for start in track(range(0, len(queries), size), description=description):
            prompts = [self.prompt(query) for query in queries[start : start + size]]
            sampled = engine.sample(prompts, self.grammar, rollouts=1, temperature=0.0, seed=0)
            answers += [self.read(completion) for completion in sampled.completions]
        return answers
