"""The weights of a model with its LoRA adapters added, as a backend that knows no adapters takes them."""

from collections.abc import Iterator
from typing import Any

from flexrec.errors import InputError


def merged_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """The weights of a model under the names of its Hugging Face folder, LoRA adapters added, one tensor at a time.

    The model itself is left as it is: merging in place and taking back would round its weights at every step. The sum
    is made in float32 and rounded once to the weights' type.

    Raises:
        InputError: An adapter that is not LoRA.
    """
    for name, weight, lora in _unmerged_weights(model):
        total = weight
        if lora is not None:
            names = [adapter for adapter in lora.active_adapters if adapter in lora.lora_A]
            deltas = [lora.get_delta_weight(adapter).detach().float() for adapter in names]
            total = sum(deltas, weight.float()).to(weight.dtype)
        yield name, total


class MergedWeights:
    """`merged_weights` of a model, made anew at every call.

    Args:
        model: The model; it may have been trained on from one call to the next.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self) -> Iterator[tuple[str, Any]]:
        """One tensor at a time."""
        return merged_weights(self._model)

    def forms(self) -> list[tuple[str, str, list[int]]]:
        """Name, type and shape of each, in their order; none is made for it."""
        return [
            (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
            for name, weight, _ in _unmerged_weights(self._model)
        ]


def _unmerged_weights(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """The base model's weights under those names, each with the LoRA layer that adds to it; None where none does."""
    if not hasattr(model, "get_base_model"):
        yield from ((name, weight.detach(), None) for name, weight in model.named_parameters())
        return
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    adapted = [(name, module) for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        if not isinstance(module, LoraLayer):
            raise InputError(f"`{name}`: only LoRA adapters can be handed to vLLM, this is {type(module).__name__}")
        # PEFT's linear layers have the method, their common base class does not
        lora: Any = module
        for part, weight in lora.get_base_layer().named_parameters():
            yield f"{name}.{part}", weight.detach(), lora if part == "weight" else None
    prefixes = tuple(f"{name}." for name, _ in adapted)
    for name, weight in base.named_parameters():
        if not name.startswith(prefixes):
            yield name, weight.detach(), None
