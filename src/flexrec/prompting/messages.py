"""From a ranking instance and a need to the chat messages that a language model reads.

Titles and topics come from data and are not trusted: whatever they hold, they cannot end a turn, open a tag, begin a
new line, or look like the end of a candidate's line.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

import numpy as np
from jaxtyping import Float

from flexrec.errors import InputError
from flexrec.prompting.identifiers import identifiers
from flexrec.prompting.settings import (
    CountDisplay,
    Display,
    FlagDisplay,
    PercentDisplay,
    PromptSettings,
    ScaleDisplay,
    WordDisplay,
)
from flexrec.prompting.templates import fill_template
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need, uses_engagement

# Control tokens of chat templates and the tags of an answer are written with angle brackets (<|im_end|>, <s>,
# </answer>); without any, none of them can be. The wide forms become plain ones in tokenizers that normalise.
_BRACKETS = str.maketrans("<>\uff1c\uff1e\ufe64\ufe65\uff3b\uff3d", "()()()()")
_ANGLED = set("<>")


def build_messages(instance: Instance, need: Need, settings: PromptSettings) -> list[dict[str, str]]:
    """The chat messages that ask for a ranking of the instance's candidates.

    Pure: the same arguments give the same text. Candidates keep their order, which is shuffled upstream.

    Args:
        instance: Request with history and candidates.
        need: The need; its instruction is shown, its formula is not.
        settings: Layout.

    Returns:
        A system message (if its template is not empty) and a user message, as `{"role": ..., "content": ...}`.

    Raises:
        InputError: More candidates than identifiers, or a signal to be shown that a candidate lacks or that is not
            finite.
    """
    candidates = instance.candidates
    names = identifiers(settings.identifiers, len(candidates))
    clean = _cleaner(settings, settings.max_query_chars if instance.query else settings.max_title_chars)
    shown = _shown_signals(instance, need, settings)
    lines = [
        _candidate_line(candidate, signals, name, settings, clean)
        for candidate, signals, name in zip(candidates, shown, names, strict=True)
    ]
    recent = instance.history[max(0, len(instance.history) - settings.max_history) :]
    history = [_history_line(item, settings, clean) for item in recent] or [settings.no_history]
    nouns = {"items": settings.items, "Items": settings.items[:1].upper() + settings.items[1:]}
    request = {"count": str(len(candidates)), "identifiers": settings.identifiers, **nouns}
    template = settings.reasoning_request if settings.reasoning else settings.answer_request
    values = {
        **request,
        "request": fill_template(template, request),
        "instruction": neutralise(_instruction(need, nouns), settings.special_tokens),
        "history": "\n".join(history),
        "query": clean(instance.query) or settings.no_query,
        "candidates": "\n".join(lines),
    }
    user = settings.user_query if instance.query else settings.user
    messages = [{"role": "user", "content": fill_template(user, values)}]
    if settings.system:
        messages.insert(0, {"role": "system", "content": fill_template(settings.system, values)})
    return messages


def neutralise(text: str, special_tokens: Sequence[str] = ()) -> str:
    """A text as one line of plain characters that no chat template or answer format can mistake for its own.

    Control, format and line-breaking characters go, angle brackets become parentheses (so that no `<|...|>`, `<s>`,
    `<think>` or `</answer>` is left), and the given special tokens are removed until none is left.

    Args:
        text: Any text, surrogates and control characters included.
        special_tokens: Control tokens to remove; blank ones are ignored.

    Returns:
        One line, possibly empty, without white space at its ends or twice in a row. Neutralising it again changes
        nothing.
    """
    if not text.isprintable():
        kept = (character for character in text if unicodedata.category(character) not in ("Cf", "Cs"))
        text = "".join(" " if unicodedata.category(character) == "Cc" else character for character in kept)
    line = " ".join(text.translate(_BRACKETS).split())
    tokens = [token for token in special_tokens if token.strip()]
    # what is left of and right of a removed token may make another one
    while any(token in line for token in tokens):
        for token in tokens:
            line = line.replace(token, "")
        line = " ".join(line.split())
    return line


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The control tokens of a tokenizer that `neutralise` has to be told of: those without angle brackets."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted({token.content for token in added if token.special and not _ANGLED & set(token.content)}))


def _instruction(need: Need, nouns: Mapping[str, str]) -> str:
    """The need's instruction with the dataset's noun in it; other braces stay as they are."""
    text = need.instruction
    for name, noun in nouns.items():
        text = text.replace(f"{{{name}}}", noun)
    return text


def _cleaner(settings: PromptSettings, limit: int) -> Callable[[str], str]:
    """Data as it may stand in a line: neutralised, cut, and without anything that looks like a line's identifier."""
    pieces = list(Formatter().parse(settings.line))
    place = [field for _, field, _, _ in pieces].index("id")
    before = pieces[place][0].strip()
    after = pieces[place + 1][0].strip() if place + 1 < len(pieces) else ""
    # the sign of kelvin is a K to tokenizers that normalise
    name = "[A-Za-z\u212a]" if settings.identifiers == "letters" else "[0-9]+"
    if before:
        # "2001: A Space Odyssey" would show candidate A where the line ends in ": A"
        forged, harmless = re.compile(rf"{re.escape(before)}(?=\s*{name}(?!\w))"), ""
    elif after:
        forged, harmless = re.compile(rf"(?<!\w)({name})\s*{re.escape(after)}"), r"\1"
    else:
        forged, harmless = re.compile(r"(?!)"), ""

    def clean(text: str) -> str:
        line = neutralise(text, settings.special_tokens)
        if len(line) > limit:
            line = line[: limit - 1].rstrip() + "…"
        while forged.search(line):
            # what is left of and right of what is taken out may make a special token
            line = neutralise(forged.sub(harmless, line), settings.special_tokens)
        return line

    return clean


