"""Wiring of the training by the method."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.rl_train.nodes import train_rl


def create_pipeline() -> Pipeline:
    """warm_up_policy, training_gains -> policy, rl_curves."""
    return pipeline(
        [
            node(
                train_rl,
                [
                    "base_model",
                    "warm_up_policy",
                    "prompt_instances",
                    "items",
                    "training_gains",
                    "true_gains",
                    "params:needs_asked",
                    "params:prompt",
                    "params:decoding",
                    "params:generation",
                    "params:method_settings",
                    "params:rl",
                    "params:warm_up",
                    "params:model",
                    "params:seed",
                    "rl_work",
                ],
                ["policy", "rl_curves"],
                name="train_rl",
            )
        ],
        tags="rl_train",
    )
