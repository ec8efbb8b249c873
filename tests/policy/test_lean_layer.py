"""A layer in few operations against the model's own, one architecture after the other."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from flexrec.policy.decoder import Decoder
from flexrec.policy.decoding import decoding_passes
from flexrec.policy.engine import SharedPromptEngine
from flexrec.policy.grammar import Grammar, follow
from flexrec.policy.lean_layer import LeanLayer, signed
from flexrec.policy.lora import in_model_type
from flexrec.policy.replicated import ReplicatedEngine

TARGETS = {
    "none": [],
    "queries and values": ["q_proj", "v_proj"],
    "keys, gate and what is added": ["k_proj", "gate_proj", "o_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def adapted(model, targets, **options):
    if not targets:
        return model
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    return in_model_type(model)


def random_biases(model):
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)
        if "norm" in name:
            nn.init.normal_(weight, mean=1.0, std=0.3)
    return model


def both(model, dtype, *, steps=3):
    """What the second layer makes of a few tokens of 2 x 3 answers: its own modules, and in few operations."""
    model = copy.deepcopy(model).to(dtype).eval()
    decoder = Decoder(model)
    layer = decoder._layers[1]
    assert LeanLayer.can(layer)
    lean = LeanLayer(layer)
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 2, 7, 8, generator=generator).to(dtype) for _ in range(2))
    seen = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])[:, None, None]
    parts = list(decoding_passes(iter([(keys, values)] * 2), seen, 3, steps, 2))
    found = []
    with torch.no_grad():
        for step in range(steps):
            hidden = torch.randn(2, 3, 32, generator=generator).to(dtype)
            cos, sin = decoder._angles(hidden, torch.tensor([[7], [5]]).expand(2, 3) + step)
            own = decoder._run(1, hidden, cos, sin, parts[0])
            found.append((own, lean.step(hidden, cos, signed(sin), parts[1])))
    return [torch.stack(side) for side in zip(*found, strict=True)]


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_it_is_the_layer(architecture, targets):
    own, lean = both(adapted(random_biases(architecture(0)), targets), torch.float32)
    torch.testing.assert_close(lean, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_biases_everywhere(llama, targets):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**llama.config.to_dict() | {"attention_bias": True, "mlp_bias": True}))
    own, lean = both(adapted(random_biases(model), targets), torch.float32)
    torch.testing.assert_close(lean, own, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_rounds_no_more(architecture):
    ratios = []
    for seed in range(4):
        # residuals are added by the products of the layers without an adapter, with one rounding less
        model = adapted(random_biases(architecture(seed)), TARGETS["queries and values"]).bfloat16()
        exact, _ = both(model.float(), torch.float32)
        own, lean = both(model.bfloat16(), torch.bfloat16)
        assert (own.float() - exact).norm() > 1e-3 * exact.norm()
        ratios.append(((lean.float() - exact).norm() / (own.float() - exact).norm()).log())
    # single ratios are at 0.97 and spread by e^0.06
    assert torch.stack(ratios).mean().exp() < 1.1


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_other_adapters_go_through_the_modules(llama, options):
    model = adapted(copy.deepcopy(llama), ["q_proj", "down_proj"], **options).eval()
    assert not any(LeanLayer.can(layer) for layer in Decoder(model)._layers)
    grammar = Grammar(tuple((token,) for token in range(10, 16)), constrained=True, end_token=0, max_length=6)
    engine = SharedPromptEngine(model, 0)
    sampled = engine.sample([[1, 2, 3]], grammar, rollouts=2, temperature=1.0, seed=0)
    constraints, _ = follow(grammar, sampled.completions, 6)
    answers = torch.tensor(sampled.completions)
    scored, _ = ReplicatedEngine(model, 0).score([[1, 2, 3]] * 2, answers, constraints, grammar)
    torch.testing.assert_close(torch.tensor(sampled.log_probabilities), scored.detach(), rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_switched_off_is_not_added(llama):
    model = adapted(copy.deepcopy(llama), TARGETS["all"]).eval()
    assert all(LeanLayer.can(layer) for layer in Decoder(model)._layers)
    with model.disable_adapter():
        assert not any(LeanLayer.can(layer) for layer in Decoder(model)._layers)
