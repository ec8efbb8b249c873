"""The pipelines by name.

A pipeline holds everything upstream of it, so that it also works on a fresh clone; nodes whose outputs are present and
up to date are skipped by the runner.
"""

from kedro.pipeline import Pipeline

from flexrec.pipelines import critic, evaluate, ingest, label, report, retrieve, rl_train, sparsify, warm_up

STAGES = {
    "ingest": ingest,
    "sparsify": sparsify,
    "retrieve": retrieve,
    "label": label,
    "critic": critic,
    "warm_up": warm_up,
    "rl_train": rl_train,
    "evaluate": evaluate,
    "report": report,
}


def register_pipelines() -> dict[str, Pipeline]:
    """Every stage with what it needs upstream, `data` (everything up to the labels) and the whole as `__default__`."""
    own = {name: module.create_pipeline() for name, module in STAGES.items()}
    whole = sum(own.values(), Pipeline([]))
    pipelines = {name: whole.to_nodes(*(node.name for node in stage.nodes)) for name, stage in own.items()}
    return pipelines | {"data": pipelines["label"], "__default__": whole}
