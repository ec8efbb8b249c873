import subprocess
import sys

import pytest
from kedro.pipeline import Pipeline

from flexrec.pipeline_registry import ASIDE, STAGES, register_pipelines


@pytest.fixture(scope="module")
def registered() -> dict[str, Pipeline]:
    return register_pipelines()


def names(pipeline: Pipeline) -> set[str]:
    return {node.name for node in pipeline.nodes}


def test_the_pipelines(registered) -> None:
    stages = ["ingest", "sparsify", "retrieve", "label", "critic", "warm_up", "rl_train", "evaluate", "report"]
    aside = ["chat", "forgetting", "headroom", "planted", "probe", "query_rewrite", "study", "study_plan"]
    assert list(STAGES) == stages
    assert list(ASIDE) == aside
    assert set(registered) == {*stages, *aside, "data", "__default__"}
    assert names(registered["data"]) == names(registered["label"])
    assert names(registered["data"]) >= set.union(*(names(registered[name]) for name in stages[:4]))
    assert names(registered["__default__"]) == set.union(*(names(registered[name]) for name in stages))


def test_every_pipeline_works_on_a_fresh_clone(registered) -> None:
    """It reads nothing that it does not make, except parameters and scratch folders."""
    for name, pipeline in registered.items():
        given = {dataset for dataset in pipeline.inputs() if not dataset.startswith("params:")}
        assert all(dataset.endswith("_work") for dataset in given), name


def test_every_pipeline_holds_what_its_stage_adds_and_nothing_downstream(registered) -> None:
    for name, module in (STAGES | ASIDE).items():
        own = names(module.create_pipeline())
        assert own <= names(registered[name]), name
    assert "train_rl" not in names(registered["warm_up"])
    assert "train_warm_up" not in names(registered["critic"])
    assert not {"fit_critic", "prepare_model"} & names(registered["data"])
    assert names(registered["ingest"]) == {"read_source"}


def test_nodes_have_names_and_tags_of_their_own(registered) -> None:
    nodes = {node for pipeline in registered.values() for node in pipeline.nodes}
    assert len({node.name for node in nodes}) == len(nodes)
    for stage, module in (STAGES | ASIDE).items():
        assert all(node.tags == {stage} for node in module.create_pipeline().nodes)


def test_listing_the_pipelines_loads_no_heavy_library():
    """What the command line imports for any command; a second of torch would be felt every time."""
    heavy = {"torch", "transformers", "trl", "peft", "vllm", "mlflow", "ibis", "pyspark", "faiss", "openai", "IPython"}
    code = (
        "import sys, flexrec.selection, flexrec.pipeline_registry as registry; registry.register_pipelines(); "
        f"print({heavy} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
