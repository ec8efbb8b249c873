"""The grammar of permutations: what may stand where."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.policy.grammar import Cursor, Grammar, Kind, follow

END = 99
LETTERS = ((10,), (11,), (12,))
# "1," "2," "12,": one number begins another until the comma ends it
NUMBERS = ((1, 0), (2, 0), (1, 2, 0))


def grammar(identifiers=LETTERS, **options):
    return Grammar(identifiers, constrained=True, end_token=END, max_length=50, **options)


def test_letters_shrink_to_what_remains():
    constraints, orders = follow(grammar(), [[12, 10, 11]], 4)
    assert constraints.kind.tolist() == [[Kind.CHOICE] * 3 + [Kind.DONE]]
    assert constraints.allowed[0].tolist() == [[True] * 3, [True, True, False], [False, True, False], [False] * 3]
    assert constraints.rank.tolist() == [[0, 1, 2, -1]]
    assert orders == [[2, 0, 1]]


def test_numbers_follow_only_prefixes_of_what_remains():
    cursor = Cursor(grammar(NUMBERS))
    # columns: tokens 0, 1, 2
    assert cursor.allowed.tolist() == [False, True, True]
    cursor.advance(1)
    assert cursor.allowed.tolist() == [True, False, True]  # "1," or "12"
    cursor.advance(2)
    assert cursor.allowed.tolist() == [True, False, False]  # only the comma
    assert cursor.rank == 0
    cursor.advance(0)
    assert cursor.order == [2]
    assert cursor.rank == 1
    assert cursor.allowed.tolist() == [False, True, True]
    cursor.advance(1)
    assert cursor.allowed.tolist() == [True, False, False]  # "12" is used


def test_reasoning_is_free_until_closed_then_forced_then_constrained():
    close = (50, 51)
    g = grammar(
        opening=(60,),
        closing=(61,),
        reasoning_closed=lambda tokens: tuple(tokens[-2:]) == close,
        reasoning_end=close,
        max_reasoning=4,
    )
    closed_by_model = [7, 50, 51, 60, 11, 10, 12, 61]
    constraints, orders = follow(g, [closed_by_model], 9)
    assert constraints.kind[0].tolist() == [0, 0, 0, 2, 1, 1, 1, 2, 3]
    assert constraints.rank[0].tolist() == [-1, -1, -1, -1, 0, 1, 2, -1, -1]
    assert orders == [[1, 0, 2]]
    out_of_budget = [7, 7, 7, 7, 50, 51, 60, 11, 10, 12, 61]
    constraints, _ = follow(g, [out_of_budget], 11)
    assert constraints.kind[0].tolist() == [0, 0, 0, 0, 2, 2, 2, 1, 1, 1, 2]


def test_free_answers_end_at_the_end_token_or_the_limit():
    free = Grammar(LETTERS, constrained=False, end_token=END, max_length=4)
    constraints, _ = follow(free, [[5, END, 5], [5, 6, 7, 8]], 5)
    assert constraints.kind.tolist() == [[0, 0, 3, 3, 3], [0, 0, 0, 0, 3]]


def test_ambiguous_identifiers_are_refused():
    with pytest.raises(InputError, match="ambiguous"):
        grammar(((1,), (1, 2)))


@given(st.permutations(range(30)))
def test_any_permutation_of_numbers_is_followed(order):
    sequences = tuple((*(ord(c) for c in str(k + 1)), 0) for k in range(30))
    g = grammar(sequences)
    tokens = [token for index in order for token in sequences[index]]
    constraints, orders = follow(g, [tokens], len(tokens))
    assert orders == [list(order)]
    columns = [g.column[token] for token in tokens]
    assert constraints.allowed[0, np.arange(len(tokens)), columns].all()
    assert constraints.rank[0].tolist() == list(
        itertools.chain.from_iterable([rank] * len(sequences[index]) for rank, index in enumerate(order))
    )
