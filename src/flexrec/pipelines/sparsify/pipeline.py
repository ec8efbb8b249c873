"""Wiring of the sparsification."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.sparsify.nodes import observe


def create_pipeline() -> Pipeline:
    """interactions, queries -> observations."""
    return pipeline(
        [node(observe, ["interactions", "queries", "params:density", "params:seed"], "observations", name="observe")],
        tags="sparsify",
    )
