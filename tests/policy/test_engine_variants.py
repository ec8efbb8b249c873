"""Models and answers out of the ordinary: exact where they are accepted, refused in words where they would not be."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from flexrec.errors import InputError
from flexrec.policy.engine import make_engine
from flexrec.policy.grammar import Kind, follow
from flexrec.policy.lora import in_model_type
from flexrec.policy.settings import AdapterSettings
from flexrec.rl.warm_up import add_adapter
from made_grammars import FIRST, PAD, letters, reasoning

ENGINES = ("shared_prompt", "replicated")


def own_log_probabilities(model, prompt, answer):
    """Of the identifiers that remain, from the logits of the model's own forward pass."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    left, values = sorted(answer), []
    for row, token in zip(logits, answer, strict=True):
        values.append(row[left].log_softmax(-1)[left.index(token)])
        left.remove(token)
    return torch.stack(values)


def values_and_gradients(kind, model, *given):
    model.zero_grad()
    logps, entropies = make_engine(kind, model, PAD).score(*given)
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    (weights * logps + 0.3 * entropies).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logps.detach(), entropies.detach(), grads


def assert_exact(model):
    """Sampling, log-probabilities and all gradients of the shared prompt are those of Hugging Face's forward pass."""
    rng, grammar = np.random.default_rng(0), letters(6)
    prompts = [rng.integers(1, 9, size=size).tolist() for size in (5, 47, 30)]
    sampled = make_engine("shared_prompt", model, PAD).sample(prompts, grammar, rollouts=3, temperature=1.0, seed=0)
    rows = [prompt for prompt in prompts for _ in range(3)]
    completions = torch.tensor(sampled.completions)
    constraints, _ = follow(grammar, sampled.completions, 6)
    shared, replicated = (values_and_gradients(k, model, rows, completions, constraints, grammar) for k in ENGINES)
    with torch.no_grad():
        own = torch.stack([own_log_probabilities(model, *pair) for pair in zip(rows, sampled.completions, strict=True)])
    for found in (torch.tensor(sampled.log_probabilities), replicated[0], own):
        torch.testing.assert_close(shared[0], found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared[1], replicated[1], rtol=1e-4, atol=1e-5)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert shared[2].keys() == replicated[2].keys() == trained
    for name, gradient in shared[2].items():
        scale = replicated[2][name].abs().max().clamp(min=1e-3)
        assert (gradient - replicated[2][name]).abs().max() <= 1e-4 * scale, name
    return own


# --- Positions ---

ROPE = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "linear": {"factor": 4.0},
}


@pytest.mark.parametrize("kind", ROPE)
def test_stretched_positions(tiny, kind):
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPE[kind]}
    model, usual = tiny("llama", rope_parameters=rope, max_position_embeddings=128), tiny("llama")
    usual.load_state_dict(model.state_dict())
    # it does change what the model says
    assert (assert_exact(model) - assert_exact(usual)).abs().max() > 1e-2


# --- Weights ---


def test_untied_embeddings_and_no_weight_as_it_was_initialised(architecture):
    model = architecture(0, tie_word_embeddings=False).eval()
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)
        elif "norm" in name:
            nn.init.normal_(weight, mean=1.0, std=0.3)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.model_type != "qwen2" or any(name.endswith("bias") for name, _ in model.named_parameters())
    assert_exact(model)


# --- Windows ---


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mistral", {"sliding_window": 8}),
        ("mistral", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    ],
)
def test_sliding_windows_are_refused(tiny, family, options):
    if not options:
        # Hugging Face's default is a window of 4096 tokens
        options = {"sliding_window": type(tiny(family).config)().sliding_window}
    with pytest.raises(InputError, match="sliding-window layers are not supported by the shared-prompt engine"):
        make_engine("shared_prompt", tiny(family, **options), PAD)


def test_windows_that_no_layer_has_are_none(tiny):
    assert_exact(tiny("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=3))


def test_a_family_that_the_shared_prompt_does_not_know(shape):
    model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, head_dim=8, sliding_window=4))
    with pytest.raises(
        InputError, match=r"llama, mistral, qwen2, qwen3, not gemma3_text; `decoding.engine: replicated`"
    ):
        make_engine("shared_prompt", model, PAD)


# --- Logits ---


@pytest.mark.parametrize("kind", ENGINES)
def test_logits_that_are_changed_afterwards_are_refused_by_both_engines(shape, kind):
    model = Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8))
    with pytest.raises(InputError, match="`final_logit_softcapping` are not supported"):
        make_engine(kind, model, PAD)


ON_THE_OUTPUT = {
    "trained copy": {"modules_to_save": ["lm_head"]},
    "trained copy of the tied embedding": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "single tokens of the tied embedding": {"trainable_token_indices": [3]},
    "parameter": {"target_parameters": ["lm_head.weight"]},
}


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("options", [None, *ON_THE_OUTPUT.values()], ids=["lora", *ON_THE_OUTPUT])
def test_an_adapter_on_the_output_matrix_is_refused_by_both_engines(tiny, kind, options):
    if options is None:
        model = add_adapter(tiny("llama"), AdapterSettings(rank=2, targets=("q_proj", "lm_head")), seed=0)
    else:
        model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"], **options))
    message = r"output matrix `lm_head` is not a plain .*leave `lm_head` out of the adapter's `targets`"
    with pytest.raises(InputError, match=message):
        make_engine(kind, model, PAD)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_the_embedding_is_computed_exactly(tiny, tied):
    model = tiny("llama", tie_word_embeddings=tied)
    model = in_model_type(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight, std=0.3)
    assert_exact(model)


# --- One candidate ---


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("form", [letters, reasoning])
def test_of_one_candidate_there_is_one_order(tiny, kind, temperature, form):
    model, grammar = tiny("llama"), form(1)
    engine, prompts = make_engine(kind, model, PAD), [[1, 2, 3], [4, 5, 6, 7]]
    sampled = engine.sample(prompts, grammar, rollouts=4, temperature=temperature, seed=0)
    length = max(map(len, sampled.completions))
    constraints, orders = follow(grammar, sampled.completions, length)
    assert orders == [[0]] * 8
    completions = torch.tensor([answer + [PAD] * (length - len(answer)) for answer in sampled.completions])
    drawn = torch.tensor([values + [0.0] * (length - len(values)) for values in sampled.log_probabilities])
    with torch.no_grad():
        logps, entropies = engine.score([p for p in prompts for _ in range(4)], completions, constraints, grammar)
    torch.testing.assert_close(drawn, logps, rtol=1e-4, atol=1e-5)
    # all but the reasoning is certain
    free = torch.from_numpy(constraints.kind) == int(Kind.FREE)
    assert free.any() == (form is reasoning)
    for values in (drawn, logps, -entropies):
        assert (values[free] < 0).all()
        assert (values[~free] == 0).all()
    tail = [50, 60, 61, FIRST, 62] if form is reasoning else [FIRST]
    assert all(answer[-len(tail) :] == tail for answer in sampled.completions)
