"""Every check on answers written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.forgetting.checks import CHECKS, follows, on_topic
from flexrec.forgetting.prompts import PROMPTS

GOOD = {
    "lowercase": [("the capital is paris.", {}), ("1. one, 2. two", {}), ("é", {})],
    "uppercase": [("THE PACIFIC!", {}), ("A1", {})],
    "bullets": [
        ("* a\n* b\n* c", {"count": 3}),
        ("Here they are:\n\n- a\n- b", {"count": 2}),
        ("  • a", {"count": 1}),
        ("*bold* is none\n* a", {"count": 1}),
        ("* a\n** b\n--- \n*\n1. c", {"count": 1}),
    ],
    "include": [("A Ladder, long.", {"word": "ladder"}), ("ladder", {"word": "ladder"})],
    "avoid": [("Ladders are long.", {"word": "ladder"}), ("step_ladder", {"word": "ladder"})],
    "ending": [("Hello. That is all.", {"phrase": "That is all."}), ("That is all.\n", {"phrase": "That is all."})],
    "quotes": [('"cold"', {}), ('  "a "b" c"\n', {})],
    "json_keys": [
        ('{"b": 1, "a": {"c": 2}}', {"keys": ["a", "b"]}),
        ('```json\n{"a": []}\n```', {"keys": ["a"]}),
        ('```\n{\n"a": null\n}\n```', {"keys": ["a"]}),
    ],
    "max_words": [("one two  three", {"count": 3}), ("well-known: yes", {"count": 2})],
    "paragraphs": [
        ("one\n***\ntwo", {"count": 2}),
        ("one\nmore\n\n  ***  \n\ntwo\n***\n3", {"count": 3}),
        ("a *** b\n***\nc", {"count": 2}),
    ],
    "no_commas": [("a; b. c", {})],
    "title": [("<<poem of joy>>\nText", {}), ("It is called << 7 >>.", {})],
}

BAD = {
    "lowercase": [("The capital", {}), ("123", {}), ("parIs", {})],
    "uppercase": [("THE pACIFIC", {}), ("123 !", {})],
    "bullets": [
        ("* a\n* b", {"count": 3}),
        ("* a\n* b", {"count": 1}),
        ("a, b", {"count": 1}),
        ("*a\n-b", {"count": 2}),
    ],
    "include": [("Ladders", {"word": "ladder"}), ("stepladder", {"word": "ladder"}), ("lad der", {"word": "ladder"})],
    "avoid": [("A LADDER.", {"word": "ladder"}), ("step-ladder", {"word": "ladder"})],
    "ending": [
        ("That is all. Bye.", {"phrase": "That is all."}),
        ("that is all.", {"phrase": "That is all."}),
        ("That is all", {"phrase": "That is all."}),
    ],
    "quotes": [('"cold', {}), ("'cold'", {}), ('""', {}), ('"', {}), ("“cold”", {})],
    "json_keys": [
        ('{"a": 1}', {"keys": ["a", "b"]}),
        ('{"a": 1, "b": 2}', {"keys": ["a"]}),
        ('Here: {"a": 1}', {"keys": ["a"]}),
        ("{'a': 1}", {"keys": ["a"]}),
        ('["a"]', {"keys": ["a"]}),
        ('"a"', {"keys": ["a"]}),
        ('{"a": 1', {"keys": ["a"]}),
        ("[" * 100_000, {"keys": ["a"]}),
    ],
    "max_words": [("one two three four", {"count": 3})],
    "paragraphs": [
        ("one\n***\ntwo", {"count": 3}),
        ("one\n\ntwo", {"count": 2}),
        ("one *** two", {"count": 2}),
        ("one\n***\n", {"count": 2}),
        ("***\none", {"count": 2}),
        ("one\n****\ntwo", {"count": 2}),
    ],
    "no_commas": [("a, b", {})],
    "title": [("<poem>", {}), ("<<>>", {}), ("<< >>", {}), ("<<a\nb>>", {}), ("<<a>", {})],
}


def cases(table):
    return [
        pytest.param(kind, *case, id=f"{kind}-{n}") for kind, group in table.items() for n, case in enumerate(group)
    ]


@pytest.mark.parametrize(("kind", "answer", "arguments"), cases(GOOD))
def test_what_follows(kind, answer, arguments):
    assert follows(kind, answer, arguments)


@pytest.mark.parametrize(("kind", "answer", "arguments"), cases(BAD))
def test_what_does_not(kind, answer, arguments):
    assert not follows(kind, answer, arguments)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.kind)
def test_silence_follows_nothing(prompt):
    assert not follows(prompt.kind, " \n", prompt.arguments)


def test_every_kind_has_a_check_cases_and_five_prompts():
    assert set(GOOD) == set(BAD) == set(CHECKS)
    kinds = [prompt.kind for prompt in PROMPTS]
    assert {kind: kinds.count(kind) for kind in CHECKS} == dict.fromkeys(CHECKS, 5)
    # any number from the start is spread
    assert kinds[:12] == kinds[12:24] == list(CHECKS)
    assert len({prompt.text for prompt in PROMPTS}) == len(PROMPTS)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.kind)
def test_a_prompt_names_what_is_checked(prompt):
    for value in prompt.arguments.values():
        for word in value if isinstance(value, list) else [str(value)]:
            assert word in prompt.text


@given(st.text(), st.sampled_from(PROMPTS))
def test_any_text_is_an_answer(text, prompt):
    assert type(follows(prompt.kind, text, prompt.arguments)) is bool


@given(st.text(min_size=1), st.text("abc", min_size=1))
def test_a_word_is_there_or_not(text, word):
    if text.strip():
        assert follows("include", text, {"word": word}) != follows("avoid", text, {"word": word})


@pytest.mark.parametrize(
    ("answer", "topic", "expected"),
    [
        ("PARIS!", ("paris",), True),
        ("It is raining.", ("wet", "rain"), True),
        ("a train", ("rain",), False),
        ("HHHHHHHH", ("rain", "wet"), False),
        ("", ("rain",), False),
        ("anything", (), True),
        ("a.b", ("a.b",), True),
        ("aab", ("a.b",), False),
    ],
)
def test_topics(answer, topic, expected):
    assert on_topic(answer, topic) is expected


@pytest.mark.parametrize("babble", ["HHHHHHHH", "* * * * *", "F_L_M_S_S", "<<", '"\n"', "***"])
def test_babble_passes_nothing(babble):
    passed = [p for p in PROMPTS if follows(p.kind, babble, p.arguments) and on_topic(babble, p.topic)]
    assert passed == []


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.kind)
def test_a_topic_can_be_kept_to(prompt):
    """Its words are not those that the instruction forbids, and have no capital letters."""
    assert prompt.topic or prompt.kind in ("include", "ending", "json_keys", "title")
    for word in prompt.topic:
        assert word.islower()
        assert prompt.kind != "avoid" or follows("avoid", word, prompt.arguments)


def test_an_unknown_kind():
    with pytest.raises(InputError, match="unknown kind of instruction 'rhyme'; there are lowercase, "):
        follows("rhyme", "text", {})