def _candidate_line(
    candidate: Candidate, signals: str, name: str, settings: PromptSettings, clean: Callable[[str], str]
) -> str:
    return fill_template(
        settings.line,
        {
            "title": clean(candidate.title) or settings.no_title,
            "topics": _topics(candidate.topics, settings, clean),
            "signals": signals,
            "id": name,
        },
    )


def _history_line(item: HistoryItem, settings: PromptSettings, clean: Callable[[str], str]) -> str:
    return fill_template(
        settings.history_line,
        {
            "title": clean(item.title) or settings.no_title,
            "topics": _topics(item.topics, settings, clean),
            "engagement": f"{item.engagement:.2f}".rstrip("0").rstrip("."),
        },
    )


def _topics(topics: Sequence[str], settings: PromptSettings, clean: Callable[[str], str]) -> str:
    return clean(settings.topics_separator.join(topics)) or settings.no_topics


def _shown_signals(instance: Instance, need: Need, settings: PromptSettings) -> list[str]:
    """The signals' part of every candidate's line."""
    used: set[str] = {factor.signal for term in need.terms for factor in term.factors}
    if uses_engagement(need):
        # what stands for the label, which is not known yet
        used.add(Columns.PREDICTED)
    used -= set(settings.signals)
    asked = {name: displays for name, displays in settings.signals_of_need.items() if name in used}
    columns = []
    for signal, displays in settings.available(settings.signals | asked).items():
        values = _signal_values(instance, signal)
        columns += [_show(values, display) for display in displays]
    return [
        settings.signals_separator.join(column[row] for column in columns) for row in range(len(instance.candidates))
    ]


def _signal_values(instance: Instance, signal: str) -> Float[np.ndarray, "K"]:
    values = [candidate.signals.get(signal, math.nan) for candidate in instance.candidates]
    for candidate, value in zip(instance.candidates, values, strict=True):
        if not math.isfinite(value):
            problem = f"is {value}" if signal in candidate.signals else "is missing"
            table = "prompt_instances from critic_predictions" if signal == Columns.PREDICTED else "labelled_instances"
            raise InputError(
                f"instance {instance.instance_id}, item {candidate.item_id}: the signal {signal!r} {problem}, but the "
                f"prompt shows it; make {table} again, or take {signal!r} out of the prompt's signals"
            )
    return np.asarray(values, dtype=np.float64)


def _show(values: Float[np.ndarray, "K"], display: Display) -> list[str]:
    match display:
        case CountDisplay():
            texts = [f"{value:.0f}" for value in values]
        case PercentDisplay():
            texts = [f"{100 * value / display.whole:.0f}%" for value in values]
        case FlagDisplay():
            texts = [display.words[int(value != 0)] for value in values]
        case ScaleDisplay():
            # their differences may be too large for a number, halves never are
            above = values / 2 - values.min() / 2
            places = above / above.max() if above.max() > 0 else above
            texts = [f"{place * display.steps:.0f}" for place in places]
        case WordDisplay():
            below = np.searchsorted(np.sort(values), values, side="left")
            texts = [display.words[index] for index in below * len(display.words) // len(values)]
    return [fill_template(display.template, {"value": text}) for text in texts]
