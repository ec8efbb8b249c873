"""Answers: hand-made cases, and thousands of generated ones against an oracle that goes character by character."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from flexrec.errors import InputError
from flexrec.prompting.answers import (
    Answer,
    complete_order,
    parse_answer,
    render_answer,
    token_offsets,
    token_ranks,
)
from flexrec.prompting.settings import PromptSettings

PLAIN = PromptSettings()
NUMBERS = PromptSettings(identifiers="numbers", separator=" > ")
REASONING = PromptSettings(reasoning=True)
ALL = (PLAIN, NUMBERS, REASONING, PromptSettings(identifiers="numbers", reasoning=True, separator="|"))


def oracle(text: str, count: int, layout: PromptSettings) -> Answer:
    """The same rules from scratch: one pass over the characters, no regular expression, no shared code."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    names = list(alphabet[:count]) if layout.identifiers == "letters" else [f"{n + 1}" for n in range(count)]
    reading = not layout.reasoning
    closed = "</think>" not in text
    words: list[tuple[int, int]] = []
    begin = None
    position = 0
    while position < len(text):
        rest = text[position:]
        if layout.reasoning and not reading:
            if not closed and rest.startswith("</think>"):
                closed = True
                position += 8
            elif closed and rest.startswith("<answer>"):
                reading = True
                position += 8
            else:
                position += 1
            continue
        if layout.reasoning and rest.startswith("</answer>"):
            break
        character = text[position]
        if character.isspace() or character in ",;" or character in layout.separator:
            if begin is not None:
                words.append((begin, position))
            begin = None
        elif begin is None:
            begin = position
        position += 1
    if begin is not None:
        words.append((begin, position))
    order: list[int] = []
    spans: list[tuple[int, int]] = []
    invalid = repeated = 0
    for start, end in words:
        word = text[start:end]
        if word not in names:
            invalid += 1
        elif names.index(word) in order:
            repeated += 1
        else:
            order.append(names.index(word))
            spans.append((start, end))
    return Answer(tuple(order), tuple(spans), invalid, repeated, count - len(order))


PIECES = [
    *"ABCDXYZabcz0123456789",
    *(f" {name}" for name in "ABCDEFabz"),
    *(" 1", " 2", " 10", " 12", "12", "01", "1.", "A.", "AB"),
    *(",", ", ", ";", ">", " > ", "|", "/", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\x1c", "\u200b", "  "),
    *("<think>", "</think>", "<answer>", "</answer>", "<answer", "answer>", "</", "<", "/think>", "<Answer>"),
    *("é", "e\u0301", "漢字", "🎬", "\U0001f469\u200d\U0001f467", "🇨🇭", "\ufffd", "\u202e"),
    # letters and digits of other scripts that look like identifiers
    *("\uff21", "\u0410", "\uff11", "\u0663"),
    *("the answer is", "I think", "because", "…"),
]


NAMES = ["A", "B", "C", "D", "E", "F", "a", "1", "2", "3", "10", "12"]


def nonsense(generator: random.Random) -> str:
    """Now any pieces side by side, now a list of identifiers with something in between."""
    pieces = [generator.choice(PIECES) for _ in range(generator.randrange(30))]
    if generator.random() < 0.7:
        opening = generator.choice(["", "<answer>", "<think>A</think><answer>", "<think>\U0001f3ac"])
        separator = generator.choice([" ", ", ", " > ", "|", "\n"])
        given = [generator.choice(NAMES) for _ in range(generator.randrange(12))]
        given = [name if generator.random() < 0.9 else generator.choice(PIECES) for name in given]
        pieces = [opening, separator.join(given), *pieces[: generator.randrange(4)]]
    return "".join(pieces)


def test_a_plain_answer() -> None:
    #         0123456789
    answer = parse_answer(" D B A C", 4, PLAIN)
    assert answer == Answer((3, 1, 0, 2), ((1, 2), (3, 4), (5, 6), (7, 8)), 0, 0, 0)


def test_mistakes_are_counted() -> None:
    # E is nobody of four, "AB" and "b." are no identifiers, the second B is a repetition, C is missing
    answer = parse_answer("B, E; AB B\nb. A D", 4, PLAIN)
    assert answer == Answer((1, 0, 3), ((0, 1), (14, 15), (16, 17)), 3, 1, 1)
    assert parse_answer("", 3, PLAIN) == Answer((), (), 0, 0, 3)


def test_numbers_are_compared_exactly() -> None:
    # 012 and the Arabic 3 are not identifiers; 12 is not 1 and 2
    answer = parse_answer("12 > 1>012 > \u0663 > 2,13", 12, NUMBERS)
    assert answer.order == (11, 0, 1)
    assert answer.spans == ((0, 2), (5, 6), (17, 18))
    assert (answer.invalid, answer.repeated, answer.missing) == (3, 0, 9)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("<think>A is bad</think><answer> B C A</answer>", (1, 2, 0)),
        ("<think>so <answer> A </answer></think>\n<answer>B</answer> C", (1,)),
        # cut off at the limit of tokens
        ("<think>A</think><answer> C B", (2, 1)),
        # a template may have opened the thinking already, or the model skips it
        ("hm</think><answer> C</answer>", (2,)),
        ("<answer> C</answer>", (2,)),
        # nothing between answer tags
        ("<think>A B C", ()),
        (" A B C", ()),
        ("<answer> A</answer></think>", ()),
        # the first answer counts
        ("</think><answer>A</answer><answer>B</answer>", (0,)),
    ],
)
def test_reasoning_answers(text: str, order: tuple[int, ...]) -> None:
    assert parse_answer(text, 3, REASONING).order == order


