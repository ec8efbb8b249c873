"""Wiring of the ingestion."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.ingest.nodes import read_source


def create_pipeline() -> Pipeline:
    """Raw files -> interactions, items, queries, daily_counts, ingest_report."""
    return pipeline(
        [
            node(
                read_source,
                ["params:task.source", "params:task.source_options", "params:raw_folder", "params:engine"],
                ["interactions", "items", "queries", "daily_counts", "ingest_report"],
                name="read_source",
            )
        ],
        tags="ingest",
    )
