"""Query rewriting."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.evaluation.settings import EvaluationSettings
from flexrec.policy.models import save_policy
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.task import TaskSettings
from flexrec.reporting.figures import results_figure
from flexrec.reporting.provenance import provenance
from flexrec.retrieval.embedders import Embedder
from flexrec.rewriting.evaluation import rewrites_table, score_rewrites, summarise_rewrites
from flexrec.rewriting.feedback import expand
from flexrec.rewriting.prompts import Shown
from flexrec.rewriting.report import (
    FEEDBACK,
    METHODS,
    ORIGINAL,
    PRIMARY,
    TRAINED,
    UNTRAINED,
    costs_of,
    gallery,
    headline,
    report_markdown,
    report_text,
    rewriting_curves_figure,
)
from flexrec.rewriting.requests import build_requests, read_requests
from flexrec.rewriting.retrievers import Retriever, make_retriever
from flexrec.rewriting.settings import (
    FeedbackSettings,
    RequestSettings,
    RetrieverEntry,
    RewardSettings,
    RewritePromptSettings,
)
from flexrec.rewriting.training import choose_shown, load_rewriter, train_on_requests
from flexrec.rl.settings import RlSettings
from flexrec.tabular import Table

TEST = "test"


def make_requests(
    observations: Table,
    items: pd.DataFrame,
    queries: pd.DataFrame,
    task: TaskSettings,
    settings: RequestSettings,
    seed: int,
) -> pd.DataFrame:
    """The requests of every split, with the documents that answer them."""
    return build_requests(observations, items, queries, task=task, settings=settings, seed=seed)


def choose_examples(
    items: pd.DataFrame, task: TaskSettings, requests: RequestSettings, prompt: RewritePromptSettings, seed: int
) -> dict[str, Any]:
    """Documents and rewrites that every prompt shows."""
    return dataclasses.asdict(choose_shown(items, prompt, task=task, requests=requests, seed=seed))


def train_to_rewrite(
    base_model: Path,
    requests: pd.DataFrame,
    shown: dict[str, Any],
    items: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    retriever: RetrieverEntry,
    embedder: Embedder,
    prompt: RewritePromptSettings,
    reward: RewardSettings,
    training: RlSettings,
    decoding: DecodingSettings,
    adapter: AdapterSettings,
    items_name: str,
    model_name: str,
    seed: int,
    work_folder: Path,
) -> tuple[Callable[[Path], None], pd.DataFrame]:
    """Train the base model to rewrite the training requests."""
    rewriter = load_rewriter(
        base_model, None, _shown(shown), prompt, items_name=items_name, decoding=decoding, seed=seed, adapter=adapter
    )
    search = _retriever(retriever, items, item_embeddings, embedder)
    curves = train_on_requests(
        rewriter, requests, search, reward=reward, training=training, work_folder=work_folder, seed=seed
    )
    return lambda folder: save_policy(rewriter.model, folder, base_name=model_name), curves


def rewrite_without_model(
    requests: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    retriever: RetrieverEntry,
    embedder: Embedder,
    feedback: FeedbackSettings,
) -> pd.DataFrame:
    """The test requests as they are, and expanded by feedback."""
    asked = read_requests(requests, TEST)
    words = [request.text for request in asked]
    texts = dict(zip(items[Columns.ITEM_ID].tolist(), items[Columns.TEXT].tolist(), strict=True))
    expanded = expand(words, _retriever(retriever, items, item_embeddings, embedder), texts, feedback)
    return pd.concat(
        [rewrites_table(ORIGINAL, asked, words), rewrites_table(FEEDBACK, asked, expanded)], ignore_index=True
    )


def rewrite(
    base_model: Path,
    requests: pd.DataFrame,
    shown: dict[str, Any],
    prompt: RewritePromptSettings,
    decoding: DecodingSettings,
    items_name: str,
    seed: int,
    checkpoint: Path | None = None,
    method: str = UNTRAINED,
) -> pd.DataFrame:
    """Rewrites of the test requests by the base model as it comes, or by a checkpoint."""
    asked = read_requests(requests, TEST)
    rewriter = load_rewriter(
        base_model, checkpoint, _shown(shown), prompt, items_name=items_name, decoding=decoding, seed=seed
    )
    rewrites = rewriter.rewrite([request.text for request in asked], description=f"{method} rewrites")
    return rewrites_table(method, asked, rewrites)


def measure_rewrites(
    baselines: pd.DataFrame,
    untrained: pd.DataFrame,
    trained: pd.DataFrame,
    requests: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    retriever: RetrieverEntry,
    embedder: Embedder,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rewrites in one table, and the metrics of what each finds."""
    rewrites = pd.concat([baselines, untrained, trained], ignore_index=True)
    search = _retriever(retriever, items, item_embeddings, embedder)
    return rewrites, score_rewrites(rewrites, read_requests(requests, TEST), search)


def compare_rewrites(
    scores: pd.DataFrame, settings: EvaluationSettings, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Means with intervals, and paired tests of the trained rewriter against every other row."""
    summary = summarise_rewrites(
        scores, references={TRAINED: (ORIGINAL, FEEDBACK, UNTRAINED)}, **settings.resampling(seed)
    )
    return summary, headline(summary)


def report_rewrites(
    summary: pd.DataFrame,
    rewrites: pd.DataFrame,
    scores: pd.DataFrame,
    requests: pd.DataFrame,
    curves: pd.DataFrame,
    count: int,
    dataset: str,
    model: str,
    density: float,
    seed: int,
) -> tuple[go.Figure, go.Figure, str, str]:
    """Figures of results and training, and the results as Markdown and as text for the terminal."""
    shown = gallery(rewrites, scores, count)
    facts = provenance(dataset=dataset, task="query rewriting", model=model, density=density, seed=seed)
    counts = requests[Columns.SPLIT].value_counts().sort_index()
    facts |= {"requests": {str(split): int(count) for split, count in counts.items()}}
    facts |= {"training": costs_of(curves)}
    return (
        results_figure(summary, metric=PRIMARY, methods=METHODS),
        rewriting_curves_figure(curves),
        report_markdown(summary, shown, facts),
        report_text(summary, shown),
    )


def _shown(values: dict[str, Any]) -> Shown:
    return Shown(tuple(values["documents"]), tuple((search, text) for search, text in values["rewrites"]))


def _retriever(
    retriever: RetrieverEntry, items: pd.DataFrame, item_embeddings: pd.DataFrame, embedder: Embedder
) -> Retriever:
    # Kedro gives the parts of parameters that it has read for another node, or this one's own
    chosen = RetrieverEntry.model_validate(retriever).root
    return make_retriever(chosen, items, item_embeddings, Embedder.model_validate(embedder).root)
