"""Wiring of the labels."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.label.nodes import label_candidates, label_gains, print_task, report_task


def create_pipeline() -> Pipeline:
    """instances, observations -> labelled_instances, true_labels, true_gains, task_report."""
    return pipeline(
        [
            node(
                label_candidates,
                [
                    "instances",
                    "observations",
                    "items",
                    "daily_counts",
                    "params:label",
                    "params:task.trend_window_days",
                    "params:task.engagement_midpoint",
                    "params:seed",
                ],
                ["labelled_instances", "true_labels"],
                name="label_candidates",
            ),
            node(
                label_gains,
                ["labelled_instances", "true_labels", "params:needs_asked", "params:task.gain"],
                "true_gains",
                name="label_gains",
            ),
            node(
                report_task,
                [
                    "labelled_instances",
                    "true_labels",
                    "observations",
                    "true_gains",
                    "daily_counts",
                    "ingest_report",
                    "retrieve_report",
                    "params:task",
                ],
                "task_report",
                name="report_task",
            ),
            node(print_task, "task_report", None, name="print_task"),
        ],
        tags="label",
    )
