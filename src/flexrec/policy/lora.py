"""LoRA computed in the model's own type, its weights kept in float32.

PEFT computes LoRA in the type of its weights. Those have to be float32, or the steps of the optimiser would be lost in
rounding; but then the adapter of a model in bfloat16 costs more time than the layer that it adapts: its input is
converted, its products run in float32, and the layer's output is converted there and back to add it. Here the weights
are rounded to the model's type for the product alone, as in mixed-precision training (arXiv 1710.03740), and one
product adds the adapter to the layer's output.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from peft.tuners import lora
from torch import Tensor
from torch.nn import functional


class LoraLinear(lora.Linear):
    """PEFT's LoRA of a linear layer with another forward pass; everything else, what is saved included, is PEFT's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        r"""The layer's output, :math:`x W^T + \frac{\alpha}{r} (x A^T) B^T`.

        What PEFT has beside plain LoRA (several adapters at once, variants, biases, a merged or disabled adapter) goes
        PEFT's way.
        """
        adapter = self.plain_adapter() if not (args or kwargs) else None
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        below, above = self.rounded(adapter, x.dtype)
        narrow = functional.linear(self.lora_dropout[adapter](x), below)
        out = self.base_layer(x)
        return torch.addmm(out.flatten(0, -2), narrow.flatten(0, -2), above).view(out.shape)

    def plain_adapter(self) -> str | None:
        """The one active adapter, if there is nothing to it but its two matrices."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (adapter,) = self.active_adapters
        known = adapter in self.lora_A and adapter not in self.lora_variant
        return adapter if known and self.lora_B[adapter].bias is None else None

    def rounded(self, adapter: str, dtype: torch.dtype) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r D"]]:
        """The two matrices in that type, the second one scaled and transposed."""
        below, above = (cast(Tensor, part[adapter].weight) for part in (self.lora_A, self.lora_B))
        return below.to(dtype), (above * self.scaling[adapter]).to(dtype).T


def in_model_type(model: Any) -> Any:
    """Let every LoRA layer of a PEFT model compute in the model's type; returns the model."""
    for module in model.modules():
        if type(module) is lora.Linear:
            module.__class__ = LoraLinear
    return model
