"""Wiring of a study."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.study.nodes import compare_rows, draw_study, finish, run_cells, tabulate, write_page

GRID = [
    "params:study",
    "params:study_settings",
    "params:study_options",
    "params:datasets",
    "params:methods",
    "params:models",
    "params:layouts",
]
FIGURES = [
    "study_results_figure",
    "study_steps_figure",
    "study_tokens_figure",
    "study_critic_figure",
    "study_advantage_figure",
    "study_weights_figure",
]


def create_pipeline() -> Pipeline:
    """Runs of the chain -> study_cells, study_instances -> tables, figures, page."""
    return pipeline(
        [
            node(
                run_cells,
                GRID,
                # the last one is not kept, so that the node always runs: what is missing is found by looking
                [
                    "study_cells",
                    "study_instances",
                    "study_curves",
                    "study_critic_predictions",
                    "study_critic_reliability",
                    "study_switching",
                    "study_input_order",
                    "study_looked_at",
                ],
                name="run_study",
            ),
            node(
                compare_rows,
                ["study_instances", "params:study_settings", "params:study_options", "params:evaluate"],
                ["study_means", "study_comparisons"],
                name="compare_study",
            ),
            node(
                tabulate,
                [
                    "study_cells",
                    "study_instances",
                    "study_means",
                    "study_comparisons",
                    "study_curves",
                    "study_switching",
                    "study_input_order",
                    "params:study",
                    "params:study_settings",
                    "params:study_options",
                    "params:evaluate",
                ],
                ["study_markdown", "study_text", "study_tables"],
                name="tabulate_study",
            ),
            node(
                draw_study,
                [
                    "study_means",
                    "study_curves",
                    "study_critic_predictions",
                    "study_critic_reliability",
                    "params:study_options",
                ],
                FIGURES,
                name="draw_rows",
            ),
            node(
                write_page,
                [
                    "study_cells",
                    "study_instances",
                    "study_means",
                    "study_comparisons",
                    "study_curves",
                    "study_switching",
                    "study_input_order",
                    *FIGURES,
                    "params:study",
                    "params:study_settings",
                    "params:study_options",
                    "params:evaluate",
                ],
                "study_page",
                name="write_study_page",
            ),
            # last of all: it fails where a run did
            node(
                finish,
                ["study_text", "study_cells", "study_tables", "study_page"],
                None,
                name="finish_study",
            ),
        ],
        tags="study",
    )
