"""Item embeddings, and the candidates of every ranking instance."""

from flexrec.pipelines.retrieve.pipeline import create_pipeline

__all__ = ["create_pipeline"]
