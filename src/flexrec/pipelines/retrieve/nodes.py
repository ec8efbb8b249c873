"""Retrieval."""

from typing import Any

import numpy as np
import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.ranking.task import InstanceCounts
from flexrec.retrieval.embedders import Embedder, embed_texts, prepare_embedder
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.settings import RetrievalSettings
from flexrec.tabular import Table


def embed_items(items: pd.DataFrame, embedder: Embedder) -> pd.DataFrame:
    """Embed every item's text."""
    return _embed(items, Columns.ITEM_ID, Columns.TEXT, embedder)


def embed_queries(queries: pd.DataFrame, embedder: Embedder) -> pd.DataFrame:
    """Embed every query by the same model as the items."""
    return _embed(queries, Columns.USER_ID, Columns.QUERY, embedder)


def retrieve_candidates(
    observations: Table,
    item_embeddings: pd.DataFrame,
    queries: pd.DataFrame,
    query_embeddings: pd.DataFrame,
    retrieval: RetrievalSettings,
    candidates: int,
    history: int,
    instances_per_user: int,
    instances: InstanceCounts,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Choose query times and retrieve the candidates of each among the judged pool; count who is dropped."""
    chosen, counts = build_instances(
        observations,
        item_embeddings,
        candidates=candidates,
        history=history,
        instances_per_user=instances_per_user,
        limits=instances.model_dump(),
        seed=seed,
        star=retrieval.star,
        search=retrieval.search,
        queries=queries,
        query_embeddings=query_embeddings,
    )
    return chosen, {"retrieve": counts}


def _embed(table: pd.DataFrame, key: str, text: str, embedder: Embedder) -> pd.DataFrame:
    if table.empty:
        return pd.DataFrame({key: table[key], Columns.EMBEDDING: pd.Series(dtype=object)})
    # Kedro gives the part of `params:retrieve` that it has read for another node, or this one's own
    settings = Embedder.model_validate(embedder).root
    prepare_embedder(settings)
    vectors = embed_texts(table[text].tolist(), settings)
    return pd.DataFrame({key: table[key], Columns.EMBEDDING: list(np.asarray(vectors))})
