"""Which interactions are observed, and which users are held out."""

from flexrec.pipelines.sparsify.pipeline import create_pipeline

__all__ = ["create_pipeline"]
