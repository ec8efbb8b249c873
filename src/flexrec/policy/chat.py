"""A language model behind an OpenAI-compatible chat endpoint as a ranker, zero-shot.

It reads the same messages as the local policy, and what it writes is read as a free local answer is. Every answer is
paid for once: it is kept in a file as soon as it is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, RootModel, field_validator, model_validator

from flexrec.endpoints import DigestCache, EndpointSettings, Pace, find_key, open_client, refused
from flexrec.errors import InputError
from flexrec.policy.ranker import Answer, Query
from flexrec.progress import emit, track
from flexrec.prompting import PromptSettings, build_messages, parse_answer

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

Message = dict[str, str]

_CHARACTERS_PER_TOKEN = 4  # of English; for the estimate before anything is asked
FILTERED = "content_filter"
"""Why an answer has no text where the endpoint's filter refuses a prompt, as OpenAI and Azure call it."""

_OWN_FIELDS = frozenset({"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "stream"})


class ChatSettings(EndpointSettings):
    """A chat endpoint, and how it is asked."""

    temperature: float | None = Field(
        default=0.0, ge=0, le=2, description="None: not sent, for models that refuse to be told."
    )
    max_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer; longer ones are cut and counted.")
    token_limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="Name of that limit in the request; newer models of OpenAI want the second."
    )
    extra: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Further fields of the request, for instance {seed: 0}."
    )
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Repeated requests count; None: no limit."
    )
    concurrency: int = Field(default=4, ge=1, le=64, description="Most requests at the same time.")
    price_per_million_input_tokens: float | None = Field(default=None, ge=0, description="In your currency.")
    price_per_million_output_tokens: float | None = Field(default=None, ge=0, description="In your currency.")
    cache: Path = Field(
        default=Path("data/06_models/chat_cache.sqlite"), description="File that keeps what was answered."
    )

    @field_validator("extra")
    @classmethod
    def _nothing_twice(cls, value: dict[str, Any]) -> dict[str, Any]:
        if known := sorted(_OWN_FIELDS & value.keys()):
            raise ValueError(f"{', '.join(known)}: set by the fields of the entry, or not to be changed")
        return value

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.price_per_million_input_tokens is None) != (self.price_per_million_output_tokens is None):
            raise ValueError("give the prices of input and output tokens, or neither")
        return self

    def price(self, input_tokens: int, output_tokens: int) -> float | None:
        """What so many tokens cost; None where the entry has no prices."""
        if self.price_per_million_input_tokens is None or self.price_per_million_output_tokens is None:
            return None
        return (
            input_tokens * self.price_per_million_input_tokens + output_tokens * self.price_per_million_output_tokens
        ) / 1e6


class Chats(RootModel[dict[str, ChatSettings]]):
    """The table of chat endpoints, by name."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered."""

    text: str
    finish: str
    """Why it ended, in the endpoint's words: `stop`, `length`, ..."""
    input_tokens: int | None
    """As billed; None where the endpoint does not say."""
    output_tokens: int | None


