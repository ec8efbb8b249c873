"""Wiring of the retrieval."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.retrieve.nodes import embed_items, embed_queries, retrieve_candidates


def create_pipeline() -> Pipeline:
    """items, queries, observations -> item_embeddings, query_embeddings, instances, retrieve_report."""
    return pipeline(
        [
            node(embed_items, ["items", "params:retrieve.embedder"], "item_embeddings", name="embed_items"),
            node(embed_queries, ["queries", "params:retrieve.embedder"], "query_embeddings", name="embed_queries"),
            node(
                retrieve_candidates,
                [
                    "observations",
                    "item_embeddings",
                    "queries",
                    "query_embeddings",
                    "params:retrieve",
                    "params:task.candidates",
                    "params:task.history",
                    "params:task.instances_per_user",
                    "params:task.instances",
                    "params:seed",
                ],
                ["instances", "retrieve_report"],
                name="retrieve_candidates",
            ),
        ],
        tags="retrieve",
    )
