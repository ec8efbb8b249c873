"""Signals of the candidates, and the true gains of held-out instances."""

from flexrec.pipelines.label.pipeline import create_pipeline

__all__ = ["create_pipeline"]
