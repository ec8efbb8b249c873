"""A Hugging Face decoder, run layer by layer on prompts and on what follows them.

The layers are the model's own modules, LoRA and all; only the loop over them and the attention are ours
(`flexrec.policy.attention`). That allows what the model's own forward pass does not:

- prompts are encoded once, whatever follows them, and gradients go through;
- in the last layer the prompt's tokens get keys and values alone, for nobody reads what else it would make of them;
- the layers below the lowest trained one are the same for policy and reference, and need no graph;
- each layer can be checkpointed, although what follows reads its keys and values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from flexrec.errors import InputError
from flexrec.policy import attention
from flexrec.policy.attention import AnswerPass, LastPass, PromptPass
from flexrec.policy.decoding import DecodingPass, decoding_passes
from flexrec.policy.distribution import output_matrix
from flexrec.policy.lean_layer import LeanLayer, signed

# Families whose forward pass is the plain one that `Decoder` repeats; each is compared with its own in the tests.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

AT_ONCE = 4
"""Prompts that a CPU encodes together where no graph is kept."""


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts.

    Attributes:
        keys: Of every layer, rotated; padding on the right.
        values: Of every layer.
        last: Hidden state of each prompt's last token after the final norm.
        lengths: Tokens of each prompt.
        seen: False at padding; None where there is none.
    """

    keys: list[Float[Tensor, "B Hkv P d"]]
    values: list[Float[Tensor, "B Hkv P d"]]
    last: Float[Tensor, "B d"]
    lengths: Int[Tensor, " B"]
    seen: Bool[Tensor, "B 1 1 P"] | None

    def detached(self) -> "Prompts":
        """The same without the graph."""
        return Prompts(
            [x.detach() for x in self.keys],
            [x.detach() for x in self.values],
            self.last.detach(),
            self.lengths,
            self.seen,
        )


def _seen(lengths: Int[Tensor, " B"], width: int) -> Bool[Tensor, "B 1 1 P"] | None:
    if int(lengths.min()) == width:
        return None
    return (torch.arange(width, device=lengths.device) < lengths[:, None])[:, None, None]


def _joined(pieces: list[Prompts]) -> Prompts:
    """Prompts that were encoded apart; the pieces are used up."""
    if len(pieces) == 1:
        return pieces[0]
    lengths = torch.cat([piece.lengths for piece in pieces])
    width = int(lengths.max())

    def side_by_side(layers: list[list[Tensor]]) -> list[Tensor]:
        joined = []
        for _ in range(len(layers[0])):
            # each layer leaves its piece as it is joined, so that nothing is held twice
            parts = [layer.pop(0) for layer in layers]
            joined.append(torch.cat([functional.pad(part, (0, 0, 0, width - part.shape[2])) for part in parts]))
        return joined

    return Prompts(
        side_by_side([piece.keys for piece in pieces]),
        side_by_side([piece.values for piece in pieces]),
        torch.cat([piece.last for piece in pieces]),
        lengths,
        _seen(lengths, width),
    )


@dataclass(frozen=True)
class Lower:
    """What the untrained layers at the bottom make of prompts."""

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Float[Tensor, "B P d"]


