"""What more observed engagement would bring."""

from flexrec.pipelines.headroom.pipeline import create_pipeline

__all__ = ["create_pipeline"]
