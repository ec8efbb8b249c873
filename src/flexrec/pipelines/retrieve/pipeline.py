"""Wiring of the retrieval."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.retrieve.nodes import embed_items, retrieve_candidates


def create_pipeline() -> Pipeline:
    """items, observations -> item_embeddings, instances."""
    return pipeline(
        [
            node(embed_items, ["items", "params:retrieve"], "item_embeddings", name="embed_items"),
            node(
                retrieve_candidates,
                [
                    "observations",
                    "item_embeddings",
                    "params:retrieve",
                    "params:task.candidates",
                    "params:task.history",
                    "params:task.instances_per_user",
                    "params:task.instances",
                    "params:seed",
                ],
                "instances",
                name="retrieve_candidates",
            ),
        ],
        tags="retrieve",
    )
