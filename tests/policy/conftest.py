"""Tiny random models of several architectures."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SHAPE = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}
ARCHITECTURES = {
    "llama": lambda **options: LlamaForCausalLM(LlamaConfig(**SHAPE | options)),
    "mistral": lambda **options: MistralForCausalLM(MistralConfig(**SHAPE | {"sliding_window": None} | options)),
    "qwen2": lambda **options: Qwen2ForCausalLM(Qwen2Config(**SHAPE | options)),
    "qwen3": lambda **options: Qwen3ForCausalLM(Qwen3Config(**SHAPE | {"head_dim": 8} | options)),
}


def _maker(name):
    def make(seed, **options):
        torch.manual_seed(seed)
        return ARCHITECTURES[name](**options).float()

    return make


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request):
    """Makes a random model of each architecture by a seed, with other options of its configuration if given."""
    return _maker(request.param)


@pytest.fixture
def made():
    """The same for all of them, by name."""
    return {name: _maker(name) for name in sorted(ARCHITECTURES)}


@pytest.fixture
def tiny_model(architecture):
    return architecture(0)


@pytest.fixture
def tiny():
    """Makes a random model of the architecture of that name, with options of its configuration."""

    def make(name, **options):
        torch.manual_seed(0)
        return ARCHITECTURES[name](**options).float().eval()

    return make


@pytest.fixture
def shape():
    """Sizes of a tiny model, for configurations of other families."""
    return dict(SHAPE)


@pytest.fixture(scope="session")
def llama():
    torch.manual_seed(0)
    return ARCHITECTURES["llama"]().float().eval()


@pytest.fixture
def adapted(tiny_folder):
    """A tiny model with an adapter that does something, and a second one as TRL keeps for its reference."""
    from flexrec.policy.models import load_base
    from flexrec.policy.settings import AdapterSettings
    from flexrec.rl.warm_up import add_adapter

    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    model.add_adapter("ref", model.peft_config["default"])
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model
