"""BERT4Rec: what comes next in a sequence of items; no torch before it is trained."""

import numpy as np
import pandas as pd
from jaxtyping import Int

from flexrec.baselines.scores import Scores, of_other_users
from flexrec.baselines.settings import FittedSettings
from flexrec.ranking.columns import Columns


def bert4rec_scores(
    labelled_instances: pd.DataFrame, *, observations: pd.DataFrame, fitted: FittedSettings, seed: int, **_: object
) -> Scores:
    """Logit of the candidate at a mask that follows the history.

    Trained on the sequences of observed interactions of other training users, over all times; engagement is not read.
    An item that none of them took up is as likely as the least likely one. Where no instance has a history, as where
    the context is a query, there is no sequence to go on with, and all candidates are alike.

    Raises:
        InputError: No other training user has an observed interaction.
    """
    histories = [np.asarray(items, dtype=np.int64) for items in labelled_instances[Columns.HISTORY_ITEMS]]
    shown = [np.asarray(items, dtype=np.int64) for items in labelled_instances[Columns.CANDIDATES]]
    if not any(len(items) for items in histories):
        return [np.zeros(len(items)) for items in shown]
    from flexrec.baselines.bert4rec_model import fit_bert4rec, next_item_logits

    known = of_other_users(labelled_instances, observations)
    item_ids, sequences = item_sequences(known)
    model = fit_bert4rec(sequences, len(item_ids), fitted.bert4rec, seed=seed)
    index = pd.Index(item_ids)
    codes = [index.get_indexer(pd.Index(items)) for items in histories]
    logits = next_item_logits(model, [places[places >= 0] for places in codes], fitted.bert4rec)
    scores = []
    for values, items in zip(logits.astype(np.float64), shown, strict=True):
        places = index.get_indexer(pd.Index(items))
        scores.append(np.where(places >= 0, values[places], values.min()))
    return scores


def item_sequences(interactions: pd.DataFrame) -> tuple[Int[np.ndarray, " m"], list[Int[np.ndarray, " n"]]]:
    """Every user's items, oldest first, numbered from 0.

    Args:
        interactions: user_id, item_id, event_id.

    Returns:
        The ids of the numbers, ascending, and one sequence per user, by user.
    """
    rows = interactions.sort_values([Columns.USER_ID, Columns.EVENT_ID])
    item_ids, codes = np.unique(rows[Columns.ITEM_ID].to_numpy(np.int64), return_inverse=True)
    users = rows[Columns.USER_ID].to_numpy()
    return item_ids, np.split(codes, np.flatnonzero(users[1:] != users[:-1]) + 1)
