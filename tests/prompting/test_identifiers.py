"""Identifiers and their tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flexrec.errors import InputError
from flexrec.prompting.identifiers import identifier_tokens, identifiers


def test_letters_and_numbers() -> None:
    assert identifiers("letters", 3) == ("A", "B", "C")
    assert identifiers("letters", 52)[24:28] == ("Y", "Z", "a", "b")
    assert identifiers("letters", 52)[-1] == "z"
    assert identifiers("numbers", 11)[8:] == ("9", "10", "11")


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("letters", 53, "at most 52 candidates, not 53.*identifiers: numbers"),
        ("letters", 0, "at least one"),
        ("numbers", 0, "at least one"),
        ("greek", 3, "unknown identifiers 'greek'; use letters or numbers"),
    ],
)
def test_refusals(kind: str, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        identifiers(kind, count)


def test_every_letter_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = identifier_tokens(tokenizer, "letters", 52)
    assert len(set(tokens)) == 52
    assert tokenizer.convert_ids_to_tokens(tokens) == [f"Ġ{name}" for name in identifiers("letters", 52)]
    # also at the end of a candidate's line, and in any order
    line = tokenizer.encode("Dune (1984), 12 watches: B", add_special_tokens=False)
    assert line[-1] == tokens[1]
    assert tokenizer.encode(" z B A", add_special_tokens=False) == [tokens[51], tokens[1], tokens[0]]


def test_numbers_that_are_several_tokens_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="identifier '1' is not a single token"):
        identifier_tokens(tokenizer, "numbers", 12)


def small_tokenizer(*merged: str) -> PreTrainedTokenizerFast:
    """Bytes, and the given words as whole tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *merged])}
    merges = [(word[:cut], word[cut:]) for word in merged for cut in [len(word) // 2]]
    model = Tokenizer(models.BPE(vocabulary, merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, clean_up_tokenization_spaces=False)


def test_a_tokenizer_that_joins_neighbours_is_refused() -> None:
    assert len(identifier_tokens(small_tokenizer("ĠA", "ĠB"), "letters", 2)) == 2
    with pytest.raises(InputError, match="joins neighbouring identifiers"):
        identifier_tokens(small_tokenizer("ĠA", "ĠB", "ĠAĠB"), "letters", 2)


def test_a_tokenizer_that_does_not_know_letters_is_refused() -> None:
    model = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    unknowing = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
    with pytest.raises(InputError, match="not a single token"):
        identifier_tokens(unknowing, "letters", 2)
