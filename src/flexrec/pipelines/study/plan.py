"""The plan of a study: what it would run, and how long that may take."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.study.nodes import print_plan


def create_pipeline() -> Pipeline:
    """Nothing is made."""
    return pipeline(
        [
            node(
                print_plan,
                [
                    "params:study",
                    "params:study_settings",
                    "params:study_options",
                    "params:datasets",
                    "params:methods",
                    "params:models",
                ],
                None,
                name="print_plan",
            )
        ],
        tags="study_plan",
    )
