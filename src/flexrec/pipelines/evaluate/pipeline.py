"""Wiring of the evaluation."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.evaluation.names import WARMED_UP
from flexrec.pipelines.evaluate.nodes import compare, measure, rank, rank_baselines
from flexrec.pipelines.shared import bound

_ASKED = [
    "base_model",
    "prompt_instances",
    "items",
    "params:needs_asked",
    "params:prompt",
    "params:decoding",
    "params:seed",
]


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
            node(rank, _ASKED, "rankings_untrained", name="rank_untrained"),
            node(
                bound(rank, method=WARMED_UP),
                [*_ASKED, "warm_up_policy"],
                "rankings_warmed_up",
                name="rank_warmed_up",
            ),
            node(rank, [*_ASKED, "policy", "params:method"], "rankings_trained", name="rank_trained"),
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
