"""vLLM as a generation backend: what is ours, without vLLM (test_vllm_agrees.py has the real thing)."""

import dataclasses
import itertools
import math

import pytest

from flexrec.errors import InputError
from flexrec.policy.grammar import Grammar
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.policy.vllm_sampler import (
    VllmSampler,
    complete_answer,
    read_grammar,
    sampled_tokens,
    write_grammar,
)
from flexrec.prompting import PromptSettings

END = 9
LETTERS = Grammar(identifiers=((1,), (2,), (3,)), constrained=True, end_token=END, max_length=8)
TAGGED = Grammar(
    identifiers=((1, 2), (1, 3), (4,)), constrained=True, end_token=END, max_length=8, opening=(7,), closing=(8, 8)
)
FREE = Grammar(identifiers=((1,), (2,)), constrained=False, end_token=END, max_length=4)


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_certain_tokens_are_added_to_an_answer():
    # two of three letters are named, so the third is certain
    assert complete_answer(LETTERS, [3, 1], [-0.5, -0.25]) == ([3, 1, 2], [-0.5, -0.25, 0.0])
    # an end token that the processor let pass in place of a certain rest is dropped
    assert complete_answer(LETTERS, [3, 1, END], [-0.5, -0.25, 0.0]) == ([3, 1, 2], [-0.5, -0.25, 0.0])
    # opening 7 is forced: its log-probability is 0 whatever vLLM says; then `1 3`, `4`, and the rest `1 2`, `8 8`
    answer = complete_answer(TAGGED, [7, 1, 3, 4], [-1e-9, -0.5, -0.25, -0.125])
    assert answer == ([7, 1, 3, 4, 1, 2, 8, 8], [0.0, -0.5, -0.25, -0.125, 0.0, 0.0, 0.0, 0.0])
    # a free answer is whole with its end token or at its longest
    assert complete_answer(FREE, [5, END], [-1.0, -2.0]) == ([5, END], [-1.0, -2.0])
    assert complete_answer(FREE, [5, 5, 5, 5], [-1.0] * 4) == ([5, 5, 5, 5], [-1.0] * 4)


def test_of_one_candidate_the_reasoning_alone_is_sampled():
    grammar = dataclasses.replace(
        LETTERS,
        identifiers=((1,),),
        reasoning_closed=lambda tokens: tokens[-1] == 6,
        reasoning_end=(6,),
        max_reasoning=3,
    )
    assert complete_answer(grammar, [5, 6], [-1.0, -2.0]) == ([5, 6, 1], [-1.0, -2.0, 0.0])
    assert complete_answer(grammar, [5, 5, 5, 6], [-1.0] * 4) == ([5, 5, 5, 6, 1], [-1.0, -1.0, -1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="ended an answer after 1 tokens"):
        complete_answer(grammar, [5], [-1.0])
    assert complete_answer(dataclasses.replace(LETTERS, identifiers=((1,),)), [], []) == ([1], [0.0])


@pytest.mark.parametrize(
    ("grammar", "tokens", "message"),
    [
        (LETTERS, [3, 3], "token 3 .* at position 1 of an answer, which the grammar does not allow"),
        (LETTERS, [5], "token 5 .* at position 0"),
        (LETTERS, [END], f"token {END} .* at position 0"),
        (TAGGED, [1], "token 1 .* at position 0"),
        (TAGGED, [7, 1, 4], "token 4 .* at position 2"),
        (LETTERS, [3], "ended an answer after 1 tokens"),
        (FREE, [5], "ended an answer after 1 tokens"),
    ],
)
def test_answers_outside_the_grammar_are_refused(grammar, tokens, message):
    with pytest.raises(InputError, match=message):
        complete_answer(grammar, tokens, [-1.0] * len(tokens))


def test_a_log_probability_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="log-probability nan"):
        complete_answer(LETTERS, [3, 1], [math.nan, 0.0])


def test_how_many_tokens_have_to_be_sampled():
    assert sampled_tokens(LETTERS) == 2  # the third letter is certain
    assert sampled_tokens(TAGGED) == 1 + 4  # the opening, and both long identifiers
    assert sampled_tokens(FREE) == 4
    thinking = dataclasses.replace(
        TAGGED, reasoning_closed=lambda tokens: False, reasoning_end=(6, 6), max_reasoning=10
    )
    assert sampled_tokens(thinking) == 10 + 2 + 1 + 4


def test_a_grammar_travels_as_text(smollm2_tokenizer):
    for reasoning, identifiers in itertools.product((False, True), ("letters", "numbers")):
        prompt = PromptSettings(reasoning=reasoning, identifiers=identifiers)
        grammar = Ranker(None, smollm2_tokenizer, prompt, DecodingSettings()).grammar(11)
        back = read_grammar(write_grammar(grammar), smollm2_tokenizer)
        assert back == grammar
        if reasoning:
            thought = smollm2_tokenizer.encode("so it is</think> then")
            ends = [back.reasoning_closed(thought[:end]) for end in range(len(thought) + 1)]
            assert ends == [grammar.reasoning_closed(thought[:end]) for end in range(len(thought) + 1)]
            assert ends[0] is False
            assert ends[-1] is True
    with pytest.raises(InputError, match="no grammar of flexrec"):
        read_grammar('{"identifiers": [[1]]}', None)
    with pytest.raises(InputError, match="no grammar of flexrec"):
        read_grammar("[", None)


class FakeEngine:
    """Answers every request with all identifiers in order, and remembers what it was asked."""

    def __init__(self):
        self.requests = []

    def generate(self, requests):
        self.requests += requests
        return [
            [([1 + index % 2, 3], [-float(row), -float(index)]) for index in range(request.count)]
            for row, request in enumerate(requests)
        ]

    def load(self, weights):
        self.loaded = dict(weights())


def test_requests_are_seeded_and_answers_keep_their_order():
    engine = FakeEngine()
    sampler = VllmSampler(engine)
    rollouts = sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=3)
    assert rollouts.completions == [[1, 3, 2], [2, 3, 1], [1, 3, 2], [2, 3, 1]]
    assert [values[:2] for values in rollouts.log_probabilities] == [[0, 0], [0, -1], [-1, 0], [-1, -1]]
    first, second = engine.requests
    assert (first.prompt, first.count, first.temperature, first.max_tokens) == ([5, 6], 2, 0.7, 2)
    # prompts must not share their random numbers
    assert first.seed != second.seed
    sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=3)
    sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=4)
    assert [request.seed for request in engine.requests[2:4]] == [first.seed, second.seed]
    assert engine.requests[4].seed not in (first.seed, second.seed)
    # greedy answers are asked for once
    greedy = sampler.sample([[5]], LETTERS, rollouts=3, temperature=0.0, seed=3)
    assert engine.requests[-1].count == 1
    assert greedy.completions == [[1, 3, 2]] * 3


def test_weights_go_to_the_engine_under_the_names_of_the_folder(llama):
    engine = FakeEngine()
    VllmSampler(engine).refresh(llama)
    assert set(engine.loaded) == {name for name, _ in llama.named_parameters()}
