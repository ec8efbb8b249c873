"""Gains by neighbours, user-based and item-based, on sparse vectors of gains; no torch.

The classical collaborative filters (Resnick et al. 1994; Sarwar et al. 2001) as an alternative to the critic.
Similarity is the cosine of the gains as they are. They are not centred on a user's mean: with a tenth of the
interactions observed most pairs of users share an item or two, and the centred vector of a user with one observation
is zero.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from flexrec.critic.examples import observed_training
from flexrec.critic.item_statistics import item_statistics
from flexrec.critic.settings import NeighbourSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain

_BLOCK = 512
_SMALLEST = 1e-9
"""A cosine that is smaller is none; the subtraction from 1 leaves rounding errors of 1e-16."""


def neighbour_gains(
    labelled_instances: pd.DataFrame,
    observations: pd.DataFrame,
    gain: GainKind,
    settings: NeighbourSettings,
    *,
    by: Literal["users", "items"],
) -> list[Float[np.ndarray, " K"]]:
    r"""Predict the gain of every candidate from the observed interactions of training users.

    .. math:: \hat g(u, i) = \frac{\sum_n s_n g_n + \lambda m_i}{\sum_n s_n + \lambda}

    Over the `count` most similar users who have the item, `s` the cosine of their vectors of gains with the asking
    user's and `g` what they gained of the item; or over the `count` items of the asking user that are most similar to
    the candidate, `s` the cosine of both items' vectors and `g` what the user gained of them. Only positive cosines
    count, of equal ones the lower id comes first. :math:`m_i` is the item's shrunken mean gain among other users, the
    mean of all their gains where nobody has the item (`item_statistics`); it is also what remains without a neighbour.

    What is known of the asking user is its observed interactions where it is a training user, else the history of the
    instance. A candidate that is among them has a label and is not predicted: no prediction reads its own label.

    Args:
        labelled_instances: Table `labelled_instances`; of it, user, history and candidates are read.
        observations: Table `observations`; only observed rows of training users are read.
        gain: How engagement becomes gain.
        settings: Number of neighbours and shrinkage.
        by: Neighbours of the user, or of the item.

    Returns:
        For each instance the predicted gains (>= 0) of its candidates, NaN where the label is known.

    Raises:
        InputError: There is no observed interaction of a training user, or one without a finite gain.

    Source: Resnick et al. (CSCW 1994) by users, Sarwar et al. (WWW 2001) by items.
    """
    observed = observed_training(observations)
    users = observed[Columns.USER_ID].to_numpy(np.int64)
    items = observed[Columns.ITEM_ID].to_numpy(np.int64)
    gains = engagement_gain(observed[Columns.ENGAGEMENT].to_numpy(np.float64), gain)
    candidates = [np.asarray(shown, dtype=np.int64) for shown in labelled_instances[Columns.CANDIDATES]]
    if not candidates:
        return []
    histories = [np.asarray(seen, dtype=np.int64) for seen in labelled_instances[Columns.HISTORY_ITEMS]]
    item_ids = np.unique(np.concatenate([items, *candidates, *histories]))
    user_ids = np.unique(users)
    places = (np.searchsorted(user_ids, users), np.searchsorted(item_ids, items))
    rated = sparse.csr_array((gains, places), shape=(len(user_ids), len(item_ids)))
    known, asker = _what_is_known(labelled_instances, histories, rated, user_ids, item_ids, gain)

    instance = np.repeat(np.arange(len(candidates)), [len(shown) for shown in candidates])
    asked = np.concatenate(candidates)
    means = item_statistics(
        asked,
        labelled_instances[Columns.USER_ID].to_numpy(np.int64)[instance],
        items,
        users,
        gains,
        settings.mean_strength,
    )[:, 1]
    row, column = asker[instance], np.searchsorted(item_ids, asked)
    if by == "users":
        predicted = _pooled(known, rated, rated.tocsc(), row, column, means, settings)
    else:
        vectors = rated.T.tocsr()
        predicted = _pooled(vectors, vectors, known, column, row, means, settings)
    predicted[_holds(known, row, column)] = np.nan
    return np.split(predicted, np.cumsum([len(shown) for shown in candidates])[:-1])


def _what_is_known(
    labelled_instances: pd.DataFrame,
    histories: Sequence[Int[np.ndarray, " H"]],
    rated: sparse.csr_array,
    user_ids: Int[np.ndarray, " u"],
    item_ids: Int[np.ndarray, " m"],
    gain: GainKind,
) -> tuple[sparse.csr_array, Int[np.ndarray, " n"]]:
    """Gains by asking user and item, the training users' rows first, and the row of every instance."""
    asking = labelled_instances[Columns.USER_ID].to_numpy(np.int64)
    asker = np.minimum(np.searchsorted(user_ids, asking), len(user_ids) - 1)
    strangers = np.flatnonzero(user_ids[asker] != asking)
    asker[strangers] = len(user_ids) + np.arange(len(strangers))
    lengths = np.array([len(histories[row]) for row in strangers], dtype=np.int64)
    engagements = [
        np.asarray(labelled_instances[Columns.HISTORY_ENGAGEMENTS].iloc[row], dtype=np.float64) for row in strangers
    ]
    columns = [np.searchsorted(item_ids, histories[row]) for row in strangers]
    theirs = sparse.csr_array(
        (
            engagement_gain(np.concatenate([np.empty(0), *engagements]), gain),
            (np.repeat(np.arange(len(strangers)), lengths), np.concatenate([np.empty(0, dtype=np.int64), *columns])),
        ),
        shape=(len(strangers), len(item_ids)),
    )
    return sparse.csr_array(sparse.vstack([rated, theirs], format="csr")), asker


