"""Settings of the warm-up and of reinforcement learning."""

from typing import Literal

from pydantic import Field

from flexrec.config import Settings

ItemReward = Literal["swap_causal", "swap_noncausal", "independent", "rank_dcg", "rank_relevance", "none"]


class UncertaintySettings(Settings):
    """Weights of rollouts by how sure the critic is of their reward (method, section 6)."""

    scope: Literal["none", "group", "batch"] = Field("group", description="Over which the mean weight is one")
    low: float = Field(0.2, gt=0, description="Smallest weight")
    high: float = Field(5.0, gt=0, description="Largest weight")
    epsilon: float = Field(1e-4, gt=0, description="Added to the variance before it is inverted")


class MethodSettings(Settings):
    """What makes one RL method differ from another: rewards and how they become advantages."""

    item_reward: ItemReward = Field("swap_causal", description="Reward of the item tokens; `none`: as other tokens")
    item_advantage: Literal["pooled", "per_rank"] = Field(
        "pooled", description="Normalise over rollouts and ranks together, or over rollouts rank by rank"
    )
    sequence_advantage: bool = Field(True, description="Whether tokens that name no item learn from the whole list")
    uncertainty: UncertaintySettings = UncertaintySettings()
    epsilon: float = Field(1e-6, gt=0, description="Added to the standard deviation of rewards")


class WarmUpSettings(Settings):
    """Supervised fine-tuning on the optimal list before RL (method, section 7)."""

    steps: int = Field(25, ge=0, description="Optimiser steps; 0 leaves the model as it is")
    lists_per_step: int = Field(8, ge=1)
    learning_rate: float = Field(5e-4, gt=0)


class RlSettings(Settings):
    """Group-relative policy optimisation (method, section 7)."""

    steps: int = Field(20, ge=1, description="Optimiser steps")
    prompts_per_step: int = Field(8, ge=1, description="B")
    rollouts: int = Field(8, ge=2, description="G, answers per prompt")
    temperature: float = Field(1.0, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    kl: float = Field(0.01, ge=0, description="Weight of the KL divergence to the reference")
    entropy_bonus: float = Field(0.005, ge=0)
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    iterations: int = Field(1, ge=1, description="Updates on the same rollouts")
    max_gradient_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third more time"
    )
    validate_every: int = Field(5, ge=1, description="Steps between two looks at the validation instances")
    validation_queries: int = Field(32, ge=1)
    save_every: int = Field(5, ge=1, description="Steps between two checkpoints, from which a killed run resumes")
