"""The shared-prompt engine against the plain computation."""

import numpy as np
import pytest
import torch

from flexrec.errors import InputError
from flexrec.policy.decoder import Decoder
from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine, make_engine
from flexrec.policy.grammar import follow
from made_grammars import PAD, letters, reasoning
from plain_computation import assert_equal, batch, gradients, plain_scores, with_adapter


@pytest.mark.parametrize("adapter", ["none", "ours", "PEFT's own"])
@pytest.mark.parametrize("form", [letters, reasoning])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_and_gradients_equal_the_plain_computation(tiny_model, adapter, form, temperature):
    model = tiny_model if adapter == "none" else with_adapter(tiny_model, plain_peft=adapter == "PEFT's own")
    grammar = form(5)
    rows, completions, constraints, _, _ = batch(grammar, prompts=3, rollouts=4, model=model)
    # rows in any order: TRL shuffles them
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    rows, completions = [rows[row] for row in order], completions[order]
    constraints = type(constraints)(*(value[order.numpy()] for value in vars(constraints).values()))

    asked = rows, completions, constraints, grammar
    shared = gradients(model, lambda: SharedPromptEngine(model, PAD).score(*asked, temperature=temperature))
    replicated = gradients(model, lambda: ReplicatedEngine(model, PAD).score(*asked, temperature=temperature))
    plain = gradients(model, lambda: plain_scores(model, *asked, temperature=temperature))
    assert_equal(shared, replicated)
    assert_equal(shared, plain)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("count", "rollouts", "form", "checkpointing"),
    [
        (2, 1, letters, False),
        (2, 16, reasoning, True),
        (9, 3, letters, True),
        (9, 5, reasoning, False),
        (50, 1, reasoning, True),
        (50, 16, letters, False),
    ],
)
def test_any_number_of_candidates_and_rollouts(llama, count, rollouts, form, checkpointing, adapter):
    check_both_engines(llama, count, rollouts, form, checkpointing, adapter)


def test_a_few_candidates_with_checkpoints_in_every_architecture(tiny_model):
    check_both_engines(tiny_model, 9, 3, letters, checkpointing=True, adapter=True)


def check_both_engines(tiny_model, count, rollouts, form, checkpointing, adapter):
    model, grammar = with_adapter(tiny_model) if adapter else tiny_model, form(count)
    rows, completions, constraints, _, _ = batch(grammar, prompts=2, rollouts=rollouts, model=model)
    engine = SharedPromptEngine(model, PAD, checkpointing=checkpointing)
    shared = gradients(model, lambda: engine.score(rows, completions, constraints, grammar))
    replicated = gradients(model, lambda: ReplicatedEngine(model, PAD).score(rows, completions, constraints, grammar))
    assert_equal(shared, replicated)


def test_checkpointing_keeps_less(llama):
    grammar = letters(20)
    _, completions, constraints, _, sampled = batch(grammar, prompts=1, rollouts=8, model=llama)
    kept = []
    for checkpointing in (False, True):
        engine, size = SharedPromptEngine(llama, PAD, checkpointing=checkpointing), [0]

        def count(tensor, size=size):
            size[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            engine.score([[1] * 200] * len(sampled.completions), completions, constraints, grammar)
        kept.append(size[0])
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["shared_prompt", "replicated"])
def test_one_on_policy_step_reads_the_prompts_once_and_stays_exact(tiny_model, adapter, kind, monkeypatch):
    model = with_adapter(tiny_model) if adapter else tiny_model
    grammar, texts, size = letters(5), [[1, 2, 3], [4, 5, 6, 7, 8]], 4
    engine = make_engine(kind, model, PAD, remember=True)

    def step():
        sampled = engine.sample(texts, grammar, rollouts=size, temperature=1.0, seed=0, graph=True)
        completions = torch.tensor(sampled.completions)
        constraints, _ = follow(grammar, sampled.completions, 5)
        rows = [text for text in texts for _ in range(size)]
        with torch.no_grad():
            old, _ = engine.score(rows, completions, constraints, grammar, entropies=False)
            if adapter:
                with model.disable_adapter():
                    reference, _ = engine.score(rows, completions, constraints, grammar, entropies=False)
                    expected = plain_scores(model, rows, completions, constraints, grammar)[0]
                torch.testing.assert_close(reference, expected, rtol=1e-4, atol=1e-5)
        # the trainer shuffles the rollouts before the update
        shuffled = [5, 3, 7, 0, 1, 6, 2, 4]
        rows, completions, old = [rows[row] for row in shuffled], completions[shuffled], old[shuffled]
        constraints, _ = follow(grammar, completions.tolist(), 5)
        found = gradients(model, lambda: engine.score(rows, completions, constraints, grammar))
        assert_equal(found, gradients(model, lambda: plain_scores(model, rows, completions, constraints, grammar)))
        torch.testing.assert_close(old, found[0], rtol=1e-4, atol=1e-5)
        # the sampler's log-probabilities are the update's: nothing has to be computed again
        drawn = torch.tensor(sampled.log_probabilities)[shuffled]
        torch.testing.assert_close(drawn, found[0], rtol=1e-4, atol=1e-5)

    encoded, lower, lower_answers = [], [], []
    encode, run_lower, run_answers = Decoder.encode, Decoder.lower, Decoder.lower_answers
    monkeypatch.setattr(Decoder, "encode", lambda *a: encoded.append(1) or encode(*a))
    monkeypatch.setattr(Decoder, "lower", lambda *a: lower.append(1) or run_lower(*a))
    monkeypatch.setattr(Decoder, "lower_answers", lambda *a: lower_answers.append(1) or run_answers(*a))
    step()
    if kind == "shared_prompt":
        # the policy's prompts once, the reference's once; what both share at the bottom once, prompts and rollouts
        assert (len(encoded), len(lower), len(lower_answers)) == ((2, 1, 1) if adapter else (1, 0, 0))
    # new weights: nothing that was made with the old ones may be used again
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.mul_(1.1)
    step()