class Decoder:
    """The decoder of a causal language model, looking through a PEFT wrapper.

    Args:
        model: The model.
        checkpointing: Keep no activations within a layer for the backward pass; compute them again instead.

    Raises:
        InputError: A family, a layer or an option of the model that the loop would not repeat exactly.
    """

    def __init__(self, model: Any, *, checkpointing: bool = False) -> None:
        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = output_matrix(model)
        config = base.config
        if config.model_type not in FAMILIES:
            raise InputError(
                f"the shared-prompt engine knows the families {', '.join(FAMILIES)}, not {config.model_type}; "
                "`decoding.engine: replicated` works with any causal language model, more slowly"
            )
        # families without sliding windows have no such fields
        sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
        if sliding or (config.model_type == "mistral" and config.sliding_window is not None):
            raise InputError("models with sliding-window layers are not supported by the shared-prompt engine")
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rope in ("dynamic", "longrope"):
            raise InputError(f"models with {rope} position embeddings are not supported by the shared-prompt engine")
        if getattr(config, "attention_dropout", 0.0):
            raise InputError("models with attention dropout are not supported by the shared-prompt engine")
        attention.register()
        self._checkpointing = checkpointing
        self._config = config
        decoder = base.get_decoder()
        self._embed, self._norm, self._rotary = decoder.embed_tokens, decoder.norm, decoder.rotary_emb
        self._layers = list(decoder.layers[: config.num_hidden_layers])
        self.untrained = self._untrained()

    def _untrained(self) -> int:
        """Layers at the bottom that no adapter and no optimiser touches."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        def touched(module: Any) -> bool:
            return any(isinstance(part, BaseTunerLayer) for part in module.modules()) or any(
                parameter.requires_grad for parameter in module.parameters()
            )

        if touched(self._embed):
            return 0
        places = [place for place, layer in enumerate(self._layers) if touched(layer)]
        # the last layer is run in a way of its own
        return min([*places, len(self._layers) - 1])

    def lower(self, prompts: Sequence[Sequence[int]], pad_token: int) -> Lower:
        """Run the untrained layers on prompts, without a graph."""
        tokens, _ = self._padded(prompts, pad_token)
        with torch.no_grad():
            hidden = self._embed(tokens)
            keys, values = [], []
            rotary = self._angles(hidden, torch.arange(tokens.shape[1], device=tokens.device)[None])
            for place in range(self.untrained):
                hidden, key, value = self._prompt_layer(place, hidden, *rotary)
                keys.append(key)
                values.append(value)
        return Lower(keys, values, hidden)

    def encode(self, prompts: Sequence[Sequence[int]], pad_token: int, lower: Lower | None = None) -> Prompts:
        """Run prompts; with a graph where gradients are enabled and something is trained.

        Without one a CPU runs a few at a time: what passes between two operations then fits into its caches, and is not
        so large that the C library fetches fresh pages for it and gives them back every time.
        """
        if lower is None and self._embed.weight.device.type == "cpu" and not torch.is_grad_enabled():
            pieces = [prompts[start : start + AT_ONCE] for start in range(0, len(prompts), AT_ONCE)]
            return _joined([self._encode(piece, pad_token, None) for piece in pieces])
        return self._encode(prompts, pad_token, lower)

    def _encode(self, prompts: Sequence[Sequence[int]], pad_token: int, lower: Lower | None) -> Prompts:
        tokens, lengths = self._padded(prompts, pad_token)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        if lower is None and self.untrained:
            lower = self.lower(prompts, pad_token)
        if lower is None:
            hidden, keys, values = self._embed(tokens), [], []
        else:
            hidden, keys, values = lower.hidden, list(lower.keys), list(lower.values)
        rotary = self._angles(hidden, positions[None])
        for place in range(self.untrained, len(self._layers) - 1):
            hidden, key, value = self._maybe_checkpointed(self._prompt_layer, place, hidden, *rotary)
            keys.append(key)
            values.append(value)
        seen = _seen(lengths, tokens.shape[1])
        last, key, value = self._maybe_checkpointed(self._last_layer, hidden, *rotary, lengths, seen)
        return Prompts([*keys, key], [*values, value], self._norm(last[:, 0]), lengths, seen)

    def _padded(self, prompts: Sequence[Sequence[int]], pad_token: int) -> tuple[Tensor, Tensor]:
        """Prompts padded on the right, where causal attention never sees the padding."""
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        rows = [[*prompt, *([pad_token] * (width - len(prompt)))] for prompt in prompts]
        device = self._embed.weight.device
        return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)

    def _angles(self, hidden: Tensor, positions: Int[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        return self._rotary(hidden, positions)

    def _maybe_checkpointed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not (self._checkpointing and torch.is_grad_enabled()):
            return function(*arguments)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(function, *arguments, use_reentrant=False)

    def _run(self, place: int, hidden: Tensor, cos: Tensor, sin: Tensor, part: Any) -> Tensor:
        """One layer of the model, with our attention for the time of the call."""
        before = self._config._attn_implementation
        self._config._attn_implementation = attention.NAME
        try:
            return self._layers[place](hidden, attention_mask=None, position_embeddings=(cos, sin), part=part)
        finally:
            self._config._attn_implementation = before

    def _prompt_layer(
        self, place: int, hidden: Float[Tensor, "B P d"], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        part = PromptPass()
        hidden = self._run(place, hidden, cos, sin, part)
        return hidden, part.keys, part.values

    def _last_layer(
        self, hidden: Float[Tensor, "B P d"], cos: Tensor, sin: Tensor, lengths: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of all tokens, and the output of each prompt's last."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        layer = self._layers[-1]
        own = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (*normed.shape[:-1], -1, own.head_dim)
        key = own.k_proj(normed).view(shape)
        key = (own.k_norm(key) if hasattr(own, "k_norm") else key).transpose(1, 2)
        value = own.v_proj(normed).view(shape).transpose(1, 2)
        key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        at = torch.arange(len(hidden), device=hidden.device), lengths - 1
        last = self._run(
            len(self._layers) - 1,
            hidden[at][:, None],
            cos[0][lengths - 1][:, None],
            sin[0][lengths - 1][:, None],
            LastPass(key, value, seen),
        )
        return last, key, value

    def lower_answers(
        self, prompts: Prompts, tokens: Int[Tensor, "B S"], positions: Int[Tensor, " S"], answers: int
    ) -> Float[Tensor, "B S d"]:
        """Run the untrained layers on the tokens behind the prompts, without a graph."""
        with torch.no_grad():
            hidden = self._embed(tokens)
            rotary = self._angles(hidden, prompts.lengths[:, None] + positions)
            for place in range(self.untrained):
                hidden = self._answer_layer(place, hidden, *rotary, prompts, answers)
        return hidden

    def answers(
        self,
        prompts: Prompts,
        tokens: Int[Tensor, "B S"],
        positions: Int[Tensor, " S"],
        answers: int,
        lower: Float[Tensor, "B S d"] | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Run the tokens of several answers to each prompt.

        Args:
            prompts: Encoded prompts.
            tokens: S = answers * T tokens behind each prompt, answers outermost.
            positions: Position of each within its answer, from 0.
            answers: Answers per prompt.
            lower: What `lower_answers` made of them, if it was called before.

        Returns:
            Hidden states after the final norm.
        """
        if lower is None and self.untrained:
            lower = self.lower_answers(prompts, tokens, positions, answers)
        hidden = self._embed(tokens) if lower is None else lower
        rotary = self._angles(hidden, prompts.lengths[:, None] + positions)
        for place in range(self.untrained, len(self._layers)):
            hidden = self._maybe_checkpointed(self._answer_layer, place, hidden, *rotary, prompts, answers)
        return self._norm(hidden)

    def _answer_layer(
        self, place: int, hidden: Tensor, cos: Tensor, sin: Tensor, prompts: Prompts, answers: int
    ) -> Tensor:
        part = AnswerPass(prompts.keys[place], prompts.values[place], prompts.seen, answers)
        return self._run(place, hidden, cos, sin, part)

    def decoding(self, prompts: Prompts, answers: int, length: int) -> "Decoding":
        """Begin to decode `answers` answers of at most `length` tokens to each prompt; the prompts are used up."""
        heads = self._config.num_attention_heads // prompts.keys[0].shape[1]
        # laid out anew for decoding: each layer leaves as it is, so that not all are held twice
        layers = ((prompts.keys.pop(0), prompts.values.pop(0)) for _ in range(len(prompts.keys)))
        parts = list(decoding_passes(layers, prompts.seen, answers, length, heads))
        return Decoding(self, prompts.lengths, parts)


class Decoding:
    """Answers that grow by a token at a time, by weights that stay as they are."""

    def __init__(self, decoder: Decoder, lengths: Int[Tensor, " B"], parts: list[DecodingPass]) -> None:
        self._decoder, self._lengths, self._parts = decoder, lengths, parts
        self._lean = [LeanLayer(layer) if LeanLayer.can(layer) else None for layer in decoder._layers]

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, "B G"]) -> Float[Tensor, "B G d"]:
        """Put one token behind every answer, and return its hidden state after the final norm."""
        decoder = self._decoder
        hidden = decoder._embed(tokens)
        positions = (self._lengths + self._parts[0].step)[:, None].expand(tokens.shape)
        cos, sin = decoder._angles(hidden, positions)
        signs = signed(sin)
        for place, (lean, part) in enumerate(zip(self._lean, self._parts, strict=True)):
            if lean is None:
                hidden = decoder._run(place, hidden, cos, sin, part)
            else:
                hidden = lean.step(hidden, cos, signs, part)
        return decoder._norm(hidden)
