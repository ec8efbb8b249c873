"""LoRA in the model's type: PEFT's own numbers in float32, a few roundings from them in bfloat16."""

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from safetensors.torch import load_file
from torch import nn

from flexrec.policy.engine import SharedPromptEngine
from flexrec.policy.grammar import Grammar
from flexrec.policy.lora import LoraLinear, in_model_type
from flexrec.policy.models import load_base, load_policy, save_policy
from flexrec.policy.settings import AdapterSettings
from flexrec.rl.warm_up import add_adapter


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=False), nn.Linear(40, 16)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def make(dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["first", "second"], **options})
    model = get_peft_model(Two().to(dtype), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return model


def layers(model):
    return [module for module in model.modules() if isinstance(module, lora.Linear)]


def run(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    out = model(x)
    out.float().square().sum().backward()
    grads = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return out.detach().float(), {**grads, "x": x.grad.float()}


X = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(2))


def test_numbers_and_gradients_are_those_of_peft():
    expected, expected_grads = run(make(), X)
    model = in_model_type(make())
    assert {type(layer) for layer in layers(model)} == {LoraLinear}
    found, grads = run(model, X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert grads.keys() == expected_grads.keys()
    assert sum("lora" in name for name in grads) == 4
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_errs_by_a_few_roundings():
    exact = make()
    narrow = make(torch.bfloat16)
    # the very weights of the model in bfloat16
    for p, rounded in zip(exact.parameters(), narrow.parameters(), strict=True):
        p.data.copy_(rounded.data)
    expected = run(exact, X.bfloat16().float())
    found = run(in_model_type(narrow), X.bfloat16())
    pairs = [(found[0], expected[0]), *((found[1][name], expected[1][name]) for name in expected[1])]
    # bfloat16 rounds by up to 2^-8 of a number; PEFT, whose products are in float32, is at 1.4 of it at most
    errors = [((a - b).norm() / b.norm()).item() * 2**8 for a, b in pairs]
    assert 0.5 < max(errors) < 3


def test_weights_and_their_gradients_stay_in_float32():
    model = in_model_type(make(torch.bfloat16))
    loras = {name: p for name, p in model.named_parameters() if "lora" in name}
    model(X.bfloat16()).float().sum().backward()
    assert len(loras) == 4
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in loras.values())


@pytest.mark.parametrize("kind", ["disabled", "merged", "two", "dropout", "dora", "bias", "unknown"])
def test_all_else_goes_the_way_of_peft(kind):
    def prepare(change):
        model = make(
            **{"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}, "bias": {"lora_bias": True}}.get(kind, {})
        )
        if kind == "two":
            torch.manual_seed(5)
            model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
            model.base_model.set_adapter(["default", "other"])
        if kind == "unknown":
            torch.manual_seed(5)
            model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
            # the second layer has no adapter of that name
            model.set_adapter("other")
        change(model)
        if kind == "merged":
            model.merge_adapter()
        torch.manual_seed(7)
        with model.disable_adapter() if kind == "disabled" else nullcontext():
            return model(X)

    expected, found = prepare(lambda model: model), prepare(in_model_type)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_second_adapter_takes_its_turn():
    model = in_model_type(make())
    before = model(X)
    torch.manual_seed(5)
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
    model.set_adapter("ref")
    second = model(X)
    assert {type(layer) for layer in layers(model)} == {LoraLinear}
    model.set_adapter("default")
    assert torch.equal(model(X), before)
    assert not torch.allclose(second, before)


def test_trained_and_loaded_policies_have_it_and_save_what_peft_would(tiny_folder, tmp_path):
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    assert {type(layer) for layer in layers(model)} == {LoraLinear}
    save_policy(model, tmp_path / "policy", base_name="tiny")
    saved = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert all("lora_A.weight" in name or "lora_B.weight" in name for name in saved)
    assert {type(layer) for layer in layers(load_policy(tiny_folder, tmp_path / "policy"))} == {LoraLinear}


@pytest.mark.parametrize("count", [2, 9])
def test_sampling_rounds_once(count, tiny_folder, monkeypatch):
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    calls = []
    rounded = LoraLinear.rounded
    monkeypatch.setattr(LoraLinear, "rounded", lambda self, *rest: calls.append(1) or rounded(self, *rest))
    names = tuple((token,) for token in range(10, 10 + count))
    grammar = Grammar(identifiers=names, constrained=True, end_token=0, max_length=count)
    SharedPromptEngine(model, 0).sample([[1, 2, 3]], grammar, rollouts=2, temperature=1.0, seed=0)
    # in the pass over the prompt, whose last layer has two projections apart; of two names the first decides the other
    assert len(calls) == (1 if count == 2 else 2) * len(layers(model)) + 2
