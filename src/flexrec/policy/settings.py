"""Settings of adapters and decoding."""

from typing import Literal

from pydantic import Field

from flexrec.config import Settings


class AdapterSettings(Settings):
    """Which weights are trained."""

    kind: Literal["lora", "full"] = Field("lora", description="A LoRA adapter, or all weights")
    rank: int = Field(32, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA scale; the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the adapted linear layers",
    )
    upper_layers: int | None = Field(
        None, ge=1, description="Adapt only this many layers from the top: no backward pass below; None adapts all"
    )


class DecodingSettings(Settings):
    """How answers are produced."""

    constrained: bool = Field(True, description="Restrict identifiers to the candidates that remain")
    max_answer_tokens: int = Field(256, ge=2, description="Most tokens of a free answer, reasoning included")
    max_reasoning_tokens: int = Field(128, ge=1, description="Budget of the reasoning where the answer is constrained")
    engine: Literal["shared_prompt", "replicated"] = Field(
        "shared_prompt",
        description="`replicated`: any model, every rollout with a prompt of its own, several times slower",
    )
    prompts_per_batch: int = Field(16, ge=1, description="Prompts encoded together when ranking")
