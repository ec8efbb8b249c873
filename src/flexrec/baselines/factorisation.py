"""The baseline `mf`."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from flexrec.baselines.scores import Scores, of_other_users
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.factorisation import Factorisation, fit_factorisation
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
    return factorised_scores(labelled_instances, model, shown_history(labelled_instances, gain))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the users who ask: one row per interaction."""

    owners: Int[np.ndarray, " n"]
    """Place of the instance."""
    items: Int[np.ndarray, " n"]
    gains: Float[np.ndarray, " n"]


def shown_history(labelled_instances: pd.DataFrame, gain: GainKind) -> Known:
    """The histories of the instances."""
    lengths = [len(items) for items in labelled_instances[Columns.HISTORY_ITEMS]]
    return Known(
        np.repeat(np.arange(len(lengths)), lengths),
        _flat(labelled_instances[Columns.HISTORY_ITEMS], np.int64),
        engagement_gain(_flat(labelled_instances[Columns.HISTORY_ENGAGEMENTS], np.float64), gain),
    )


def factorised_scores(labelled_instances: pd.DataFrame, model: Factorisation, known: Known) -> Scores:
    """Predicted gains of the candidates, the users folded in by what is known of them."""
    bias, vectors = model.fold_in(known.owners, known.items, known.gains, count=len(labelled_instances))
    candidates = labelled_instances[Columns.CANDIDATES]
    sizes = [len(shown) for shown in candidates]
    owners = np.repeat(np.arange(len(sizes)), sizes)
    predicted = model.predict(bias, vectors, owners, _flat(candidates, np.int64))
    return np.split(predicted, np.cumsum(sizes)[:-1])


def _flat(lists: pd.Series, dtype: type[np.generic]) -> Shaped[np.ndarray, " n"]:
    # of its own type: whole numbers of 17 digits do not fit into a float
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(values, dtype=dtype) for values in lists)])
