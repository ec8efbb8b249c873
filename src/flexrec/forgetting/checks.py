"""Whether an answer follows an instruction about its form, decided by a program.

In the manner of IFEval (Zhou et al. 2023, arXiv 2311.07911), strict: the answer is taken as it is, without its outer
white space. An empty answer follows nothing. Form alone would praise a policy that has lost its words: "HHHHHH" has no
comma, no small letter and few words. Therefore an answer has to be on its topic too.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flexrec.errors import InputError

_BULLET = re.compile(r"^\s*[*•-]\s+\S")
_FENCE = re.compile(r"```(?:json)?\n(.*)\n```", re.DOTALL)


def lowercase(answer: str) -> bool:
    """No capital letter, and at least one letter."""
    return answer.islower()


def uppercase(answer: str) -> bool:
    """No small letter, and at least one letter."""
    return answer.isupper()


def bullets(answer: str, count: int) -> bool:
    """Exactly `count` lines that begin with `*`, `-` or `•` and a space."""
    return sum(bool(_BULLET.match(line)) for line in answer.splitlines()) == count


def include(answer: str, word: str) -> bool:
    """The word, in any case, by itself."""
    return _occurs(word, answer)


def avoid(answer: str, word: str) -> bool:
    """Anything without the word, in any case, by itself."""
    return not _occurs(word, answer)


def ending(answer: str, phrase: str) -> bool:
    """The phrase, exactly, is the end."""
    return answer.endswith(phrase)


def quotes(answer: str) -> bool:
    """Double quotes around everything, with something between."""
    return len(answer) > 2 and answer[0] == answer[-1] == '"'


def json_keys(answer: str, keys: list[str]) -> bool:
    """One JSON object with exactly the keys; a Markdown fence around it may stay, as in IFEval."""
    fenced = _FENCE.fullmatch(answer)
    try:
        value = json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and sorted(value) == sorted(keys)


def max_words(answer: str, count: int) -> bool:
    """At most `count` words; a word is what stands between white space."""
    return len(answer.split()) <= count


def paragraphs(answer: str, count: int) -> bool:
    """Exactly `count` paragraphs, none empty, with a line `***` between them."""
    parts = re.split(r"^\s*\*\*\*\s*$", answer, flags=re.MULTILINE)
    return len(parts) == count and all(part.strip() for part in parts)


def no_commas(answer: str) -> bool:
    """No comma."""
    return "," not in answer


def title(answer: str) -> bool:
    """A title in double angular brackets, such as <<poem of joy>>, not empty."""
    return re.search(r"<<[^<>\n]*\w[^<>\n]*>>", answer) is not None


CHECKS: Mapping[str, Callable[..., bool]] = {
    "lowercase": lowercase,
    "uppercase": uppercase,
    "bullets": bullets,
    "include": include,
    "avoid": avoid,
    "ending": ending,
    "quotes": quotes,
    "json_keys": json_keys,
    "max_words": max_words,
    "paragraphs": paragraphs,
    "no_commas": no_commas,
    "title": title,
}
"""Kinds of instructions, in the order of every table."""


def follows(kind: str, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an answer follows an instruction.

    Args:
        kind: Name in `CHECKS`.
        answer: What the model wrote, special tokens left out.
        arguments: Of the check, for instance `{"count": 3}`.

    Raises:
        InputError: An unknown kind.
    """
    if kind not in CHECKS:
        raise InputError(f"unknown kind of instruction '{kind}'; there are {', '.join(CHECKS)}")
    text = answer.strip()
    return bool(text) and CHECKS[kind](text, **arguments)


def on_topic(answer: str, topic: Sequence[str]) -> bool:
    """Whether an answer has a word that begins as one of the topic's, in any case; true where there is no topic."""
    return not topic or re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, topic))})", answer, re.IGNORECASE) is not None


def _occurs(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE) is not None
