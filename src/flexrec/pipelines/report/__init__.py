"""Figures, tables and one page to read."""

from flexrec.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
