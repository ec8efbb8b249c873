"""Wiring of the probe."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.evaluation.names import WARMED_UP
from flexrec.pipelines.probe.nodes import (
    ask_policy,
    choose_probe,
    draw_probe,
    label_probe,
    measure_input_order,
    measure_switching,
    measure_transfer,
    show_answers,
    write_probe,
)
from flexrec.pipelines.shared import bound, show

_ANSWERS = ["probe_answers_untrained", "probe_answers_warmed_up", "probe_answers_trained"]
_ASKED = ["params:probe_needs", "params:needs_asked"]
_QUESTIONS = [
    "base_model",
    "probe_instances",
    "items",
    "probe_gains",
    *_ASKED,
    "params:prompt",
    "params:decoding",
    "params:probe.random_orders",
    "params:seed",
]
_FIGURES = ["probe_transfer_figure", "probe_switching_figure", "probe_input_order_figure"]
_SUMMARIES = ["probe_transfer_summary", "probe_switching_summary", "probe_input_order_summary"]


def create_pipeline() -> Pipeline:
    """Policies, prompt_instances -> answers, transfer, switching, input order, gallery, and a page of them."""
    return pipeline(
        [
            node(
                choose_probe,
                ["prompt_instances", "true_labels", "params:probe.instances", "params:seed"],
                ["probe_instances", "probe_labels"],
                name="choose_probe",
            ),
            node(
                label_probe,
                ["probe_instances", "probe_labels", *_ASKED, "params:task.gain"],
                "probe_gains",
                name="label_probe",
            ),
            node(ask_policy, _QUESTIONS, "probe_answers_untrained", name="ask_untrained"),
            node(
                bound(ask_policy, method=WARMED_UP),
                [*_QUESTIONS, "warm_up_policy"],
                "probe_answers_warmed_up",
                name="ask_warmed_up",
            ),
            node(ask_policy, [*_QUESTIONS, "policy", "params:method"], "probe_answers_trained", name="ask_trained"),
            node(
                measure_transfer,
                [
                    *_ANSWERS,
                    "probe_instances",
                    "probe_labels",
                    *_ASKED,
                    "params:task.gain",
                    "params:task.relevant_engagement",
                    "params:evaluate",
                    "params:method",
                    "params:seed",
                ],
                ["probe_rankings", "probe_instance_metrics", "probe_transfer_summary"],
                name="measure_transfer",
            ),
            node(
                measure_switching,
                [*_ANSWERS, "probe_gains", "probe_instances", "params:evaluate", "params:seed"],
                ["probe_switching", "probe_switching_summary"],
                name="measure_switching",
            ),
            node(
                measure_input_order,
                [
                    *_ANSWERS,
                    "probe_instances",
                    "probe_labels",
                    "params:needs_asked",
                    "params:task.gain",
                    "params:task.relevant_engagement",
                    "params:evaluate",
                    "params:seed",
                ],
                ["probe_input_order", "probe_input_order_summary"],
                name="measure_input_order",
            ),
            node(
                show_answers,
                [
                    *_ANSWERS,
                    "probe_instances",
                    "items",
                    "probe_gains",
                    *_ASKED,
                    "params:prompt",
                    "params:probe.gallery",
                ],
                "probe_gallery",
                name="show_answers",
            ),
            node(draw_probe, [*_SUMMARIES, "params:needs_asked", "params:method"], _FIGURES, name="draw_probe"),
            node(
                write_probe,
                [
                    *_SUMMARIES,
                    "probe_gallery",
                    *_FIGURES,
                    "params:needs_asked",
                    "params:dataset",
                    "params:method",
                    "params:model",
                    "params:layout",
                    "params:density",
                    "params:seed",
                ],
                ["probe_metrics", "probe_markdown", "probe_text", "probe_page"],
                name="write_probe",
            ),
            node(show, "probe_text", None, name="print_probe"),
        ],
        tags="probe",
    )
