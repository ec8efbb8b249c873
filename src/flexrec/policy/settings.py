"""Settings of adapters, decoding and generation."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from flexrec.config import Settings


class AdapterSettings(Settings):
    """Which weights are trained."""

    kind: Literal["lora", "full"] = Field("lora", description="A LoRA adapter, or all weights")
    rank: int = Field(32, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA scale; the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the adapted linear layers; not the output matrix",
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


class GenerationSettings(Settings):
    """Where the rollouts of reinforcement learning come from."""

    kind: Literal["shared_prompt", "vllm"] = Field(
        "shared_prompt", description="The built-in sampler, which encodes each prompt once, or vLLM"
    )
    mode: Literal["colocate", "server"] = Field(
        "colocate", description="vLLM in this process, or a `vllm serve` that was started before"
    )
    url: str | None = Field(None, description="Address of the server, for instance `http://localhost:8000`")
    timeout: float = Field(600.0, gt=0, description="Seconds to wait for an answer of the server")
    weights: Literal["nccl", "folder"] = Field(
        "nccl", description="How a server gets new weights: from GPU to GPU, or through `weights_folder`"
    )
    weights_folder: Path | None = Field(None, description="Folder that trainer and server see under the same path")
    gpu_memory_utilization: float = Field(
        0.3, gt=0, le=1, description="Share of the device's memory for a colocated vLLM, weights included"
    )
    kv_cache_gib: float | None = Field(None, gt=0, description="Size of its cache; None takes what that share leaves")
    max_model_length: int | None = Field(None, ge=2, description="Most tokens of prompt and answer; None: the model's")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="`auto`: as the model's")
    eager: bool = Field(False, description="No compilation and no CUDA graphs: starts sooner, samples slower")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "vllm" and self.mode == "server":
            if self.url is None or not self.url.startswith(("http://", "https://")):
                raise ValueError("mode `server` needs `url`, for instance http://localhost:8000")
            if self.weights == "folder" and self.weights_folder is None:
                raise ValueError("`weights: folder` needs `weights_folder`, a path that trainer and server both see")
        return self
