"""What an answer may be: a permutation of known identifiers, token by token.

A `Grammar` walks along an answer and says at every position what may stand there: anything (`FREE`), one of a few
tokens (`CHOICE`: the identifiers that remain) or exactly one (`FORCED`: a tag, or the end of a reasoning that used up
its budget). The same walk constrains sampling and, over a given answer, scoring, so both see one distribution:
a forced token has probability one, and the probabilities of all permutations sum to one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from flexrec.errors import InputError

TAG_TOKENS = 8
"""A tag may be split over tokens in several ways; it always fits in so many."""


class Kind(IntEnum):
    """What may stand at a position of an answer."""

    FREE = 0
    CHOICE = 1
    FORCED = 2
    DONE = 3


@dataclass(frozen=True)
class Grammar:
    """The form of an answer.

    Attributes:
        identifiers: Token sequence of each candidate, in candidate order; no sequence is a prefix of another.
        constrained: Whether identifiers are restricted to those that remain; otherwise everything is free.
        end_token: Token that ends a free answer.
        max_length: Most tokens of an answer.
        opening: Tokens forced before the identifiers.
        closing: Tokens forced after them.
        reasoning_closed: Tells from the tokens so far whether the reasoning has been closed; None without reasoning.
        reasoning_end: Tokens forced when the reasoning has used up its budget.
        max_reasoning: The budget in tokens.
    """

    identifiers: tuple[tuple[int, ...], ...]
    constrained: bool
    end_token: int
    max_length: int
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    reasoning_closed: Callable[[Sequence[int]], bool] | None = field(default=None, compare=False)
    reasoning_end: tuple[int, ...] = ()
    max_reasoning: int = 0

    def __post_init__(self) -> None:
        sequences = sorted(self.identifiers)
        for first, second in pairwise(sequences):
            if second[: len(first)] == first:
                raise InputError(f"identifier tokens {first} begin {second}: answers would be ambiguous")

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Every token that can stand at a `CHOICE` position, ascending."""
        return tuple(sorted({token for sequence in self.identifiers for token in sequence}))

    @cached_property
    def longest(self) -> int:
        """Most tokens that an answer can have."""
        if not self.constrained:
            return self.max_length
        reasoning = self.max_reasoning + len(self.reasoning_end) if self.reasoning_closed is not None else 0
        named = sum(len(sequence) for sequence in self.identifiers)
        return reasoning + len(self.opening) + named + len(self.closing)

    @cached_property
    def places(self) -> dict[tuple[int, ...], int]:
        """Candidate of each identifier's token sequence."""
        return {sequence: index for index, sequence in enumerate(self.identifiers)}

    @cached_property
    def column(self) -> dict[int, int]:
        """Column of each token of `choices`."""
        return {token: index for index, token in enumerate(self.choices)}


def closed_by(tag: str, decode: Callable[[list[int]], str]) -> Callable[[Sequence[int]], bool]:
    """Tells from the tokens so far whether their end holds a tag: `Grammar.reasoning_closed`."""
    return lambda tokens: tag in decode(list(tokens[-TAG_TOKENS:]))


