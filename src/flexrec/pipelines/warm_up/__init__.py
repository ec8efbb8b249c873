"""The base model, fine-tuned on optimal lists."""

from flexrec.pipelines.warm_up.pipeline import create_pipeline

__all__ = ["create_pipeline"]
