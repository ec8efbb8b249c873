"""Rankings of every method on held-out users, and their metrics."""

from flexrec.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
