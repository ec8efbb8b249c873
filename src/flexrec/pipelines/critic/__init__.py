"""A model of unobserved gains that knows how unsure it is."""

from flexrec.pipelines.critic.pipeline import create_pipeline

__all__ = ["create_pipeline"]
