"""A decoder layer in few operations, for decoding.

The newest token of a few answers is so little work that Python, the calls of modules and the start of each operation
take as long as the products. This computes what the model's own layer does, without its modules: the adapters of one
input are one product before and one behind, queries and keys are rotated together, and residuals are added by the
products. It rounds where the layer does, or less often.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flexrec.policy.decoding import DecodingPass
from flexrec.policy.lora import LoraLinear


class LeanLayer:
    """One layer of a family that `Decoder` knows, without a graph; made anew when weights have changed.

    Args:
        layer: The model's own.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._in, self._out = Products(attention.q_proj, attention.k_proj, attention.v_proj), Products(attention.o_proj)
        self._up, self._down = Products(mlp.gate_proj, mlp.up_proj), Products(mlp.down_proj)
        self._activation = mlp.act_fn
        self._before, self._between = layer.input_layernorm, layer.post_attention_layernorm
        self._norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self._width, self._scale = attention.head_dim, attention.scaling
        self._heads, self._kv_heads = (x.out_features // self._width for x in (attention.q_proj, attention.k_proj))

    @staticmethod
    def can(layer: Any) -> bool:
        """Whether there is nothing to the layer but what this repeats: plain matrices, and LoRA of the plain kind."""
        attention, mlp = layer.self_attn, layer.mlp
        projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        return all(map(_plain, (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)))

    def step(
        self,
        hidden: Float[Tensor, "B G d"],
        cos: Float[Tensor, "B G w"],
        sin: Float[Tensor, "B G w"],
        part: DecodingPass,
    ) -> Float[Tensor, "B G d"]:
        """The layer's output for one token of each answer.

        Args:
            hidden: The layer's input.
            cos: Of the positions' angles.
            sin: The same, its first half negative (`signed`).
            part: The attention, with what came before.
        """
        batch, answers, _ = hidden.shape
        rows = hidden.flatten(0, 1)
        projected = self._in.beside(_normed(self._before, rows)).view(batch, answers, -1, self._width)
        turning, value = projected.split([self._heads + self._kv_heads, self._kv_heads], 2)
        if self._norms is not None:
            parts = zip(self._norms, turning.split([self._heads, self._kv_heads], 2), strict=True)
            turning = torch.cat([_normed(norm, x) for norm, x in parts], 2)
        turned = _rotated(turning, cos[:, :, None], sin[:, :, None])
        seen = part.see(turned[:, :, : self._heads], turned[:, :, self._heads :], value, self._scale)
        (rows,) = self._out(seen.flatten(0, 1), onto=rows)
        gate, up = self._up(_normed(self._between, rows))
        (rows,) = self._down(self._activation(gate).mul_(up), onto=rows)
        return rows.view(hidden.shape)


def signed(sin: Float[Tensor, "B G w"]) -> Float[Tensor, "B G w"]:
    """Sines, negative where a rotation takes the other half's value with a minus sign."""
    first, second = sin.chunk(2, -1)
    return torch.cat([-first, second], -1)


def _rotated(x: Float[Tensor, "B G H w"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B G H w"]:
    """x cos + rotate_half(x) sin, with `signed` sines."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _normed(norm: Any, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
    """What the families' RMSNorm does, rounded once."""
    return functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


class Products:
    """Linear layers of one input, with the sum of their adapters' outputs as one product.

    Args:
        layers: `torch.nn.Linear` or `LoraLinear`, as `can` allows.
    """

    def __init__(self, *layers: Any) -> None:
        plain: list[Any] = [layer.get_base_layer() if isinstance(layer, LoraLinear) else layer for layer in layers]
        self._parts = [(layer.weight, layer.bias) for layer in plain]
        self._widths = [layer.out_features for layer in plain]
        self._below: Tensor | None = None
        adapters = []
        for layer in layers:
            adapter = layer.plain_adapter() if isinstance(layer, LoraLinear) else None
            adapters.append(None if adapter is None else layer.rounded(adapter, plain[0].weight.dtype))
        if any(pair is not None for pair in adapters):
            self._below = torch.cat([pair[0] for pair in adapters if pair is not None])
            # each adapter's second matrix at its own rows and columns
            self._above = self._below.new_zeros(len(self._below), sum(self._widths))
            row = column = 0
            for pair, width in zip(adapters, self._widths, strict=True):
                if pair is not None:
                    self._above[row : row + len(pair[0]), column : column + width] = pair[1]
                    row += len(pair[0])
                column += width

    def __call__(
        self, x: Float[Tensor, "N d"], onto: Float[Tensor, "N D"] | None = None
    ) -> tuple[Float[Tensor, "N _"], ...]:
        """The output of each layer.

        Args:
            x: Their input.
            onto: What the only one's output is added to.
        """
        if self._below is None and onto is not None:
            ((weight, bias),) = self._parts
            return (torch.addmm(onto if bias is None else onto + bias, x, weight.T),)
        if self._below is None:
            return self._without(x)
        out = self.beside(x)
        # added last: what it is added to may be large, and should be rounded once
        return out.split(self._widths, -1) if onto is None else (out.add_(onto),)

    def beside(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N sum"]:
        """The outputs of all layers beside each other."""
        parts = self._without(x)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if self._below is not None:
            out.addmm_(functional.linear(x, self._below), self._above)
        return out

    def _without(self, x: Float[Tensor, "N d"]) -> tuple[Tensor, ...]:
        return tuple(functional.linear(x, weight, bias) for weight, bias in self._parts)


def _plain(layer: Any) -> bool:
    if isinstance(layer, LoraLinear):
        return layer.plain_adapter() is not None and type(layer.get_base_layer()) is nn.Linear
    return type(layer) is nn.Linear