class Cursor:
    """One walk along one answer.

    Attributes:
        kind: What may stand at the current position.
        allowed: Boolean mask over `Grammar.choices` where `kind` is `CHOICE`.
        token: The token that must stand here where `kind` is `FORCED`.
        rank: 0-based rank of the item that the current position belongs to, -1 where it belongs to none.
        order: Candidates completed so far, by index.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._tokens: list[int] = []
        self._queue: list[int] = []
        self._partial: tuple[int, ...] = ()
        self._remaining = dict(enumerate(grammar.identifiers))
        # where every identifier is one token, what remains is one bit per token
        single = all(len(sequence) == 1 for sequence in grammar.identifiers)
        self._first: Bool[np.ndarray, " C"] | None = np.ones(len(grammar.choices), dtype=bool) if single else None
        self._reasoning = grammar.reasoning_closed is not None
        self.order: list[int] = []
        if not self._reasoning and grammar.constrained:
            self._queue = list(grammar.opening)
        self._look()

    def _look(self) -> None:
        grammar = self._grammar
        self.allowed: Bool[np.ndarray, " C"] | None = None
        self.token: int | None = None
        self.rank = -1
        if not grammar.constrained:
            ended = bool(self._tokens) and self._tokens[-1] == grammar.end_token
            self.kind = Kind.DONE if ended or len(self._tokens) >= grammar.max_length else Kind.FREE
        elif self._reasoning:
            self.kind = Kind.FREE
        elif self._queue:
            self.kind, self.token = Kind.FORCED, self._queue[0]
        elif self._remaining:
            self.kind, self.rank = Kind.CHOICE, len(self.order)
            self.allowed = self._allowed()
        else:
            self.kind = Kind.DONE

    def _allowed(self) -> Bool[np.ndarray, " C"]:
        grammar, depth = self._grammar, len(self._partial)
        if depth == 0 and self._first is not None:
            return self._first.copy()
        allowed = np.zeros(len(grammar.choices), dtype=bool)
        for sequence in self._remaining.values():
            if sequence[:depth] == self._partial:
                allowed[grammar.column[sequence[depth]]] = True
        return allowed

    @property
    def choices_left(self) -> int:
        """Identifiers that the answer has not named yet; more than there are while it can still do anything."""
        if self._reasoning or not self._grammar.constrained:
            return len(self._grammar.identifiers) + 1
        return len(self._remaining)

    def advance(self, token: int) -> None:
        """Put `token` at the current position and go to the next."""
        grammar = self._grammar
        self._tokens.append(token)
        if grammar.constrained:
            if self._reasoning:
                assert grammar.reasoning_closed is not None
                if grammar.reasoning_closed(self._tokens):
                    self._reasoning, self._queue = False, list(grammar.opening)
                elif len(self._tokens) >= grammar.max_reasoning:
                    self._reasoning, self._queue = False, [*grammar.reasoning_end, *grammar.opening]
            elif self._queue:
                self._queue.pop(0)
            elif self._remaining:
                self._partial = (*self._partial, token)
                index = grammar.places.get(self._partial)
                if index in self._remaining:
                    self.order.append(index)
                    del self._remaining[index]
                    self._partial = ()
                    if self._first is not None:
                        self._first[grammar.column[token]] = False
                if not self._remaining:
                    self._queue = list(grammar.closing)
        self._look()


@dataclass(frozen=True)
class Constraints:
    """What the grammar allows at every position of a batch of given answers.

    Attributes:
        kind: `Kind` per position; `DONE` at padding.
        allowed: Mask over `Grammar.choices`; all False where the position is not a `CHOICE`.
        rank: 0-based rank of the item that a position belongs to, -1 for none.
    """

    kind: Int[np.ndarray, "N T"]
    allowed: Bool[np.ndarray, "N T C"]
    rank: Int[np.ndarray, "N T"]


def follow(grammar: Grammar, answers: Sequence[Sequence[int]], length: int) -> tuple[Constraints, list[list[int]]]:
    """Walk along given answers.

    Args:
        grammar: The form of the answers.
        answers: N token sequences, at most `length` long.
        length: T, the padded length.

    Returns:
        The constraints, and for each answer the candidates in the order that it names them (constrained only).
    """
    n = len(answers)
    kind = np.full((n, length), int(Kind.DONE))
    allowed = np.zeros((n, length, len(grammar.choices)), dtype=bool)
    rank = np.full((n, length), -1)
    orders = []
    for row, answer in enumerate(answers):
        cursor = Cursor(grammar)
        for position, token in enumerate(answer):
            if cursor.kind is Kind.DONE:
                break
            kind[row, position], rank[row, position] = int(cursor.kind), cursor.rank
            if cursor.allowed is not None:
                allowed[row, position] = cursor.allowed
            cursor.advance(int(token))
        orders.append(cursor.order)
    return Constraints(kind, allowed, rank), orders
