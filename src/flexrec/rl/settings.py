"""Settings of the warm-up and of reinforcement learning."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, RootModel, model_validator

from flexrec.config import Settings
from flexrec.policy.settings import AdapterSettings
from flexrec.ranking.completions import Completion

ItemReward = Literal["swap_causal", "swap_noncausal", "independent", "rank_dcg", "rank_relevance", "none"]


class UncertaintySettings(Settings):
    """Weights of rollouts by how sure the critic is of their reward (method, section 6)."""

    scope: Literal["none", "group", "batch"] = Field("group", description="Over which the mean weight is one")
    low: float = Field(0.2, ge=0, le=1, description="Smallest weight")
    high: float = Field(5.0, ge=1, description="Largest weight")
    epsilon: float = Field(1e-4, gt=0, description="Added to the variance before it is inverted")


class PpoSettings(Settings):
    """Proximal policy optimisation (arXiv 1707.06347): a value head in the place of the group of rollouts."""

    discount: float = Field(1.0, gt=0, le=1, description="Of the rewards of later tokens")
    gae: float = Field(0.95, ge=0, le=1, description="Lambda of the generalised advantage estimate (arXiv 1506.02438)")
    value_clip: float = Field(0.2, gt=0, description="How far a value may move from the one at sampling")
    value_learning_rate: float = Field(3e-3, gt=0, description="Of the value head alone")


class MethodSettings(Settings):
    """What makes one RL method differ from another: what is learned from, rewards, and how they become advantages."""

    algorithm: Literal["grpo", "ppo"] = Field(
        "grpo", description="Advantages relative to the group of rollouts, or by a value head"
    )
    gains: Completion = Field("critic", description="What stands for the labels that are not observed")
    item_reward: ItemReward = Field("swap_causal", description="Reward of the item tokens; `none`: as other tokens")
    item_advantage: Literal["pooled", "per_rank"] = Field(
        "pooled", description="Normalise over rollouts and ranks together, or over rollouts rank by rank"
    )
    sequence_advantage: bool = Field(True, description="Whether tokens that name no item learn from the whole list")
    format_reward: tuple[float, float] | None = Field(
        None, description="Added to the reward of a list that names every candidate once; what any other answer earns"
    )
    importance: Literal["token", "item"] = Field(
        "token", description="Importance ratio of each token, or the geometric mean over the tokens of an item"
    )
    clip: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="How far the ratio may fall below and rise above 1; None: `clip_low`, `clip_high` of `rl`"
    )
    uncertainty: UncertaintySettings = UncertaintySettings()
    ppo: PpoSettings = PpoSettings()
    epsilon: float = Field(
        1e-6, gt=0, description="Added to the standard deviation of rewards, or of advantages by PPO"
    )

    @model_validator(mode="after")
    def _of_the_algorithm(self) -> Self:
        if self.algorithm == "ppo" and self.item_advantage != "pooled":
            raise ValueError("`item_advantage` compares the rollouts of a group; `ppo` compares with a value head")
        if self.algorithm == "grpo" and self.ppo != PpoSettings():
            raise ValueError("the block `ppo` has no effect with `algorithm: grpo`")
        return self


class SftMethodSettings(Settings):
    """Supervised fine-tuning on optimal lists in the place of RL: TALLRec's recipe (arXiv 2305.00447)."""

    algorithm: Literal["sft"]
    gains: Completion = Field("critic", description="What stands for the labels that are not observed")
    learning_rate: float | None = Field(None, gt=0, description="None: that of `rl`")
    lists_per_step: int | None = Field(
        None, ge=1, description="Lists of an update; None: as many as have the tokens that an update of RL learns from"
    )
    adapter: AdapterSettings | None = Field(None, description="Its own adapter; None goes on with the warm-up's")


Method = Annotated[MethodSettings | SftMethodSettings, Field(discriminator="algorithm")]


class MethodEntry(RootModel[Method]):
    """One entry of `methods.yml`."""


class WarmUpSettings(Settings):
    """Supervised fine-tuning on the optimal list before RL (method, section 7)."""

    steps: int = Field(25, ge=0, description="Optimiser steps; 0 leaves the model as it is")
    lists_per_step: int = Field(8, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    growing: float = Field(0.0, ge=0, le=1, description="Share of the steps over which the lists grow; 0: whole lists")
    shortest: int = Field(3, ge=2, description="Candidates of the first lists, where lists grow")


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
