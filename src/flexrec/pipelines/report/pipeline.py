"""Wiring of the report."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.report.nodes import draw_results, draw_training, write_report
from flexrec.pipelines.shared import show


def create_pipeline() -> Pipeline:
    """summary, curves, rankings -> figures, results, report."""
    return pipeline(
        [
            node(
                draw_training,
                ["rl_curves", "params:method"],
                ["training_figure", "advantage_figure", "weights_figure"],
                name="draw_training",
            ),
            node(
                draw_results,
                ["summary", "instance_metrics"],
                ["results_figure", "tau_figure"],
                name="draw_results",
            ),
            node(
                write_report,
                [
                    "summary",
                    "rankings",
                    "instance_metrics",
                    "prompt_instances",
                    "items",
                    "true_gains",
                    "rl_curves",
                    "critic_test_predictions",
                    "critic_reliability",
                    "critic_calibration",
                    "task_report",
                    "base_model",
                    "params:needs_asked",
                    "params:report",
                    "params:dataset",
                    "params:method",
                    "params:model",
                    "params:layout",
                    "params:density",
                    "params:seed",
                ],
                ["results_markdown", "results_text", "report"],
                name="write_report",
            ),
            node(show, "results_text", None, name="print_results"),
        ],
        tags="report",
    )
