"""The policy, trained by the method: reinforcement learning with item-level rewards, or what it is compared with."""

from flexrec.pipelines.rl_train.pipeline import create_pipeline

__all__ = ["create_pipeline"]
