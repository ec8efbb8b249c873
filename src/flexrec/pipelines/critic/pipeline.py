"""Wiring of the critic."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.critic.nodes import complete_gains, fit_critic, plot_critic, predict_gains, show_instances


def create_pipeline() -> Pipeline:
    """observations, item_embeddings, query_embeddings -> critic, its predictions, training_gains, prompt_instances."""
    return pipeline(
        [
            node(
                fit_critic,
                [
                    "observations",
                    "item_embeddings",
                    "query_embeddings",
                    "params:task.gain",
                    "params:critic",
                    "params:seed",
                ],
                ["critic", "critic_curve", "critic_calibration", "critic_test_predictions", "critic_reliability"],
                name="fit_critic",
            ),
            node(
                predict_gains,
                ["critic", "labelled_instances", "item_embeddings", "query_embeddings", "observations"],
                "critic_predictions",
                name="predict_gains",
            ),
            node(
                complete_gains,
                [
                    "labelled_instances",
                    "critic_predictions",
                    "observations",
                    "params:needs_asked",
                    "params:task.gain",
                    "params:method_settings.root.gains",
                    "params:neighbours",
                ],
                ["training_gains", "training_gains_report"],
                name="complete_gains",
            ),
            node(
                show_instances,
                ["labelled_instances", "critic_predictions", "params:prompt"],
                "prompt_instances",
                name="show_instances",
            ),
            node(
                plot_critic,
                ["critic_test_predictions", "critic_reliability"],
                "critic_figure",
                name="plot_critic",
            ),
        ],
        tags="critic",
    )