def test_thousands_of_seeded_answers_against_the_oracle() -> None:
    generator = random.Random(5)
    kept = Counter()
    for _ in range(6000):
        text, count, layout = nonsense(generator), generator.randint(1, 30), generator.choice(ALL)
        answer = parse_answer(text, count, layout)
        assert answer == oracle(text, count, layout)
        kept[len(answer.order)] += 1
    # the test means something: many answers keep several items
    assert sum(number for length, number in kept.items() if length >= 3) > 500


@settings(max_examples=150)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join),
    st.integers(1, 52),
    st.sampled_from(ALL),
)
def test_any_text_against_the_oracle(text: str, count: int, layout: PromptSettings) -> None:
    answer = parse_answer(text, count, layout)
    assert answer == oracle(text, count, layout)
    names = [text[start:end] for start, end in answer.spans]
    assert len(set(names)) == len(names) == count - answer.missing


@given(st.data(), st.sampled_from(ALL), st.text(alphabet="ABC <>/é", max_size=10))
def test_a_rendered_answer_is_read_back(data: st.DataObject, layout: PromptSettings, reasoning: str) -> None:
    count = data.draw(st.integers(1, 40))
    order = tuple(data.draw(st.permutations(range(count))))
    answer = parse_answer(render_answer(order, layout, reasoning=reasoning), count, layout)
    assert answer.order == order
    assert (answer.invalid, answer.repeated, answer.missing) == (0, 0, 0)


def test_rendered_answers_by_hand() -> None:
    assert render_answer([2, 0], PLAIN, reasoning="not shown") == " C A"
    assert render_answer([2, 0], NUMBERS) == " > 3 > 1"
    assert render_answer([1], REASONING, reasoning="hm") == "<think>hm</think><answer> B</answer>"
    for order in ([], [-1, 0]):
        with pytest.raises(InputError, match="at least one candidate"):
            render_answer(order, PLAIN)


def test_complete_order_by_hand() -> None:
    assert complete_order((3, 1), 5, fill=[4, 3, 2, 1, 0]) == (3, 1, 4, 2, 0)
    assert complete_order((), 2, fill=[1, 0]) == (1, 0)
    assert complete_order((1, 0), 2, fill=[1, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("order", "fill", "message"),
    [
        ((0,), [0, 1], "fill must be a permutation of 0 to 2"),
        ((0,), [0, 1, 1], "fill must be a permutation"),
        ((0, 0), [0, 1, 2], "each at most once"),
        ((3,), [0, 1, 2], "candidates from 0 to 2"),
        ((-1,), [0, 1, 2], "candidates from 0 to 2"),
    ],
)
def test_orders_that_cannot_be_completed(order: tuple[int, ...], fill: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_order(order, 3, fill=fill)


def ranks_character_by_character(offsets: list[tuple[int, int]], answer: Answer, length: int) -> list[int]:
    owner = [-1] * length
    for rank, (start, end) in enumerate(answer.spans):
        for place in range(start, end):
            owner[place] = rank
    touched = [[owner[place] for place in range(*offset) if owner[place] >= 0] for offset in offsets]
    return [min(ranks) if ranks else -1 for ranks in touched]


def check_tokens(tokenizer: PreTrainedTokenizerFast, ids: list[int], count: int, layout: PromptSettings) -> Answer:
    text, offsets = token_offsets(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)
    # the offsets cover the text without gap or overlap
    assert [0, *(end for _, end in offsets)] == [*(start for start, _ in offsets), len(text)]
    assert all(start <= end for start, end in offsets)
    answer = parse_answer(text, count, layout)
    assert answer == oracle(text, count, layout)
    ranks = token_ranks(offsets, answer)
    assert ranks == ranks_character_by_character(offsets, answer, len(text))
    return answer


def test_letters_are_one_token_each(tokenizer: PreTrainedTokenizerFast) -> None:
    order = [3, 51, 0, 26]
    ids = [*tokenizer.encode(render_answer(order, PLAIN), add_special_tokens=False), tokenizer.eos_token_id]
    text, offsets = token_offsets(tokenizer, ids)
    assert text == " D z A a"
    assert offsets == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 8)]
    answer = parse_answer(text, 52, PLAIN)
    assert token_ranks(offsets, answer) == [0, 1, 2, 3, -1]


