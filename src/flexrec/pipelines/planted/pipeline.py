"""Wiring of the planted-truth study."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.planted.nodes import (
    compare_variants,
    draw_study,
    measure_directions,
    show_or_reward_lists,
    summarise_study,
    transfer_between_needs,
    weigh_by_uncertainty,
    write_study,
)
from flexrec.pipelines.shared import bound, show

_WORLD = ["params:planted.world", "params:planted.feedback", "params:planted.learner"]
# every reward and normalisation; the normalisations on long lists; where a token names no item, item rewards with and
# without the list's advantage
_COMPARISONS = ["rewards", "tail", "reasoning"]


def create_pipeline() -> Pipeline:
    """Parameters -> planted_curves, planted_results, figures, planted_page."""
    return pipeline(
        [
            *(
                node(
                    bound(compare_variants, experiment=name),
                    [*_WORLD, f"params:planted.{name}", f"planted_{name}_work"],
                    [f"planted_{name}_curves", f"planted_{name}_rates"],
                    name=f"compare_{name}",
                )
                for name in _COMPARISONS
            ),
            node(
                weigh_by_uncertainty,
                [
                    "params:planted.world",
                    "params:planted.learner",
                    "params:planted.uncertainty",
                    "planted_uncertainty_work",
                ],
                "planted_uncertainty_curves",
                name="weigh_by_uncertainty",
            ),
            node(
                transfer_between_needs,
                [*_WORLD, "params:planted.transfer", "planted_transfer_work"],
                "planted_transfer_curves",
                name="transfer_between_needs",
            ),
            node(
                measure_directions,
                [*_WORLD, "params:planted.gradients", "planted_gradients_work"],
                "planted_gradients_curves",
                name="measure_directions",
            ),
            node(
                show_or_reward_lists,
                ["params:planted.world", "params:planted.learner", "params:planted.showing", "planted_showing_work"],
                ["planted_showing_curves", "planted_showing_rates"],
                name="show_or_reward_lists",
            ),
            node(
                summarise_study,
                [
                    "planted_rewards_curves",
                    "planted_uncertainty_curves",
                    "planted_transfer_curves",
                    "planted_tail_curves",
                    "planted_reasoning_curves",
                    "planted_gradients_curves",
                    "planted_showing_curves",
                    "planted_rewards_rates",
                    "planted_tail_rates",
                    "planted_reasoning_rates",
                    "planted_showing_rates",
                    "params:planted.statistics",
                ],
                ["planted_curves", "planted_results", "planted_rates"],
                name="summarise_study",
            ),
            node(
                draw_study,
                ["planted_curves", "planted_results"],
                [
                    "planted_rewards_figure",
                    "planted_tail_figure",
                    "planted_reasoning_figure",
                    "planted_weights_figure",
                    "planted_transfer_figure",
                    "planted_spread_figure",
                    "planted_showing_figure",
                ],
                name="draw_study",
            ),
            node(
                write_study,
                ["planted_results", "planted_rates", "params:planted"],
                ["planted_page", "planted_text"],
                name="write_study",
            ),
            node(show, "planted_text", None, name="print_study"),
        ],
        tags="planted",
    )