@pytest.mark.parametrize("ragged", [False, True])
def test_prompts_encoded_a_few_at_a_time_are_the_same(tiny_model, monkeypatch, ragged):
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 9, size=3 + number * ragged).tolist() for number in (4, 1, 5, 0, 2, 3, 6)]
    engine, calls = SharedPromptEngine(tiny_model, PAD), []
    padded = Decoder._padded
    monkeypatch.setattr(Decoder, "_padded", lambda self, some, pad: calls.append(len(some)) or padded(self, some, pad))

    def encoded(at_once):
        monkeypatch.setattr("flexrec.policy.decoder.AT_ONCE", at_once)
        calls.clear()
        with torch.no_grad():
            found = engine._decoder.encode(texts, PAD)
        assert max(calls) == min(at_once, len(texts))
        return found

    whole, pieces = encoded(100), encoded(3)
    assert whole.lengths.tolist() == pieces.lengths.tolist() == [len(text) for text in texts]
    assert (whole.seen is None) == (pieces.seen is None) == (not ragged)
    torch.testing.assert_close(whole.last, pieces.last, rtol=1e-4, atol=1e-5)
    read = torch.ones(1, dtype=torch.bool) if whole.seen is None else whole.seen.transpose(-1, -2)
    for one, other in zip(whole.keys + whole.values, pieces.keys + pieces.values, strict=True):
        torch.testing.assert_close(one * read, other * read, rtol=1e-4, atol=1e-5)
    if ragged:
        assert torch.equal(whole.seen, pieces.seen)
    answers = [engine.sample(texts, letters(5), rollouts=2, temperature=1.0, seed=1) for _ in range(2)]
    monkeypatch.setattr("flexrec.policy.decoder.AT_ONCE", 100)
    answers.append(engine.sample(texts, letters(5), rollouts=2, temperature=1.0, seed=1))
    assert answers[0].completions == answers[1].completions == answers[2].completions


def test_a_prompt_that_comes_twice_in_a_batch(llama):
    grammar, text = letters(5), [1, 2, 3]
    engine = SharedPromptEngine(llama, PAD, remember=True)
    sampled = engine.sample([text, [4, 5], text], grammar, rollouts=2, temperature=1.0, seed=0, graph=True)
    rows = [text, text, [4, 5], [4, 5], text, text]
    completions = torch.tensor(sampled.completions)
    constraints, _ = follow(grammar, sampled.completions, 5)
    found = gradients(llama, lambda: engine.score(rows, completions, constraints, grammar))
    plain = ReplicatedEngine(llama, PAD)
    assert_equal(found, gradients(llama, lambda: plain.score(rows, completions, constraints, grammar)))


def test_without_a_kernel_for_parts_the_result_is_the_same(tiny_model, monkeypatch):
    grammar = letters(6)
    rows, completions, constraints, _, _ = batch(grammar, prompts=3, rollouts=4, model=tiny_model)
    compute = lambda: SharedPromptEngine(tiny_model, PAD).score(rows, completions, constraints, grammar)  # noqa: E731
    parts = gradients(tiny_model, compute)
    monkeypatch.setattr("flexrec.policy.attention._has_parts", lambda query: False)
    assert_equal(gradients(tiny_model, compute), parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "softcapping"),
        ({"attention_dropout": 0.1}, "attention dropout"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic position"),
    ],
)
def test_models_that_would_not_be_computed_exactly_are_refused(llama, monkeypatch, change, message):
    for name, value in change.items():
        monkeypatch.setattr(llama.config, name, value, raising=False)
    with pytest.raises(InputError, match=message):
        SharedPromptEngine(llama, PAD)


def test_the_replicated_engine_takes_sliding_windows():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
    )
    model = Gemma3ForCausalLM(config).eval()
    grammar = letters(5)
    engine = ReplicatedEngine(model, PAD)
    texts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 1, 4]]
    sampled = engine.sample(texts, grammar, rollouts=3, temperature=1.0, seed=0)
    rows = [text for text in texts for _ in range(3)]
    constraints, orders = follow(grammar, sampled.completions, 5)
    assert all(sorted(order) == list(range(5)) for order in orders)
    completions = torch.tensor(sampled.completions)
    with torch.no_grad():
        found, _ = engine.score(rows, completions, constraints, grammar)
        expected, _ = plain_scores(model, rows, completions, constraints, grammar)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(sampled.log_probabilities), found, rtol=1e-4, atol=1e-5)
