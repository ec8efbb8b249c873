"""Weights with their LoRA adapters added."""

import pytest
import torch
from safetensors import safe_open

from flexrec.errors import InputError
from flexrec.policy.merged_weights import merged_weights
from flexrec.policy.models import load_base


def test_weights_are_merged_without_touching_the_model(adapted, tiny_folder):
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    weights = dict(merged_weights(adapted))
    after = adapted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with safe_open(tiny_folder / "model.safetensors", framework="pt") as folder:
        assert set(weights) == set(folder.keys())
        untouched = folder.get_tensor("model.embed_tokens.weight")
        base = folder.get_tensor("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(weights["model.embed_tokens.weight"], untouched)
    assert (weights["model.layers.0.self_attn.q_proj.weight"] - base).abs().max() > 0.01
    expected = adapted.merge_and_unload(adapter_names=["default"])
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)


def test_weights_of_a_model_without_adapter_go_as_they_are(llama):
    weights = dict(merged_weights(llama))
    assert set(weights) == {name for name, _ in llama.named_parameters()}
    assert not any(weight.requires_grad for weight in weights.values())


def test_other_adapters_are_refused(tiny_folder):
    from peft import IA3Config, get_peft_model

    model = get_peft_model(load_base(tiny_folder), IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(InputError, match="only LoRA adapters"):
        dict(merged_weights(model))