def _holds(
    table: sparse.csr_array, rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Which of the places of a sparse table are filled, be it with a 0."""
    width = table.shape[1]
    filled = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr)) * width + table.indices
    return np.isin(rows * width + columns, filled)


def _pooled(
    asking: sparse.csr_array,
    others: sparse.csr_array,
    holders: sparse.csr_array | sparse.csc_array,
    row: Int[np.ndarray, " n"],
    held: Int[np.ndarray, " n"],
    means: Float[np.ndarray, " n"],
    settings: NeighbourSettings,
) -> Float[np.ndarray, " n"]:
    """The formula of `neighbour_gains` for n pairs.

    Args:
        asking: Vectors whose neighbours are wanted.
        others: Vectors among which they are.
        holders: Compressed by what is held: who among `others` has it, and with which gain.
        row: Row of `asking` of each pair.
        held: Line of `holders` of each pair.
        means: What remains without neighbours.
        settings: Number of neighbours and shrinkage.
    """
    result = means.copy()
    order = np.argsort(row, kind="stable")
    rows, firsts = np.unique(row[order], return_index=True)
    for similarity, pairs in zip(_cosines(asking, others, rows), np.split(order, firsts[1:]), strict=True):
        for pair in pairs:
            line = slice(holders.indptr[held[pair]], holders.indptr[held[pair] + 1])
            cosines, gains = similarity[holders.indices[line]], holders.data[line]
            nearest = np.argsort(-cosines, kind="stable")[: settings.count]
            weights = cosines[nearest]
            total = weights.sum() + settings.shrinkage
            if weights.any():
                result[pair] = (weights @ gains[nearest] + settings.shrinkage * means[pair]) / total
    return result


def _cosines(
    asking: sparse.csr_array, others: sparse.csr_array, rows: Int[np.ndarray, " n"]
) -> Iterator[Float[np.ndarray, " m"]]:
    """Cosines of single rows with all others, 0 where they have nothing in common."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(radius=1 - _SMALLEST, metric="cosine", algorithm="brute").fit(others)
    for start in range(0, len(rows), _BLOCK):
        graph = search.radius_neighbors_graph(asking[rows[start : start + _BLOCK]], mode="distance")
        for line in range(graph.shape[0]):
            part = slice(graph.indptr[line], graph.indptr[line + 1])
            similarity = np.zeros(others.shape[0])
            similarity[graph.indices[part]] = 1.0 - graph.data[part]
            yield similarity
