"""The baseline `mf`."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.baselines.scores import Scores, of_other_users
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.factorisation import fit_factorisation
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain


def mf_scores(
    labelled_instances: pd.DataFrame,
    *,
    observations: pd.DataFrame,
    gain: GainKind,
    fitted: FittedSettings,
    seed: int,
    **_: object,
) -> Scores:
    """Predicted gain by biased matrix factorisation.

    It is fitted to the observed interactions of other training users, over all times. The asking user is folded in by
    the history of the instance, which ends before the query. An item or a history that is not known gets no bias and no
    vector: with neither, all that is left is the mean.

    Raises:
        InputError: No other training user has an observed interaction.
    """
    known = of_other_users(labelled_instances, observations)
    model = fit_factorisation(
        known[Columns.USER_ID].to_numpy(np.int64),
        known[Columns.ITEM_ID].to_numpy(np.int64),
        engagement_gain(known[Columns.ENGAGEMENT].to_numpy(np.float64), gain),
        fitted.mf,
        seed=seed,
    )
    count = len(labelled_instances)
    lengths = [len(items) for items in labelled_instances[Columns.HISTORY_ITEMS]]
    bias, vectors = model.fold_in(
        np.repeat(np.arange(count), lengths),
        _flat(labelled_instances[Columns.HISTORY_ITEMS]).astype(np.int64),
        engagement_gain(_flat(labelled_instances[Columns.HISTORY_ENGAGEMENTS]), gain),
        count=count,
    )
    scores = []
    for row, candidates in enumerate(labelled_instances[Columns.CANDIDATES]):
        items = model.rows(np.asarray(candidates, dtype=np.int64))
        scores.append(model.mean + model.scale * (bias[row] + model.bias[items] + model.vectors[items] @ vectors[row]))
    return scores


def _flat(lists: pd.Series) -> Float[np.ndarray, " n"]:
    return np.concatenate([np.zeros(0), *(np.asarray(values, dtype=np.float64) for values in lists)])
