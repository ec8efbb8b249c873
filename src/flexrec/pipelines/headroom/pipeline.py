"""Wiring of the headroom."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.headroom.nodes import measure_headroom, summarise_headroom, tell_headroom
from flexrec.pipelines.shared import show


def create_pipeline() -> Pipeline:
    """labelled_instances, true_labels, observations, critic_predictions -> headroom."""
    return pipeline(
        [
            node(
                measure_headroom,
                [
                    "labelled_instances",
                    "true_labels",
                    "observations",
                    "critic_predictions",
                    "params:task",
                    "params:evaluate.fitted",
                    "params:seed",
                ],
                "headroom_instance_metrics",
                name="measure_headroom",
            ),
            node(
                summarise_headroom,
                ["headroom_instance_metrics", "params:evaluate", "params:seed"],
                "headroom",
                name="summarise_headroom",
            ),
            node(
                tell_headroom,
                ["headroom", "params:task", "params:critic", "params:dataset", "params:density", "params:seed"],
                ["headroom_figure", "headroom_results", "headroom_markdown"],
                name="tell_headroom",
            ),
            node(show, "headroom_results", None, name="print_headroom"),
        ],
        tags="headroom",
    )
