"""Sampling of the shared-prompt engine against enumeration and against its own scores."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from flexrec.policy.engine import SharedPromptEngine
from flexrec.policy.grammar import Grammar, follow
from made_grammars import END, PAD, letters, reasoning
from plain_computation import batch


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("form", [letters, reasoning])
def test_sampling_reports_the_log_probabilities_that_scoring_finds(tiny_model, form, temperature):
    grammar = form(6)
    rows, completions, constraints, _, sampled = batch(
        grammar, prompts=4, rollouts=3, model=tiny_model, temperature=temperature
    )
    with torch.no_grad():
        logps, _ = SharedPromptEngine(tiny_model, PAD).score(
            rows, completions, constraints, grammar, temperature=temperature
        )
    for row, values in enumerate(sampled.log_probabilities):
        torch.testing.assert_close(logps[row, : len(values)], torch.tensor(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [letters, reasoning])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_constrained_answers_are_permutations(llama, form, count):
    *_, orders, _ = batch(form(count), prompts=3, rollouts=4, model=llama)
    assert all(sorted(order) == list(range(count)) for order in orders)


def test_sampled_permutations_follow_the_enumerated_distribution(tiny_model):
    grammar = letters(4)
    prompt = [3, 1, 4, 1, 5]
    orders = list(itertools.permutations(range(4)))
    answers = torch.tensor([[10 + index for index in order] for order in orders])
    engine = SharedPromptEngine(tiny_model, PAD)
    constraints, _ = follow(grammar, answers.tolist(), 4)
    with torch.no_grad():
        logps, _ = engine.score([prompt] * len(orders), answers, constraints, grammar)
    probabilities = logps.sum(1).double().exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)

    drawn = 4000
    sampled = engine.sample([prompt], grammar, rollouts=drawn, temperature=1.0, seed=7)
    counts = np.zeros(len(orders))
    for answer in sampled.completions:
        counts[orders.index(tuple(token - 10 for token in answer))] += 1
    expected = (probabilities / probabilities.sum()).numpy() * drawn
    likely = expected >= 5
    observed = np.append(counts[likely], counts[~likely].sum())
    predicted = np.append(expected[likely], expected[~likely].sum())
    assert chisquare(observed, predicted).pvalue > 1e-3


def test_greedy_takes_the_most_probable_identifier_at_every_rank(llama):
    grammar = letters(4)
    prompt = [2, 7, 1, 8]
    engine = SharedPromptEngine(llama, PAD)
    greedy = engine.sample([prompt], grammar, rollouts=1, temperature=0.0, seed=0).completions[0]
    tokens, chosen = list(prompt), []
    for _ in range(4):
        with torch.no_grad():
            logits = llama(torch.tensor([tokens])).logits[0, -1]
        left = [token for token in range(10, 14) if token not in chosen]
        chosen.append(max(left, key=lambda token: logits[token].item()))
        tokens.append(chosen[-1])
    assert greedy == chosen


def test_sampling_is_reproducible_and_leaves_the_model_in_its_mode(llama):
    llama.train()
    engine = SharedPromptEngine(llama, PAD)
    runs = [
        engine.sample([[1, 2, 3]], letters(5), rollouts=8, temperature=1.0, seed=seed).completions for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert llama.training
    llama.eval()


def test_free_answers_stop_at_the_end_token(llama):
    free = Grammar(((10,), (11,)), constrained=False, end_token=END, max_length=30)
    sampled = SharedPromptEngine(llama, PAD).sample([[1, 2, 3]], free, rollouts=64, temperature=1.5, seed=0)
    ended = [answer for answer in sampled.completions if END in answer]
    assert ended
    assert all(answer.index(END) == len(answer) - 1 for answer in ended)
    assert all(len(answer) == 30 for answer in sampled.completions if END not in answer)
