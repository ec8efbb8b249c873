"""How a ranking instance is shown to a language model, as validated settings.

The layout decides whether a small model learns at all: it copies what follows a matched pattern, so the identifier
stands *after* the attributes of its candidate, and a count is also shown as a word by its rank within the list.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from flexrec.config import Settings
from flexrec.prompting.identifiers import IdentifierKind
from flexrec.prompting.templates import CONTROL_TOKENS, check_template, template_fields
from flexrec.ranking.instances import SHOWABLE

Words = TypeVar("Words", bound=tuple[str, ...])

LINE_FIELDS = ("title", "topics", "signals", "id")
HISTORY_FIELDS = ("title", "topics", "engagement")
NOUN_FIELDS = ("items", "Items")
REQUEST_FIELDS = ("count", "identifiers", *NOUN_FIELDS)
MESSAGE_FIELDS = ("instruction", "history", "candidates", "request", *REQUEST_FIELDS)
QUERY_FIELDS = ("instruction", "query", "candidates", "request", *REQUEST_FIELDS)


class _Display(Settings):
    template: str = Field(default="{value}", description="Text around the value, for instance `{value} watches`.")

    @field_validator("template")
    @classmethod
    def _plain(cls, template: str) -> str:
        return _one_line(
            check_template(template, name="display template", allowed=("value",), required=("value",)),
            "display template",
        )


class CountDisplay(_Display):
    """The value rounded to a whole number."""

    display: Literal["count"] = "count"


class PercentDisplay(_Display):
    """The value as a share of `whole`, in per cent."""

    display: Literal["percent"] = "percent"
    whole: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="The value that is 100%.")


class ScaleDisplay(_Display):
    """The value's place between the list's smallest, 0, and its largest, `steps`; 0 where all are equal."""

    display: Literal["scale"] = "scale"
    steps: int = Field(default=100, ge=1, le=10**6, description="The largest value's place.")


class WordDisplay(_Display):
    """A word by the value's rank within the list of candidates, so that it means the same at every request.

    Of K candidates, one with `m` others below it gets word number `floor(m * words / K)`: equal values share their
    word, and zeros, where there are many, share the lowest.
    """

    display: Literal["word"] = "word"
    words: tuple[str, ...] = Field(
        default=("lowest", "low", "medium", "high", "highest"), min_length=2, description="From low to high."
    )

    @field_validator("words")
    @classmethod
    def _different(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return _different_words(words)


class FlagDisplay(_Display):
    """One word for 0, the other for anything else."""

    display: Literal["flag"] = "flag"
    words: tuple[str, str] = Field(default=("no", "yes"), description="For 0, for 1.")

    @field_validator("words")
    @classmethod
    def _different(cls, words: tuple[str, str]) -> tuple[str, str]:
        return _different_words(words)


def _named(value: Any) -> Any:
    """`word` stands for `{display: word}`."""
    return {"display": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """A single display stands for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


Display = Annotated[
    Annotated[CountDisplay | PercentDisplay | ScaleDisplay | WordDisplay | FlagDisplay, Field(discriminator="display")],
    BeforeValidator(_named),
]
Displays = Annotated[tuple[Display, ...], BeforeValidator(_listed), Field(min_length=1)]


def _default_signals() -> dict[str, tuple[Display, ...]]:
    return {
        "similarity": (WordDisplay(words=("poor", "weak", "fair", "good", "perfect"), template="{value} match"),),
        "niche": (FlagDisplay(words=("usual kind", "new kind")),),
        "quality": (WordDisplay(words=("worst", "low", "middle", "high", "top"), template="{value} rated"),),
        "popularity": (WordDisplay(words=("unknown", "rare", "known", "popular", "famous")),),
        "trend": (
            CountDisplay(template="{value} recent"),
            WordDisplay(words=("cold", "cool", "mild", "warm", "hot")),
        ),
    }


def _showable(signals: dict[str, Displays]) -> dict[str, Displays]:
    for name in signals:
        if name == "engagement":
            raise ValueError("engagement is the label, unknown at request time: it cannot be shown")
        if name not in SHOWABLE:
            raise ValueError(f"unknown signal {name!r}; a prompt can show {', '.join(SHOWABLE)}")
    return signals


Shown = Annotated[dict[str, Displays], AfterValidator(_showable)]
"""Name of a signal to one display or several, in the order in which they are shown."""


class LayoutSettings(Settings):
    """One entry of `layouts`: which signals a prompt shows, and how; see `PromptSettings`."""

    signals: Shown
    signals_of_need: Shown = Field(default_factory=dict)


