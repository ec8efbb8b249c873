"""Made-up grammars for the tiny models of the tests of engines."""

from flexrec.policy.grammar import Grammar

END = 69
PAD = 0
FIRST = 10
"""Token of the first identifier; the others follow it."""


def letters(count: int, **options) -> Grammar:
    """Identifiers of one token each."""
    names = tuple((FIRST + index,) for index in range(count))
    return Grammar(names, constrained=True, end_token=END, max_length=80, **options)


def reasoning(count: int) -> Grammar:
    """The same behind at most five free tokens, which token 50 ends."""
    return letters(
        count,
        opening=(60, 61),
        closing=(62,),
        reasoning_closed=lambda tokens: tokens[-1] == 50,
        reasoning_end=(50,),
        max_reasoning=5,
    )
