"""The policy, trained by reinforcement learning with item-level rewards."""

from flexrec.pipelines.rl_train.pipeline import create_pipeline

__all__ = ["create_pipeline"]
