"""Retrieval."""

import numpy as np
import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.ranking.task import InstanceCounts
from flexrec.retrieval.embedders import embed_texts, prepare_embedder
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.settings import RetrievalSettings


def embed_items(items: pd.DataFrame, retrieval: RetrievalSettings) -> pd.DataFrame:
    """Embed every item's text."""
    prepare_embedder(retrieval.embedder)
    vectors = embed_texts(items[Columns.TEXT].tolist(), retrieval.embedder)
    return pd.DataFrame({Columns.ITEM_ID: items[Columns.ITEM_ID], Columns.EMBEDDING: list(np.asarray(vectors))})


def retrieve_candidates(
    observations: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    retrieval: RetrievalSettings,
    candidates: int,
    history: int,
    instances_per_user: int,
    instances: InstanceCounts,
    seed: int,
) -> pd.DataFrame:
    """Choose query times and retrieve the candidates of each among the judged pool."""
    return build_instances(
        observations,
        item_embeddings,
        candidates=candidates,
        history=history,
        instances_per_user=instances_per_user,
        limits=instances.model_dump(),
        seed=seed,
        star=retrieval.star,
    )