class ChatRanker:
    """Ranks as `flexrec.policy.ranker.Ranker` does, by asking an endpoint.

    Args:
        settings: The endpoint.
        prompting: Layout of the prompt.
    """

    def __init__(self, settings: ChatSettings, prompting: PromptSettings) -> None:
        self.settings = settings
        self.prompting = prompting
        self._replies: dict[str, Reply] = {}
        self._rounds = 0

    def rank(self, queries: Sequence[Query], *, description: str = "ranking") -> list[Answer]:
        """The endpoint's rankings, in the order of the queries.

        Candidates that an answer does not name are left out of `order`; `ranks` is empty, for tokens stay with the
        endpoint.

        Raises:
            InputError: No key, no client installed, an endpoint that refuses or stays away, or an answer that is no
                chat completion. What was answered before is kept.
        """
        asked = [build_messages(query.instance, query.need, self.prompting) for query in queries]
        answers = []
        for query, reply in zip(queries, self.ask(asked, description=description), strict=True):
            parsed = parse_answer(reply.text, len(query.instance.candidates), self.prompting)
            answers.append(Answer(tuple(parsed.order), (), parsed.invalid, parsed.repeated, parsed.missing))
        return answers

    def ask(self, asked: Sequence[Sequence[Message]], *, description: str = "asking") -> list[Reply]:
        """The endpoint's answers to chat messages, in the order given; equal messages are asked once.

        Raises:
            InputError: As for `rank`.
        """
        digests = [_digest(messages, self.settings) for messages in asked]
        by_digest = dict(zip(digests, asked, strict=True))
        with closing(DigestCache(self.settings.cache, table="replies", column="reply", holds="chat answers")) as cache:
            replies = {digest: Reply(**json.loads(data)) for digest, data in cache.get(by_digest).items()}
            missing = {digest: messages for digest, messages in by_digest.items() if digest not in replies}
            fresh = self._ask_endpoint(missing, cache, description) if missing else {}
        replies |= fresh
        self._replies |= replies
        self._tell(replies, fresh)
        return [replies[digest] for digest in digests]

    def costs(self) -> dict[str, float]:
        """What the answers given so far cost, whether they were paid for now or earlier.

        Returns:
            `answers`, `input_tokens`, `output_tokens`; `price` where the entry has prices; `cut` (answers that ended
            at the limit of tokens), `empty` (without any text), `not_billed` (answers whose tokens the endpoint does
            not tell, counted as 0).
        """
        return _costs(self._replies.values(), self.settings)

    def _tell(self, replies: Mapping[str, Reply], fresh: Mapping[str, Reply]) -> None:
        new = _costs(fresh.values(), self.settings)
        price = f", price {new['price']:.4f}" if "price" in new else ""
        logger.info(
            "%s: %d prompts, %d of them new: %d tokens read and %d written%s",
            self.settings.model,
            len(replies),
            len(fresh),
            new["input_tokens"],
            new["output_tokens"],
            price,
        )
        for name, words in (
            ("cut", f"answers end at the limit of {self.settings.max_tokens} tokens; raise max_tokens"),
            ("empty", "answers are empty"),
            ("not_billed", "answers come without a count of tokens, which is taken as 0"),
        ):
            if count := int(_costs(replies.values(), self.settings)[name]):
                logger.warning("%s: %d of %d %s", self.settings.model, count, len(replies), words)
        emit("chat", self._rounds, {"prompts": len(replies), **{f"new_{name}": value for name, value in new.items()}})
        self._rounds += 1

    def _ask_endpoint(
        self, missing: Mapping[str, Sequence[Message]], cache: DigestCache, description: str
    ) -> dict[str, Reply]:
        """Ask for what is missing, several at a time; each answer is kept when it comes."""
        settings = self.settings
        characters = sum(len(message["content"]) for messages in missing.values() for message in messages)
        logger.info(
            "asking %s at %s for %d rankings, about %d tokens to read",
            settings.model,
            settings.base_url,
            len(missing),
            characters // _CHARACTERS_PER_TOKEN,
        )
        key = find_key(settings)
        pace = Pace(settings.requests_per_minute) if settings.requests_per_minute else None
        replies: dict[str, Reply] = {}
        failed: dict[str, InputError] = {}
        stopped = Event()

        def answer(client: OpenAI, messages: Sequence[Message]) -> Reply | None:
            # said where it happens: until it had reached this thread, the next ones would be asked and paid for
            if stopped.is_set():
                return None
            try:
                return _request(client, key, messages, settings)
            except InputError:
                stopped.set()
                raise

        with (
            open_client(key, settings, needed_by="chat endpoints", pace=pace) as client,
            ThreadPoolExecutor(settings.concurrency) as pool,
        ):
            futures = {pool.submit(answer, client, messages): digest for digest, messages in missing.items()}

            def keep(future: Future[Reply | None]) -> None:
                try:
                    reply = future.result()
                except InputError as error:
                    failed[futures[future]] = error
                    return
                if reply is not None:
                    cache.put({futures[future]: json.dumps(asdict(reply)).encode()})
                    replies[futures[future]] = reply

            try:
                # after a failure, too, those that are under way are waited for
                for future in track(as_completed(futures), description=description, total=len(futures)):
                    keep(future)
            except BaseException:
                # those that are under way will be paid for
                stopped.set()
                for future in as_completed(futures):
                    if futures[future] not in replies:
                        keep(future)
                raise
        if failed:
            raise next(failed[digest] for digest in missing if digest in failed)
        return replies


