"""Zero-shot rankings of a model behind a chat endpoint, and their metrics."""

from flexrec.pipelines.chat.pipeline import create_pipeline

__all__ = ["create_pipeline"]
