"""Predictions of a trained critic."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from flexrec.critic.examples import (
    CriticExamples,
    ItemEmbeddings,
    history_embeddings,
    observed_training,
)
from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.model import TwoTowerCritic
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import engagement_gain

BLOCK = 8192


def predict(
    critic: TwoTowerCritic,
    history: Float[np.ndarray, "n d"],
    history_row: Int[np.ndarray, " q"],
    embeddings: Float[np.ndarray, "m d"],
    candidate: Int[np.ndarray, " q"],
    statistics: Float[np.ndarray, "q 2"],
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Mean and variance of the gain of each (history, candidate) pair, without dropout.

    Args:
        critic: The critic; left in evaluation mode.
        history: History embeddings, float32.
        history_row: Row of `history` of each pair.
        embeddings: Item embeddings, float32.
        candidate: Row of `embeddings` of each pair.
        statistics: Item statistics of each pair.

    Returns:
        Float64 means and variances > 0 on the scale of the gain.
    """
    critic.eval()
    moments = np.empty((2, len(candidate)))
    with torch.inference_mode():
        for start in range(0, len(candidate), BLOCK):
            block = slice(start, start + BLOCK)
            mean, variance = critic(
                torch.from_numpy(history[history_row[block]]),
                torch.from_numpy(embeddings[candidate[block]]),
                torch.from_numpy(statistics[block].astype(np.float32)),
            )
            moments[0, block], moments[1, block] = mean.numpy(), variance.numpy()
    return moments[0], moments[1]


def predict_examples(
    critic: TwoTowerCritic, examples: CriticExamples
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and variance of the gain of each example."""
    return predict(
        critic,
        examples.history,
        np.arange(len(examples.history)),
        examples.embeddings,
        examples.candidate,
        examples.statistics,
    )


def predict_instances(
    critic: TwoTowerCritic,
    labelled_instances: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    observations: pd.DataFrame,
) -> pd.DataFrame:
    """Mean and variance of the engagement gain of every candidate of every instance.

    Item statistics come from the observed interactions of training users; those of the instance's own user are left out, so
    that a training candidate is predicted without its own label.

    Args:
        critic: A trained critic.
        labelled_instances: Table `labelled_instances`; only history and candidates are read.
        item_embeddings: Table `item_embeddings`, the one the critic was trained with.
        observations: Table `observations`.

    Returns:
        Table `critic_predictions`: instance_id, mean, variance (lists aligned with the candidates).

    Raises:
        InputError: Embeddings of another size than the critic's, or an item without embedding.
    """
    embeddings = ItemEmbeddings.from_table(item_embeddings)
    if embeddings.matrix.shape[1] != critic.embedding_size:
        raise InputError(
            f"item_embeddings have {embeddings.matrix.shape[1]} dimensions, the critic was trained with "
            f"{critic.embedding_size}; train it again with these embeddings"
        )
    settings = critic.settings
    sizes = [len(candidates) for candidates in labelled_instances[Columns.CANDIDATES]]
    instance = np.repeat(np.arange(len(sizes)), sizes)
    candidates = _flat(labelled_instances[Columns.CANDIDATES], np.int64)
    candidate = embeddings.rows(candidates, table="labelled_instances")
    observed = observed_training(observations)
    statistics = item_statistics(
        candidates,
        labelled_instances[Columns.USER_ID].to_numpy(np.int64)[instance],
        observed[Columns.ITEM_ID].to_numpy(np.int64),
        observed[Columns.USER_ID].to_numpy(np.int64),
        engagement_gain(observed[Columns.ENGAGEMENT].to_numpy(np.float64), critic.gain),
        settings.statistics_strength,
    )
    history = history_embeddings(
        *_recent_first(labelled_instances, embeddings, settings.history_length), embeddings.matrix, settings.decay
    )
    mean, variance = predict(critic, history, instance, embeddings.matrix, candidate, statistics)
    cuts = np.cumsum(sizes)[:-1]
    return pd.DataFrame(
        {
            Columns.INSTANCE_ID: labelled_instances[Columns.INSTANCE_ID].to_numpy(np.int64),
            Columns.MEAN: [part.tolist() for part in np.split(mean, cuts)],
            Columns.VARIANCE: [part.tolist() for part in np.split(variance, cuts)],
        }
    )


def _flat(lists: pd.Series, dtype: type) -> np.ndarray:
    """All entries of a list column in one array."""
    return np.concatenate([np.asarray(entries, dtype=dtype) for entries in lists]) if len(lists) else np.empty(0, dtype)


def _recent_first(
    labelled_instances: pd.DataFrame, embeddings: ItemEmbeddings, length: int
) -> tuple[Int[np.ndarray, "n H"], Float[np.ndarray, "n H"]]:
    """The latest `length` history items (rows of the embeddings, most recent first, -1 for none) and engagements."""
    items = np.full((len(labelled_instances), length), -1, dtype=np.int64)
    engagements = np.zeros(items.shape)
    pairs = zip(labelled_instances[Columns.HISTORY_ITEMS], labelled_instances[Columns.HISTORY_ENGAGEMENTS], strict=True)
    for row, (history, weights) in enumerate(pairs):
        recent = np.asarray(history, dtype=np.int64)[::-1][:length]
        items[row, : len(recent)] = embeddings.rows(recent, table="labelled_instances")
        engagements[row, : len(recent)] = np.asarray(weights, dtype=np.float64)[::-1][:length]
    return items, engagements
