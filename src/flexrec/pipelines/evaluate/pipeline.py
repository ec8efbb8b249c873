"""Wiring of the evaluation."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.evaluate.nodes import (
    compare,
    measure,
    rank_baselines,
    rank_trained,
    rank_untrained,
    rank_warmed_up,
)


def create_pipeline() -> Pipeline:
    """Policies, critic_predictions -> rankings, instance_metrics, summary, metrics."""
    return pipeline(
        [
            node(
                rank_baselines,
                [
                    "labelled_instances",
                    "observations",
                    "critic_predictions",
                    "item_embeddings",
                    "params:needs_asked",
                    "params:evaluate.baselines",
                    "params:evaluate.star",
                    "params:evaluate.fitted",
                    "params:task.gain",
                    "params:seed",
                ],
                "rankings_baselines",
                name="rank_baselines",
            ),
            node(
                rank_untrained,
                [
                    "base_model",
                    "labelled_instances",
                    "items",
                    "params:needs_asked",
                    "params:prompt",
                    "params:decoding",
                    "params:seed",
                ],
                "rankings_untrained",
                name="rank_untrained",
            ),
            node(
                rank_warmed_up,
                [
                    "base_model",
                    "warm_up_policy",
                    "labelled_instances",
                    "items",
                    "params:needs_asked",
                    "params:prompt",
                    "params:decoding",
                    "params:seed",
                ],
                "rankings_warmed_up",
                name="rank_warmed_up",
            ),
            node(
                rank_trained,
                [
                    "base_model",
                    "policy",
                    "labelled_instances",
                    "items",
                    "params:needs_asked",
                    "params:prompt",
                    "params:decoding",
                    "params:method",
                    "params:seed",
                ],
                "rankings_trained",
                name="rank_trained",
            ),
            node(
                measure,
                [
                    "rankings_baselines",
                    "rankings_untrained",
                    "rankings_warmed_up",
                    "rankings_trained",
                    "labelled_instances",
                    "true_labels",
                    "params:needs_asked",
                    "params:task.gain",
                    "params:task.relevant_engagement",
                ],
                ["rankings", "instance_metrics"],
                name="measure",
            ),
            node(
                compare,
                ["instance_metrics", "params:evaluate", "params:method", "params:seed"],
                ["summary", "metrics"],
                name="compare",
            ),
        ],
        tags="evaluate",
    )
