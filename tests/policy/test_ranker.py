"""Prompts, grammars and readings of answers with a real tokenizer, and rankings of a tiny model."""

import copy

import numpy as np
import pytest
import torch

from flexrec.errors import InputError
from flexrec.policy.engine import SharedPromptEngine
from flexrec.policy.grammar import Kind, follow
from flexrec.policy.models import load_base
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need

NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)
LAYOUT = {"line": "{title}, {signals}: {id}", "signals": {"trend": "count"}, "history_line": "{title}"}
FREE = DecodingSettings(constrained=False, max_answer_tokens=12)


def query(number: int, count: int = 4, title: str = "Film") -> Query:
    trends = np.random.default_rng(number).permutation(count)
    candidates = tuple(Candidate(i, f"{title} {i}", (), {"trend": float(t)}) for i, t in enumerate(trends))
    return Query(Instance(number, number, 1000, (HistoryItem(99, "Seen before", (), 4.0),), candidates), NEED)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_base(tiny_folder)


@pytest.fixture
def make(model, smollm2_tokenizer):
    def ranker(decoding: DecodingSettings | None = None, **layout) -> Ranker:
        return Ranker(model, smollm2_tokenizer, PromptSettings(**{**LAYOUT, **layout}), decoding)

    return ranker


# --- Prompts ---


