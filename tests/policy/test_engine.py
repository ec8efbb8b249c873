"""The shared-prompt engine against the plain computation, and sampling against enumeration."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from flexrec.errors import InputError
from flexrec.policy.engine import pad_prompts, sample, score
from flexrec.policy.grammar import Grammar, follow

END = 69
PAD = 0


def letters(count, **options):
    return Grammar(
        tuple((10 + index,) for index in range(count)), constrained=True, end_token=END, max_length=80, **options
    )


def reasoning(count):
    return letters(
        count,
        opening=(60, 61),
        closing=(62,),
        reasoning_closed=lambda tokens: tokens[-1] == 50,
        reasoning_end=(50,),
        max_reasoning=5,
    )


def batch(grammar, *, prompts, rollouts, seed=0, model):
    """Ragged prompts, sampled answers, everything padded as the trainer pads it."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 9, size=rng.integers(3, 12)).tolist() for _ in range(prompts)]
    sampled = sample(model, texts, grammar, rollouts=rollouts, temperature=1.0, seed=seed, pad_token=PAD)
    tokens, mask = pad_prompts([text for text in texts for _ in range(rollouts)], PAD)
    length = max(len(answer) for answer in sampled.completions)
    completions = torch.tensor([answer + [PAD] * (length - len(answer)) for answer in sampled.completions])
    constraints, orders = follow(grammar, sampled.completions, length)
    return tokens, mask, completions, constraints, orders, sampled


def plain_scores(model, tokens, mask, completions, constraints, grammar, temperature=1.0):
    """From scratch: the whole sequence of every row through the whole model, full logits, masked by hand."""
    full = torch.cat([tokens, completions], 1)
    full_mask = torch.cat([mask, torch.ones_like(completions)], 1)
    positions = (full_mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=full, attention_mask=full_mask, position_ids=positions).logits
    logits = logits[:, tokens.shape[1] - 1 : -1].float() / temperature
    rows = []
    for n, t in itertools.product(range(completions.shape[0]), range(completions.shape[1])):
        kind = constraints.kind[n, t]
        if kind in (2, 3):
            rows.append((torch.zeros(()), torch.zeros(())))
            continue
        if kind == 1:
            columns = [c for c, keep in zip(grammar.choices, constraints.allowed[n, t], strict=True) if keep]
        else:
            columns = [c for c in range(logits.shape[-1]) if not (grammar.constrained and c == grammar.end_token)]
        table = logits[n, t, columns].log_softmax(-1)
        rows.append((table[columns.index(int(completions[n, t]))], -(table.exp() * table).sum()))
    logps, entropies = (torch.stack(values).reshape(completions.shape) for values in zip(*rows, strict=True))
    return logps, entropies


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("form", [letters, reasoning])
def test_scores_and_gradients_equal_the_plain_computation(tiny_model, adapter, form):
    model = tiny_model
    if adapter:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[1, 2])
        model = get_peft_model(model, config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    grammar = form(5)
    tokens, mask, completions, constraints, _, _ = batch(grammar, prompts=3, rollouts=4, model=model)
    # rows in any order: TRL shuffles them
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))
    tokens, mask, completions = tokens[order], mask[order], completions[order]
    constraints = type(constraints)(*(value[order.numpy()] for value in vars(constraints).values()))
    weights = torch.randn(completions.shape, generator=torch.Generator().manual_seed(2))

    def run(compute):
        model.zero_grad()
        logps, entropies = compute()
        (weights * logps + 0.3 * entropies).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return logps.detach(), entropies.detach(), gradients

    shared = run(lambda: score(model, tokens, mask, completions, constraints, grammar))
    replicated = run(lambda: score(model, tokens, mask, completions, constraints, grammar, share_prompts=False))
    plain = run(lambda: plain_scores(model, tokens, mask, completions, constraints, grammar))
    for other in (replicated, plain):
        torch.testing.assert_close(shared[0], other[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared[1], other[1], rtol=1e-4, atol=1e-5)
        assert shared[2].keys() == other[2].keys()
        for name, gradient in shared[2].items():
            scale = other[2][name].abs().max().clamp(min=1e-3)
            assert (gradient - other[2][name]).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("form", [letters, reasoning])
def test_sampling_reports_the_log_probabilities_that_scoring_finds(llama, form):
    grammar = form(6)
    tokens, mask, completions, constraints, _, sampled = batch(grammar, prompts=4, rollouts=3, model=llama)
    with torch.no_grad():
        logps, _ = score(llama, tokens, mask, completions, constraints, grammar)
    for row, values in enumerate(sampled.log_probabilities):
        torch.testing.assert_close(logps[row, : len(values)], torch.tensor(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [letters, reasoning])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_constrained_answers_are_permutations(llama, form, count):
    *_, orders, _ = batch(form(count), prompts=3, rollouts=4, model=llama)
    assert all(sorted(order) == list(range(count)) for order in orders)


def test_sampled_permutations_follow_the_enumerated_distribution(llama):
    grammar = letters(4)
    prompt = [3, 1, 4, 1, 5]
    orders = list(itertools.permutations(range(4)))
    answers = torch.tensor([[10 + index for index in order] for order in orders])
    tokens, mask = pad_prompts([prompt] * len(orders), PAD)
    constraints, _ = follow(grammar, answers.tolist(), 4)
    with torch.no_grad():
        logps, _ = score(llama, tokens, mask, answers, constraints, grammar)
    probabilities = logps.sum(1).double().exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)

    drawn = 4000
    sampled = sample(llama, [prompt], grammar, rollouts=drawn, temperature=1.0, seed=7, pad_token=PAD)
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
    greedy = sample(llama, [prompt], grammar, rollouts=1, temperature=0.0, seed=0, pad_token=PAD).completions[0]
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
    runs = [
        sample(llama, [[1, 2, 3]], letters(5), rollouts=8, temperature=1.0, seed=seed, pad_token=PAD).completions
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert llama.training
    llama.eval()


def test_free_answers_stop_at_the_end_token(llama):
    free = Grammar(((10,), (11,)), constrained=False, end_token=END, max_length=30)
    sampled = sample(llama, [[1, 2, 3]], free, rollouts=64, temperature=1.5, seed=0, pad_token=PAD)
    ended = [answer for answer in sampled.completions if END in answer]
    assert ended
    assert all(answer.index(END) == len(answer) - 1 for answer in ended)
    assert all(len(answer) == 30 for answer in sampled.completions if END not in answer)


def test_models_that_change_their_logits_afterwards_are_refused(llama):
    llama.config.final_logit_softcapping = 30.0
    with pytest.raises(InputError, match="softcapping"):
        sample(llama, [[1]], letters(2), rollouts=1, temperature=0.0, seed=0, pad_token=PAD)
    llama.config.final_logit_softcapping = None
