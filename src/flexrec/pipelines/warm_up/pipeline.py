"""Wiring of the warm-up."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.warm_up.nodes import prepare_model, train_warm_up


def create_pipeline() -> Pipeline:
    """training_gains -> base_model, warm_up_policy, warm_up_curve."""
    return pipeline(
        [
            node(prepare_model, ["params:model_settings", "params:raw_folder"], "base_model", name="prepare_model"),
            node(
                train_warm_up,
                [
                    "base_model",
                    "prompt_instances",
                    "items",
                    "training_gains",
                    "params:needs_asked",
                    "params:prompt",
                    "params:decoding",
                    "params:adapter",
                    "params:warm_up",
                    "params:model",
                    "params:seed",
                    "warm_up_work",
                ],
                ["warm_up_policy", "warm_up_curve"],
                name="train_warm_up",
            ),
        ],
        tags="warm_up",
    )