def costs_sentence(costs: Mapping[str, float]) -> str:
    """What `ChatRanker.costs` says, in words."""
    price = f", price {costs['price']:.4f}" if "price" in costs else ""
    trouble = [
        f"{costs[name]:.0f} {words}"
        for name, words in (("cut", "cut"), ("empty", "empty"), ("not_billed", "without a count of tokens"))
        if costs[name]
    ]
    return (
        f"{costs['answers']:.0f} answers, {costs['input_tokens']:.0f} tokens read and {costs['output_tokens']:.0f} "
        f"written{price}{'; of the answers, ' if trouble else ''}{', '.join(trouble)}."
    )


def _costs(replies: Iterable[Reply], settings: ChatSettings) -> dict[str, float]:
    given = list(replies)
    read, written = (sum(getattr(reply, name) or 0 for reply in given) for name in ("input_tokens", "output_tokens"))
    costs: dict[str, float] = {"answers": len(given), "input_tokens": read, "output_tokens": written}
    if (price := settings.price(read, written)) is not None:
        costs["price"] = price
    return costs | {
        "cut": sum(reply.finish == "length" for reply in given),
        "empty": sum(not reply.text.strip() for reply in given),
        "not_billed": sum(None in (reply.input_tokens, reply.output_tokens) for reply in given),
    }


def _options(settings: ChatSettings) -> dict[str, Any]:
    """What a request says beside its messages."""
    told: dict[str, Any] = {"model": settings.model, settings.token_limit: settings.max_tokens}
    if settings.temperature is not None:
        told["temperature"] = settings.temperature
    return told


def _digest(messages: Sequence[Message], settings: ChatSettings) -> str:
    made_by = [settings.base_url, _options(settings), settings.extra, list(messages)]
    return hashlib.sha256(json.dumps(made_by, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def _request(client: OpenAI, key: str, messages: Sequence[Message], settings: ChatSettings) -> Reply:
    from openai import OpenAIError

    other = InputError(
        f"{settings.base_url}, model {settings.model}: what was answered is no chat completion; look at base_url"
    )
    create: Any = client.chat.completions.create
    try:
        answer = create(messages=list(messages), extra_body=settings.extra or None, **_options(settings))
    except OpenAIError as error:
        if getattr(error, "code", None) == FILTERED:
            # of this prompt, for ever: an answer without text, and no reason to ask for no other
            return Reply(text="", finish=FILTERED, input_tokens=0, output_tokens=0)
        raise refused(error, key, settings, "answer") from None
    except ValueError:
        # no JSON
        raise other from None
    choices = getattr(answer, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if message is None:
        raise other
    # a gateway may say so of a model behind it, with status 200; it is no answer to be kept
    if getattr(first, "finish_reason", None) == "error" or getattr(first, "error", None):
        raise InputError(
            f"{settings.base_url}, model {settings.model}: the model behind the endpoint has failed; the same command "
            "asks for what is missing"
        )
    # a model may decline, or think until its tokens are used up: then there is no text
    text = getattr(message, "content", None)
    usage = getattr(answer, "usage", None)
    return Reply(
        text=text if isinstance(text, str) else "",
        finish=getattr(first, "finish_reason", None) or "",
        input_tokens=getattr(usage, "prompt_tokens", None),
        output_tokens=getattr(usage, "completion_tokens", None),
    )
