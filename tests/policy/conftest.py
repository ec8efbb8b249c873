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
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
}


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request):
    """Makes a random model of each architecture by a seed."""

    def make(seed):
        torch.manual_seed(seed)
        return ARCHITECTURES[request.param]().float()

    return make


@pytest.fixture
def tiny_model(architecture):
    return architecture(0)


@pytest.fixture(scope="session")
def llama():
    torch.manual_seed(0)
    return ARCHITECTURES["llama"]().float().eval()