class PromptSettings(Settings):
    """Layout of the prompt and form of the answer.

    Templates take the fields named in their description and nothing else; literal braces are doubled. Everything that
    can be shown is known at request time: the signals of a candidate, never its engagement. An instance with a query
    is shown with `user_query`, one with a history with `user`.
    """

    items: str = Field(
        default="items", min_length=1, description="What the dataset's items are called, plural: {items} and {Items}."
    )
    identifiers: IdentifierKind = Field(
        default="letters", description="Names of the candidates: single-token letters (at most 52), or numbers."
    )
    line: str = Field(
        default="{title}, {topics}, {signals}: {id}",
        description="A candidate's line, with {id} once and {title}, {topics}, {signals} as wanted.",
    )
    history_line: str = Field(
        default="{title}, {topics}, engagement {engagement}",
        description="A history item's line: {title}, {topics}, {engagement}.",
    )
    signals: Shown = Field(
        default_factory=_default_signals,
        description="Which signals are shown, in this order, and how: name of the signal to one display or several.",
    )
    signals_of_need: Shown = Field(
        default_factory=dict,
        description="Which signals are shown behind those, but only where the need uses them: `predicted`, the "
        "critic's prediction of engagement, where it uses engagement.",
    )
    unavailable_signals: tuple[str, ...] = Field(
        default=(), description="Signals that the dataset does not have: never shown."
    )
    signals_separator: str = Field(default=", ", description="Between the displays of a line.")
    topics_separator: str = Field(default="/", description="Between the topics of an item.")
    no_topics: str = Field(default="no topic", description="Shown for an item without topics.")
    no_title: str = Field(default="untitled", description="Shown for an item whose title is empty.")
    no_history: str = Field(default="none", description="Shown for an empty history.")
    max_history: int = Field(default=10, ge=0, description="Most recent history items shown.")
    no_query: str = Field(default="none", description="Shown for a query without any character that can be shown.")
    max_title_chars: int = Field(default=60, ge=4, description="Titles and topics are cut to so many characters.")
    max_query_chars: int = Field(
        default=60, ge=4, description="The same for an instance with a query, the query itself included."
    )
    special_tokens: tuple[str, ...] = Field(
        default=CONTROL_TOKENS,
        description="Control tokens without angle brackets that must not come out of a title.",
    )
    system: str = Field(default="You rank items for a user.", description="System message; none where it is empty.")
    user: str = Field(
        default=(
            "The user's history, oldest first:\n{history}\n\nCandidates:\n{candidates}\n\n"
            "Task: {instruction}\n{request}"
        ),
        description="User message: {instruction} and {candidates}, with {history}, {request}, {count}, {identifiers}, "
        "{items}, {Items}.",
    )
    user_query: str = Field(
        default="The user searches for: {query}\n\nCandidates:\n{candidates}\n\nTask: {instruction}\n{request}",
        description="User message of an instance with a query: {query} in the place of {history}.",
    )
    reasoning: bool = Field(default=False, description="Whether the answer is <think>...</think><answer>...</answer>.")
    answer_request: str = Field(
        default="Answer with the {identifiers} of all {count} candidates, best first.",
        description="{request} without reasoning.",
    )
    reasoning_request: str = Field(
        default=(
            "Think between <think> and </think>. Then give the {identifiers} of all {count} candidates, best first, "
            "between <answer> and </answer>."
        ),
        description="{request} with reasoning.",
    )
    separator: str = Field(
        default=" ", min_length=1, description="Between the identifiers of an answer; no letter or digit."
    )

    @field_validator("line")
    @classmethod
    def _line(cls, line: str) -> str:
        check_template(line, name="line", allowed=LINE_FIELDS, required=("id",))
        if template_fields(line).count("id") != 1:
            raise ValueError(f"line {line!r}: the field {{id}} must be in it once")
        return _one_line(line, "line")

    @field_validator("history_line")
    @classmethod
    def _history_line(cls, line: str) -> str:
        return _one_line(check_template(line, name="history_line", allowed=HISTORY_FIELDS), "history_line")

    @field_validator("system")
    @classmethod
    def _system(cls, text: str) -> str:
        return check_template(text, name="system", allowed=MESSAGE_FIELDS)

    @field_validator("user")
    @classmethod
    def _user(cls, text: str) -> str:
        return check_template(text, name="user", allowed=MESSAGE_FIELDS, required=("instruction", "candidates"))

    @field_validator("user_query")
    @classmethod
    def _user_query(cls, text: str) -> str:
        return check_template(
            text, name="user_query", allowed=QUERY_FIELDS, required=("instruction", "query", "candidates")
        )

    @field_validator("items")
    @classmethod
    def _items(cls, items: str) -> str:
        return _one_line(items, "items")

    @field_validator("answer_request", "reasoning_request")
    @classmethod
    def _request(cls, text: str) -> str:
        return check_template(text, name="request", allowed=REQUEST_FIELDS)

    @field_validator("separator")
    @classmethod
    def _no_identifier(cls, separator: str) -> str:
        if any(character.isalnum() for character in separator):
            raise ValueError(f"separator {separator!r} must not contain a letter or digit")
        return separator

    @model_validator(mode="after")
    def _signals_have_a_place(self) -> Self:
        shown = "signals" in template_fields(self.line)
        if self.signals and not shown:
            raise ValueError(f"line {self.line!r} has no {{signals}}: the signals would never be shown")
        if shown and not self.signals:
            raise ValueError(f"line {self.line!r} has {{signals}}, but signals names none")
        if shown and not self.available(self.signals):
            raise ValueError(
                f"line {self.line!r} has {{signals}}, but the dataset has none of {', '.join(self.signals)}: "
                "take {signals} out of the line, or show other ones"
            )
        return self

    def shows(self, signal: str) -> bool:
        """Whether the prompt of any need shows the signal."""
        return signal in self.available(self.signals | self.signals_of_need)

    def available(self, signals: dict[str, Displays]) -> dict[str, Displays]:
        """Those of the signals that the dataset has."""
        return {name: displays for name, displays in signals.items() if name not in self.unavailable_signals}


def _one_line(text: str, name: str) -> str:
    if text.splitlines() != [text]:
        raise ValueError(f"{name} {text!r} must be one line")
    return text


def _different_words(words: Words) -> Words:
    if len(set(words)) < len(words):
        raise ValueError(f"the words {', '.join(words)} must differ from each other")
    return words
