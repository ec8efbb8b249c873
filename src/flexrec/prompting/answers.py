"""From the text of an answer to a ranking, and from tokens to the items they belong to.

Free generation makes mistakes; they are counted, never repaired silently. An answer's *kept* items are those whose
identifier it gives for the first time; identifiers of nobody are invalid, later ones repeated, absent ones missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from flexrec.errors import InputError
from flexrec.prompting.identifiers import identifiers
from flexrec.prompting.settings import PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK_START, THINK_END = "<think>", "</think>"
ANSWER_START, ANSWER_END = "<answer>", "</answer>"
# Beside the separator that was asked for: models that were not trained for the format often write commas.
_ALWAYS_SEPARATES = r"\s,;"


@dataclass(frozen=True)
class Answer:
    """What the text of an answer says."""

    order: tuple[int, ...]
    """Kept candidates by index, best first; each at most once."""
    spans: tuple[tuple[int, int], ...]
    """Where the identifier of each kept candidate stands: first character, and the one after the last."""
    invalid: int
    """Words that are nobody's identifier."""
    repeated: int
    """Identifiers of candidates that were already given."""
    missing: int
    """Candidates that were not given."""


def render_answer(order: Sequence[int], settings: PromptSettings, *, reasoning: str = "") -> str:
    """The answer that gives an order, in the form that `parse_answer` reads.

    Args:
        order: Candidates by index, best first.
        settings: Kind of identifiers, separator, and whether there is reasoning.
        reasoning: The text between the think tags; shown only where the settings ask for reasoning.

    Returns:
        The identifiers, each after the separator (so that a letter is the one token " A").

    Raises:
        InputError: No candidate, a negative index, or an index beyond the identifiers.
    """
    if not order or min(order) < 0:
        raise InputError("an answer gives at least one candidate, by its index from 0")
    names = identifiers(settings.identifiers, max(order) + 1)
    given = "".join(settings.separator + names[index] for index in order)
    if not settings.reasoning:
        return given
    return f"{THINK_START}{reasoning}{THINK_END}{ANSWER_START}{given}{ANSWER_END}"


def parse_answer(text: str, count: int, settings: PromptSettings) -> Answer:
    """Read the ranking out of an answer.

    Without reasoning the whole text is the list. With reasoning the list is what follows the first `<answer>` after
    the first `</think>` (or in the whole text, where no thinking is closed), up to `</answer>` or the end; a text
    without `<answer>` gives nothing. In the list, words are separated by white space, commas, semicolons and the
    characters of the settings' separator. Identifiers are compared exactly.

    Args:
        text: What the model wrote, special tokens left out.
        count: Number of candidates K.
        settings: Kind of identifiers, separator, and whether there is reasoning.

    Returns:
        The kept order, the exact places of its identifiers, and the counts of what went wrong. Any text is an answer.

    Raises:
        InputError: A count that has no identifiers.
    """
    index_of = {name: index for index, name in enumerate(identifiers(settings.identifiers, count))}
    start, end = _list_part(text) if settings.reasoning else (0, len(text))
    word = re.compile(f"[^{_ALWAYS_SEPARATES}{re.escape(settings.separator)}]+")
    kept: dict[int, tuple[int, int]] = {}
    invalid = repeated = 0
    for match in word.finditer(text, start, end):
        index = index_of.get(match.group())
        if index is None:
            invalid += 1
        elif index in kept:
            repeated += 1
        else:
            kept[index] = match.span()
    return Answer(tuple(kept), tuple(kept.values()), invalid, repeated, count - len(kept))


def complete_order(order: Sequence[int], count: int, *, fill: Sequence[int]) -> tuple[int, ...]:
    """A whole permutation: the kept candidates, then the missing ones in the order of `fill`.

    Args:
        order: Kept candidates by index, each at most once.
        count: K.
        fill: A permutation of 0 to K - 1: random (seeded) for evaluation, the retriever's order for serving.

    Raises:
        InputError: An order with a repeated or unknown candidate, or a fill that is not a permutation.
    """
    if sorted(fill) != list(range(count)):
        raise InputError(f"fill must be a permutation of 0 to {count - 1}, got {list(fill)}")
    given = set(order)
    if len(given) < len(order) or not given <= set(fill):
        raise InputError(f"order must hold candidates from 0 to {count - 1}, each at most once, got {list(order)}")
    return (*order, *(index for index in fill if index not in given))


