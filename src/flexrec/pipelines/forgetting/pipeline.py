"""Wiring of the check for forgetting."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.forgetting.nodes import (
    compare_forgetting,
    examine_trained,
    examine_untrained,
    examine_warmed_up,
    print_forgetting,
    tell_forgetting,
)


def create_pipeline() -> Pipeline:
    """base_model, warm_up_policy, policy -> forgetting_answers, forgetting_windows, forgetting."""
    return pipeline(
        [
            node(
                examine_untrained,
                ["base_model", "params:forgetting"],
                ["forgetting_answers_untrained", "forgetting_windows_untrained"],
                name="examine_untrained",
            ),
            node(
                examine_warmed_up,
                ["base_model", "warm_up_policy", "params:forgetting"],
                ["forgetting_answers_warmed_up", "forgetting_windows_warmed_up"],
                name="examine_warmed_up",
            ),
            node(
                examine_trained,
                ["base_model", "policy", "params:forgetting", "params:method"],
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
            node(tell_forgetting, "forgetting", ["forgetting_figure", "forgetting_results"], name="tell_forgetting"),
            node(print_forgetting, "forgetting_results", None, name="print_forgetting"),
        ],
        tags="forgetting",
    )
