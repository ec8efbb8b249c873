"""The pipelines by name.

A pipeline holds everything upstream of it, so that it also works on a fresh clone; nodes whose outputs are present and
up to date are skipped by the runner.
"""

from types import ModuleType

from kedro.pipeline import Pipeline

from flexrec.pipelines import (
    chat,
    critic,
    evaluate,
    forgetting,
    headroom,
    ingest,
    label,
    planted,
    probe,
    query_rewrite,
    report,
    retrieve,
    rl_train,
    sparsify,
    study,
    warm_up,
)

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
"""The chain, in its order: `__default__`."""

ASIDE: dict[str, ModuleType] = {
    "chat": chat,
    "forgetting": forgetting,
    "headroom": headroom,
    "planted": planted,
    "probe": probe,
    "query_rewrite": query_rewrite,
    "study": study,
    "study_plan": study.plan,
}
"""What is run by its name only."""


def register_pipelines() -> dict[str, Pipeline]:
    """Every stage with what it needs upstream, `data` (everything up to the labels) and the chain as `__default__`."""
    chain = {name: module.create_pipeline() for name, module in STAGES.items()}
    aside = {name: module.create_pipeline() for name, module in ASIDE.items()}
    default = sum(chain.values(), Pipeline([]))
    whole = sum(aside.values(), default)
    pipelines = {name: whole.to_nodes(*(node.name for node in stage.nodes)) for name, stage in (chain | aside).items()}
    return pipelines | {"data": pipelines["label"], "__default__": default}
