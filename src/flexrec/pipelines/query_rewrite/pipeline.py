"""Wiring of the query rewriting."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.query_rewrite.nodes import (
    choose_examples,
    compare_rewrites,
    make_requests,
    measure_rewrites,
    report_rewrites,
    rewrite,
    rewrite_without_model,
    train_to_rewrite,
)
from flexrec.pipelines.shared import bound, show
from flexrec.rewriting.report import TRAINED

RETRIEVER = ["items", "item_embeddings", "params:query_rewrite.retriever", "params:retrieve.embedder"]
ASKED = [
    "base_model",
    "rewrite_requests",
    "rewrite_examples",
    "params:query_rewrite.prompt",
    "params:decoding",
    "params:prompt.items",
    "params:seed",
]


def create_pipeline() -> Pipeline:
    """observations, items, queries, base_model -> rewrite_requests, rewriter, rewrites, rewrite_summary, a report."""
    return pipeline(
        [
            node(
                make_requests,
                [
                    "observations",
                    "items",
                    "queries",
                    "params:task",
                    "params:query_rewrite.requests",
                    "params:seed",
                ],
                "rewrite_requests",
                name="make_requests",
            ),
            node(
                choose_examples,
                [
                    "items",
                    "params:task",
                    "params:query_rewrite.requests",
                    "params:query_rewrite.prompt",
                    "params:seed",
                ],
                "rewrite_examples",
                name="choose_examples",
            ),
            node(
                train_to_rewrite,
                [
                    "base_model",
                    "rewrite_requests",
                    "rewrite_examples",
                    *RETRIEVER,
                    "params:query_rewrite.prompt",
                    "params:query_rewrite.reward",
                    "params:query_rewrite.training",
                    "params:decoding",
                    "params:adapter",
                    "params:prompt.items",
                    "params:model",
                    "params:seed",
                    "rewrite_work",
                ],
                ["rewriter", "rewrite_curves"],
                name="train_to_rewrite",
            ),
            node(
                rewrite_without_model,
                ["rewrite_requests", *RETRIEVER, "params:query_rewrite.feedback"],
                "rewrites_baselines",
                name="rewrite_without_model",
            ),
            node(rewrite, ASKED, "rewrites_untrained", name="rewrite_untrained"),
            node(
                bound(rewrite, method=TRAINED),
                [*ASKED, "rewriter"],
                "rewrites_trained",
                name="rewrite_trained",
            ),
            node(
                measure_rewrites,
                ["rewrites_baselines", "rewrites_untrained", "rewrites_trained", "rewrite_requests", *RETRIEVER],
                ["rewrites", "rewrite_scores"],
                name="measure_rewrites",
            ),
            node(
                compare_rewrites,
                ["rewrite_scores", "params:evaluate", "params:seed"],
                ["rewrite_summary", "rewrite_metrics"],
                name="compare_rewrites",
            ),
            node(
                report_rewrites,
                [
                    "rewrite_summary",
                    "rewrites",
                    "rewrite_scores",
                    "rewrite_requests",
                    "rewrite_curves",
                    "params:query_rewrite.gallery",
                    "params:dataset",
                    "params:model",
                    "params:density",
                    "params:seed",
                ],
                ["rewrite_figure", "rewrite_training_figure", "rewrite_markdown", "rewrite_text"],
                name="report_rewrites",
            ),
            node(show, "rewrite_text", None, name="print_rewrites"),
        ],
        tags="query_rewrite",
    )
