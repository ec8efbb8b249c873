"""Wiring of the ingestion."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.ingest.nodes import read_source


def create_pipeline() -> Pipeline:
    """Raw files -> interactions, items."""
    return pipeline(
        [
            node(
                read_source,
                ["params:task.source", "params:raw_folder"],
                ["interactions", "items"],
                name="read_source",
            )
        ],
        tags="ingest",
    )
