"""Identifiers: the short names that candidates have in a prompt and in an answer."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Literal, get_args

from flexrec.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IdentifierKind = Literal["letters", "numbers"]
_LETTERS = ascii_uppercase + ascii_lowercase


def identifiers(kind: IdentifierKind, count: int) -> tuple[str, ...]:
    """Identifiers of the candidates, in their order in the prompt.

    Args:
        kind: `letters`: A to Z, then a to z, for at most 52 candidates; `numbers`: 1, 2, 3, ...
        count: K, at least 1.

    Returns:
        K different identifiers.

    Raises:
        InputError: An unknown kind, fewer than one candidate, or more than 52 with letters.
    """
    if count < 1:
        raise InputError(f"a prompt needs at least one candidate, not {count}")
    if kind == "numbers":
        return tuple(str(number) for number in range(1, count + 1))
    if kind != "letters":
        raise InputError(f"unknown identifiers {kind!r}; use {' or '.join(get_args(IdentifierKind))}")
    if count > len(_LETTERS):
        raise InputError(
            f"letters name at most {len(_LETTERS)} candidates, not {count}: "
            "lower the number of candidates, or set identifiers: numbers"
        )
    return tuple(_LETTERS[:count])


def identifier_tokens(tokenizer: PreTrainedTokenizerBase, kind: IdentifierKind, count: int) -> list[int]:
    """The token of each identifier after a space (" A"), for tokenizers that have one token for each.

    Args:
        tokenizer: Tokenizer of the policy.
        kind: Kind of identifiers.
        count: K.

    Returns:
        K different token ids, in candidate order. A list of identifiers, each after a space, is exactly these tokens.

    Raises:
        InputError: An identifier that is not one token of its own, or a list of them that is tokenised differently.
    """
    names = identifiers(kind, count)
    tokens = []
    for name in names:
        ids = tokenizer.encode(f" {name}", add_special_tokens=False)
        if len(ids) != 1 or tokenizer.decode(ids) != f" {name}":
            raise InputError(
                f"identifier {name!r} is not a single token after a space for this model's tokenizer "
                f"({len(ids)} tokens): use another model, or answers that are not decoded token by token"
            )
        tokens += ids
    if tokenizer.encode("".join(f" {name}" for name in names), add_special_tokens=False) != tokens:
        raise InputError(f"this model's tokenizer joins neighbouring identifiers ({kind}): use another model")
    return tokens
