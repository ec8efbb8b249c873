"""Predictions of a trained critic."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from flexrec.critic.examples import (
    CriticExamples,
    ItemVectors,
    history_embeddings,
    observed_training,
    with_queries,
)
from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.taste import Histories, Observed, taste
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import engagement_gain

_BLOCK = 8192


def predict(
    critic: TwoTowerCritic,
    history: Float[np.ndarray, "m d"],
    history_row: Int[np.ndarray, " n"],
    embeddings: Float[np.ndarray, "i d"],
    candidate: Int[np.ndarray, " n"],
    statistics: Float[np.ndarray, "n s"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and variance of the gain of each pair of a history and a candidate, without dropout.

    Args:
        critic: The critic; it is left in evaluation mode.
        history: Float32 history embeddings.
        history_row: Row of `history` of each pair.
        embeddings: Float32 item embeddings.
        candidate: Row of `embeddings` of each pair.
        statistics: `item_statistics` of each pair, and its `taste` if the critic reads it.

    Returns:
        Float64 means, and variances > 0, on the scale of the gain.
    """
    critic.eval()
    moments = np.empty((2, len(candidate)))
    with torch.inference_mode():
        for start in range(0, len(candidate), _BLOCK):
            block = slice(start, start + _BLOCK)
            mean, variance = critic(
                torch.from_numpy(history[history_row[block]]),
                torch.from_numpy(embeddings[candidate[block]]),
                torch.from_numpy(statistics[block].astype(np.float32)),
            )
            moments[:, block] = torch.stack([mean, variance]).numpy()
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
    query_embeddings: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Mean and variance of the engagement gain of every candidate of every instance.

    Item statistics are those of the observed interactions of training users, the instance's own user left out: a
    training candidate is predicted without its own label.

    Args:
        critic: A trained critic.
        labelled_instances: Table `labelled_instances`; of it, user, history and candidates are read.
        item_embeddings: Table `item_embeddings`, the one that the critic was trained with.
        observations: Table `observations`.
        query_embeddings: Table `query_embeddings`; None or empty where no user is a query.

    Returns:
        Table `critic_predictions`: `instance_id`, `mean`, `variance` (lists aligned with the candidates).

    Raises:
        InputError: Embeddings of another length than in training, or an item without embedding.
    """
    vectors = ItemVectors.of(item_embeddings)
    if vectors.matrix.shape[1] != critic.embedding_size:
        raise InputError(
            f"item_embeddings have {vectors.matrix.shape[1]} dimensions, the critic was trained with "
            f"{critic.embedding_size}; train it again with these embeddings"
        )
    if labelled_instances.empty:
        raise InputError("labelled_instances is empty; there is nothing to predict")
    lists = [np.asarray(candidates, dtype=np.int64) for candidates in labelled_instances[Columns.CANDIDATES]]
    sizes = [len(candidates) for candidates in lists]
    instance = np.repeat(np.arange(len(lists)), sizes)
    candidate = vectors.rows(np.concatenate(lists), table="labelled_instances")
    observed = observed_training(observations)
    users = labelled_instances[Columns.USER_ID].to_numpy(np.int64)
    known_users = observed[Columns.USER_ID].to_numpy(np.int64)
    known_items = observed[Columns.ITEM_ID].to_numpy(np.int64)
    known_gains = engagement_gain(observed[Columns.ENGAGEMENT].to_numpy(np.float64), critic.gain)
    statistics = item_statistics(
        np.concatenate(lists),
        users[instance],
        known_items,
        known_users,
        known_gains,
        critic.settings.statistics_strength,
    )
    items, engagements = _recent_first(labelled_instances, vectors, critic.settings.history_length)
    if critic.settings.taste is not None:
        predicted = taste(
            users,
            Histories(items, engagement_gain(engagements, critic.gain)),
            instance,
            candidate,
            Observed(known_users, vectors.rows(known_items, table="observations"), known_gains),
            critic.settings.taste,
        )
        statistics = np.column_stack([statistics, predicted])
    history = with_queries(
        history_embeddings(items, engagements, vectors.matrix, critic.settings.decay),
        users,
        query_embeddings,
    )
    mean, variance = predict(critic, history, instance, vectors.matrix, candidate, statistics)
    ends = np.cumsum(sizes)[:-1]
    return pd.DataFrame(
        {
            Columns.INSTANCE_ID: labelled_instances[Columns.INSTANCE_ID].to_numpy(np.int64),
            Columns.MEAN: [part.tolist() for part in np.split(mean, ends)],
            Columns.VARIANCE: [part.tolist() for part in np.split(variance, ends)],
        }
    )


def _recent_first(
    labelled_instances: pd.DataFrame, vectors: ItemVectors, length: int
) -> tuple[Int[np.ndarray, "n H"], Float[np.ndarray, "n H"]]:
    """The `length` latest history items (rows of the vectors, most recent first, -1 for none) and their engagements."""
    items = np.full((len(labelled_instances), length), -1, dtype=np.int64)
    engagements = np.zeros(items.shape)
    columns = (labelled_instances[Columns.HISTORY_ITEMS], labelled_instances[Columns.HISTORY_ENGAGEMENTS])
    for row, (history, weights) in enumerate(zip(*columns, strict=True)):
        recent = np.asarray(history, dtype=np.int64)[::-1][:length]
        items[row, : len(recent)] = vectors.rows(recent, table="labelled_instances")
        engagements[row, : len(recent)] = np.asarray(weights, dtype=np.float64)[::-1][:length]
    return items, engagements