def test_tags_reasoning_and_separators_are_not_item_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<think>A or 漢 B</think><answer> B, A, X, A</answer>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoded, offsets = token_offsets(tokenizer, ids)
    assert decoded == text
    ranks = token_ranks(offsets, parse_answer(decoded, 3, REASONING))
    named = [(decoded[start:end].strip(), rank) for (start, end), rank in zip(offsets, ranks, strict=True) if rank >= 0]
    assert named == [("B", 0), ("A", 1)]


def test_digits_of_a_number_share_its_rank(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode(" > 12 > 3 > 12", add_special_tokens=False)
    text, offsets = token_offsets(tokenizer, ids)
    ranks = token_ranks(offsets, parse_answer(text, 12, NUMBERS))
    digits = [rank for (start, end), rank in zip(offsets, ranks, strict=True) if text[start:end].strip().isdigit()]
    # the second 12 is a repetition
    assert digits == [0, 0, 1, -1, -1]


def test_a_token_of_two_items_belongs_to_the_first() -> None:
    answer = parse_answer("A B C", 3, PLAIN)
    assert token_ranks([(0, 3), (3, 5)], answer) == [0, 2]
    assert token_ranks([(0, 0), (0, 1), (1, 2), (2, 2), (2, 5)], answer) == [-1, 0, -1, -1, 1]


def test_parts_of_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("🎬 A", add_special_tokens=False)
    text, offsets = token_offsets(tokenizer, ids)
    assert text == "🎬 A"
    # the first token begins the film clapper, the following ones only go on with it
    assert offsets[0] == (0, 1)
    assert offsets[1:-1] == [(1, 1)] * (len(ids) - 2)
    assert offsets[-1] == (1, 3)
    # broken off: the first token alone, then a letter
    text, offsets = token_offsets(tokenizer, [ids[0], ids[-1]])
    assert text == "\ufffd A"
    assert offsets == [(0, 1), (1, 3)]
    assert token_ranks(offsets, parse_answer(text, 1, PLAIN)) == [-1, 0]


def test_special_tokens_and_unknown_ids_write_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    letter = tokenizer.encode(" A", add_special_tokens=False)
    ids = [*letter, tokenizer.eos_token_id, 10**6, *letter]
    text, offsets = token_offsets(tokenizer, ids)
    assert text == " A A"
    assert offsets == [(0, 2), (2, 2), (2, 2), (2, 4)]
    assert token_offsets(tokenizer, []) == ("", [])


def test_thousands_of_encoded_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = random.Random(6)
    kept = 0
    for _ in range(1500):
        count, layout = generator.randint(1, 30), generator.choice(ALL)
        ids = tokenizer.encode(nonsense(generator), add_special_tokens=False)
        kept += len(check_tokens(tokenizer, ids, count, layout).order)
    assert kept > 800


def test_thousands_of_sampled_token_sequences(tokenizer: PreTrainedTokenizerFast) -> None:
    # any token after any other, as an untrained model writes: many are parts of characters
    generator = random.Random(7)
    words = tokenizer.encode("".join(PIECES), add_special_tokens=False)
    broken = 0
    for _ in range(1500):
        ids = [
            generator.choice(words) if generator.random() < 0.6 else generator.randrange(len(tokenizer) + 5)
            for _ in range(generator.randrange(30))
        ]
        check_tokens(tokenizer, ids, generator.randint(1, 30), generator.choice(ALL))
        broken += "\ufffd" in tokenizer.decode(ids)
    assert broken > 200


def test_every_prefix_ends_where_the_tokenizer_says(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = random.Random(8)
    parts = tokenizer.encode("🎬é漢 A\u2028\U0001f469\u200d\U0001f467", add_special_tokens=False)
    for _ in range(200):
        ids = [generator.choice(parts) for _ in range(12)]
        _, offsets = token_offsets(tokenizer, ids)
        for length, (_, end) in enumerate(offsets, 1):
            assert end == len(tokenizer.decode(ids[:length]))


def test_other_tokenizers_are_refused() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"A": 0}, unk_token="A")))
    with pytest.raises(InputError, match="not a byte-level BPE"):
        token_offsets(words, [0])
