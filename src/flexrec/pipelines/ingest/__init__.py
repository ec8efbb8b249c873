"""Raw files to the two common tables."""

from flexrec.pipelines.ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