def test_a_prompt_ends_where_the_answer_begins(make, smollm2_tokenizer) -> None:
    ranker = make(system="You rank.")
    text = smollm2_tokenizer.decode(ranker.prompt(query(0)))
    assert text.startswith("<|im_start|>system\nYou rank.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    lines = text.splitlines()
    assert "Seen before" in lines
    (first,) = [line for line in lines if line.startswith("Film 0, ")]
    assert first.endswith(": A")
    assert any("Rank what trends first." in line for line in lines)


def test_no_control_token_of_any_tokenizer_comes_out_of_a_title(model, smollm2_tokenizer) -> None:
    tokenizer = copy.deepcopy(smollm2_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[/TOOL_RESULTS]", "▁<end>", "%END%"]})
    special = set(tokenizer.convert_tokens_to_ids(["[/TOOL_RESULTS]", "%END%"]))
    ranker = Ranker(model, tokenizer, PromptSettings(**LAYOUT))
    prompt = ranker.prompt(query(0, title="Film [/TOOL_RESULTS] x %EN%END%D%"))
    assert not special & set(prompt)
    assert "Film x 0" in tokenizer.decode(prompt)
    # what is gone anyway is not looked for
    assert not any("<" in token for token in ranker.prompting.special_tokens)


@pytest.mark.parametrize("decoding", [DecodingSettings(), FREE])
def test_a_prompt_that_the_model_cannot_read(make, model, decoding, monkeypatch) -> None:
    ranker = make(decoding)
    length = len(ranker.prompt(query(3)))
    room = 12 if decoding is FREE else 16
    monkeypatch.setattr(model.config, "max_position_embeddings", length + room)
    assert len(ranker.prompt(query(3))) == length
    monkeypatch.setattr(model.config, "max_position_embeddings", length + room - 1)
    told = rf"its prompt has {length} tokens, {room} are kept for the answer, and the model reads {length + room - 1}\."
    own = ", or `decoding.max_answer_tokens`" if decoding is FREE else ""
    message = rf"instance 3: {told} Lower `candidates`, .*`prompt.max_query_chars`{own}\.$"
    with pytest.raises(InputError, match=message):
        ranker.prompt(query(3))


def test_reasoning_needs_room_too(make, model, monkeypatch) -> None:
    ranker = make(DecodingSettings(max_reasoning_tokens=50), reasoning=True)
    length = len(ranker.prompt(query(3)))
    monkeypatch.setattr(model.config, "max_position_embeddings", length + 50)
    with pytest.raises(InputError, match=r"instance 3: its prompt has .*, or `decoding.max_reasoning_tokens`\.$"):
        ranker.prompt(query(3))


# --- Grammars ---


def test_letters_are_one_token_each(make, smollm2_tokenizer) -> None:
    grammar = make().grammar(30)
    assert [smollm2_tokenizer.decode(list(tokens)) for tokens in grammar.identifiers][:3] == [" A", " B", " C"]
    assert {len(tokens) for tokens in grammar.identifiers} == {1}
    assert len(set(grammar.identifiers)) == 30
    assert (grammar.opening, grammar.closing, grammar.reasoning_closed) == ((), (), None)
    assert grammar.end_token == smollm2_tokenizer.eos_token_id


def test_numbers_end_with_a_comma(make, smollm2_tokenizer) -> None:
    grammar = make(identifiers="numbers").grammar(12)
    assert [smollm2_tokenizer.decode(list(tokens)) for tokens in grammar.identifiers] == [f"{n}," for n in range(1, 13)]


@pytest.mark.parametrize("identifiers", ["letters", "numbers"])
@pytest.mark.parametrize("reasoning", [False, True])
def test_any_permutation_is_an_answer(make, smollm2_tokenizer, identifiers, reasoning) -> None:
    ranker = make(identifiers=identifiers, reasoning=reasoning)
    grammar = ranker.grammar(11)
    order = np.random.default_rng(0).permutation(11).tolist()
    thought = smollm2_tokenizer.encode("well, B then A</think>", add_special_tokens=False) if reasoning else []
    names = [list(grammar.identifiers[index]) for index in order]
    tokens = [*thought, *grammar.opening, *(token for name in names for token in name), *grammar.closing]
    answer = ranker.read(tokens, 11)
    assert answer.order == tuple(order)
    assert (answer.invalid, answer.repeated, answer.missing) == (0, 0, 0)
    expected = [-1] * (len(thought) + len(grammar.opening))
    expected += [rank for rank, name in enumerate(names) for _ in name] + [-1] * len(grammar.closing)
    assert list(answer.ranks) == expected
    text = smollm2_tokenizer.decode(tokens)
    assert ("<answer>" in text and text.endswith("</answer>")) == reasoning


def test_reasoning_is_closed_by_its_tag_however_it_is_split(make, smollm2_tokenizer) -> None:
    closed = make(reasoning=True).grammar(4).reasoning_closed
    whole = smollm2_tokenizer.encode("so be it</think>", add_special_tokens=False)
    split = [token for part in ("so", "<", "/", "th", "ink", ">") for token in smollm2_tokenizer.encode(part)]
    for tokens in (whole, split):
        assert closed(tokens)
        assert not any(closed(tokens[:cut]) for cut in range(len(tokens)))
    assert closed([*smollm2_tokenizer.encode("a" * 50), *split])


def test_a_grammar_is_made_once_per_number_of_candidates(make) -> None:
    ranker = make()
    assert ranker.grammar(4) is ranker.grammar(4)
    assert ranker.grammar(4) != ranker.grammar(5)


# --- Free answers ---


@pytest.mark.parametrize(
    ("text", "order", "invalid", "repeated", "missing"),
    [
        (" B A D C", (1, 0, 3, 2), 0, 0, 0),
        (" B, A; B Q", (1, 0), 1, 1, 2),
        (" I would say C", (2,), 3, 0, 3),
        ("", (), 0, 0, 4),
        ("<answer> A</answer>", (), 2, 0, 4),
    ],
)
def test_a_free_answer_is_read_as_it_is(make, smollm2_tokenizer, text, order, invalid, repeated, missing) -> None:
    ranker = make(FREE)
    tokens = [*smollm2_tokenizer.encode(text, add_special_tokens=False), smollm2_tokenizer.eos_token_id]
    answer = ranker.read(tokens, 4)
    assert answer.order == order
    assert (answer.invalid, answer.repeated, answer.missing) == (invalid, repeated, missing)
    assert len(answer.ranks) == len(tokens)
    # the tokens that name kept candidates, in their order; the end of the answer is none of them
    named = [
        smollm2_tokenizer.decode([token]).strip() for token, rank in zip(tokens, answer.ranks, strict=True) if rank >= 0
    ]
    assert named == ["ABCD"[index] for index in order]
    assert answer.ranks[-1] == -1


def test_a_free_answer_with_reasoning(make, smollm2_tokenizer) -> None:
    ranker = make(FREE, reasoning=True)
    tokens = smollm2_tokenizer.encode("<think>A or B</think><answer> C B</answer> D", add_special_tokens=False)
    answer = ranker.read(tokens, 4)
    assert (answer.order, answer.missing) == ((2, 1), 2)
    assert [
        smollm2_tokenizer.decode([token]) for token, rank in zip(tokens, answer.ranks, strict=True) if rank >= 0
    ] == [
        " C",
        " B",
    ]


# --- Rankings ---


def test_rankings_do_not_depend_on_company_or_batch(make) -> None:
    queries = [query(number, count) for number, count in enumerate([4, 6, 4, 5, 4, 6, 4])]
    together = make(DecodingSettings(prompts_per_batch=3)).rank(queries)
    for answer, single in zip(together, (make().rank([q])[0] for q in queries), strict=True):
        assert answer.order == single.order
    assert [len(answer.order) for answer in together] == [4, 6, 4, 5, 4, 6, 4]
    assert all(sorted(answer.order) == list(range(len(answer.order))) for answer in together)
    assert make().rank([]) == []


@pytest.mark.parametrize("reasoning", [False, True])
def test_one_candidate_is_ranked_first(make, reasoning) -> None:
    ranker = make(DecodingSettings(max_reasoning_tokens=3), reasoning=reasoning)
    alone, among = ranker.rank([query(0, 1), query(1, 4)])
    assert alone.order == (0,)
    assert alone.missing == 0
    assert len(among.order) == 4


def test_greedy_means_the_most_probable_identifier_at_every_rank(make, model) -> None:
    """Against one plain forward pass per rank over the whole vocabulary."""
    ranker = make()
    (answer,) = ranker.rank([query(5)])
    names = [tokens[0] for tokens in ranker.grammar(4).identifiers]
    tokens, left = ranker.prompt(query(5)), list(range(4))
    for index in answer.order:
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        assert index == max(left, key=lambda candidate: logits[names[candidate]].item())
        left.remove(index)
        tokens = [*tokens, names[index]]


def test_samples_are_the_engines(make, model, smollm2_tokenizer) -> None:
    ranker = make()
    prompts = [ranker.prompt(query(number)) for number in range(2)]
    ours = ranker.sample(prompts, 4, rollouts=3, temperature=1.0, seed=7)
    grammar, engine = ranker.grammar(4), SharedPromptEngine(model, smollm2_tokenizer.pad_token_id)
    assert ours == engine.sample(prompts, grammar, rollouts=3, temperature=1.0, seed=7)
    assert len(ours.completions) == 6
    constraints, _ = follow(grammar, ours.completions, 4)
    assert (constraints.kind == int(Kind.CHOICE)).all()
    assert all(sorted(ranker.read(tokens, 4).order) == list(range(4)) for tokens in ours.completions)


def test_free_answers_of_a_model_that_knows_nothing(make) -> None:
    answers = make(FREE).rank([query(number) for number in range(3)])
    for answer in answers:
        assert len(answer.order) + answer.missing == 4
        assert len(set(answer.order)) == len(answer.order)
    assert sum(answer.missing for answer in answers) > 0
