"""A study: what is missing of its runs, and the tables and figures of all of them."""

from flexrec.pipelines.study import plan
from flexrec.pipelines.study.pipeline import create_pipeline

__all__ = ["create_pipeline", "plan"]
