"""Query rewriting for a black-box retriever: Rec-R1's own task."""

from flexrec.pipelines.query_rewrite.pipeline import create_pipeline

__all__ = ["create_pipeline"]
