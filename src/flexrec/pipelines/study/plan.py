"""The plan of a study: what it would run, and how long that may take."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.study.nodes import print_plan
from flexrec.pipelines.study.pipeline import GRID


def create_pipeline() -> Pipeline:
    """Nothing is made."""
    return pipeline([node(print_plan, GRID, None, name="print_plan")], tags="study_plan")
