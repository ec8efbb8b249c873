"""The theory on a fabricated world in which true gains, noise and uncertainty are known."""

from flexrec.pipelines.planted.pipeline import create_pipeline

__all__ = ["create_pipeline"]