def token_offsets(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of generated tokens, and which of its characters each token wrote.

    The text is that of `tokenizer.decode(ids, skip_special_tokens=True)`. A byte-level token may hold a part of a
    character; the character belongs to the token with its first byte, and bytes that make no character are shown as
    U+FFFD, one per broken sequence. Special tokens and ids without a token write nothing.

    Args:
        tokenizer: A byte-level BPE tokenizer (GPT-2's kind: SmolLM2, Qwen, Llama 3).
        ids: Token ids.

    Returns:
        The text, and per id the first character and the one after the last. The offsets follow each other without
        gap or overlap and cover the text; they are empty for tokens that begin no character.

    Raises:
        InputError: A tokenizer of another kind.
    """
    _require_byte_level(tokenizer)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    pieces = [
        b"" if index in special or token is None else _token_bytes(token)
        for index, token in zip(ids, tokens, strict=True)
    ]
    data = b"".join(pieces)
    text, begins = _decode(data)
    # characters that have begun before each byte, and before the end
    begun = np.concatenate([[0], np.cumsum(begins)])
    edges = begun[np.cumsum([0, *(len(piece) for piece in pieces)])].tolist()
    return text, list(pairwise(edges))


def token_ranks(offsets: Sequence[tuple[int, int]], answer: Answer) -> list[int]:
    """The rank of the kept item that each token belongs to.

    A token belongs to the first kept item of whose identifier it wrote a character. Reasoning, tags, separators,
    invalid and repeated identifiers belong to none.

    Args:
        offsets: From `token_offsets`.
        answer: From `parse_answer` of the same text.

    Returns:
        Per token the rank from 0, or -1.
    """
    ranks = []
    rank = 0
    for start, end in offsets:
        while rank < len(answer.spans) and answer.spans[rank][1] <= start:
            rank += 1
        belongs = start < end and rank < len(answer.spans) and answer.spans[rank][0] < end
        ranks.append(rank if belongs else -1)
    return ranks


def _list_part(text: str) -> tuple[int, int]:
    thought = max(text.find(THINK_END), 0)
    opening = text.find(ANSWER_START, thought)
    if opening < 0:
        return len(text), len(text)
    start = opening + len(ANSWER_START)
    closing = text.find(ANSWER_END, start)
    return start, len(text) if closing < 0 else closing


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's byte-to-character table, reversed: printable Latin-1 stands for itself, the rest for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    # an added token may hold characters outside the alphabet (a space, for one): it stands for itself
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()


def _decode(data: bytes) -> tuple[str, np.ndarray]:
    """Decode UTF-8 with U+FFFD for what is broken; and for each byte whether a character of the text begins there."""
    begins = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    parts = []
    start = 0
    while start < len(data):
        try:
            parts.append(data[start:].decode())
            break
        except UnicodeDecodeError as error:
            broken, stop = start + error.start, start + error.end
            parts += [data[start:broken].decode(), "\ufffd"]
            # a broken sequence may begin with a continuation byte; those that follow are continuations anyway
            begins[broken] = True
            start = stop
    return "".join(parts), begins


def _require_byte_level(tokenizer: PreTrainedTokenizerBase) -> None:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = {} if decoder is None else json.loads(decoder.__getstate__())
    kinds = {part["type"] for part in (state, *state.get("decoders", ())) if part}
    if "ByteLevel" not in kinds:
        raise InputError(
            "the policy's tokenizer is not a byte-level BPE (SmolLM2, Qwen, Llama 3 are): "
            "its tokens cannot be traced to characters; use another model or constrained answers"
        )
