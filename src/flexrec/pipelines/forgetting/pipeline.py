"""Wiring of the check for forgetting."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.evaluation.names import WARMED_UP
from flexrec.pipelines.forgetting.nodes import compare_forgetting, examine, tell_forgetting
from flexrec.pipelines.shared import bound, show


def create_pipeline() -> Pipeline:
    """base_model, warm_up_policy, policy -> forgetting_answers, forgetting_windows, forgetting."""
    return pipeline(
        [
            node(
                examine,
                ["base_model", "params:forgetting"],
                ["forgetting_answers_untrained", "forgetting_windows_untrained"],
                name="examine_untrained",
            ),
            node(
                bound(examine, method=WARMED_UP),
                ["base_model", "params:forgetting", "warm_up_policy"],
                ["forgetting_answers_warmed_up", "forgetting_windows_warmed_up"],
                name="examine_warmed_up",
            ),
            node(
                examine,
                ["base_model", "params:forgetting", "policy", "params:method"],
                ["forgetting_answers_trained", "forgetting_windows_trained"],
                name="examine_trained",
            ),
            node(
                compare_forgetting,
                [
                    "forgetting_answers_untrained",
                    "forgetting_windows_untrained",
                    "forgetting_answers_warmed_up",
                    "forgetting_windows_warmed_up",
                    "forgetting_answers_trained",
                    "forgetting_windows_trained",
                    "params:forgetting",
                    "params:seed",
                ],
                ["forgetting_answers", "forgetting_windows", "forgetting"],
                name="compare_forgetting",
            ),
            node(
                tell_forgetting,
                [
                    "forgetting",
                    "params:needs_asked",
                    "params:forgetting",
                    "params:dataset",
                    "params:method",
                    "params:model",
                    "params:layout",
                    "params:density",
                    "params:seed",
                ],
                ["forgetting_figure", "forgetting_results", "forgetting_markdown"],
                name="tell_forgetting",
            ),
            node(show, "forgetting_results", None, name="print_forgetting"),
        ],
        tags="forgetting",
    )
