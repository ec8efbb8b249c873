"""One function per baseline: a score for every candidate of every instance, larger is better.

A baseline names the arguments that it reads and ignores the others, see `Baseline`. A score may use what is known at
the query, or the observed interactions of training users; never a label of the instance itself.
"""

from typing import Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.baselines.settings import FittedSettings
from flexrec.critic.completion import aligned_predictions
from flexrec.critic.examples import ItemVectors, observed_training
from flexrec.critic.item_statistics import item_statistics
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain
from flexrec.ranking.instances import CANDIDATE_SIGNALS
from flexrec.ranking.needs import Need, need_gains, uses_engagement
from flexrec.retrieval.collaborative import Audiences
from flexrec.retrieval.star import StarScoringSettings, star_weights
from flexrec.retrieval.star import star_scores as weighted_likeness

Scores = list[Float[np.ndarray, " K"]]


class Baseline(Protocol):
    """Scores of the candidates, one array per row of `labelled_instances`."""

    def __call__(
        self,
        labelled_instances: pd.DataFrame,
        *,
        training_instances: pd.DataFrame,
        observations: pd.DataFrame,
        critic_predictions: pd.DataFrame,
        item_embeddings: pd.DataFrame,
        need: Need,
        gain: GainKind,
        strength: float,
        star: StarScoringSettings,
        fitted: FittedSettings,
        seed: int,
    ) -> Scores:
        """Score the candidates.

        Args:
            labelled_instances: Table `labelled_instances`, any part of it: what is asked.
            training_instances: The training part of the same table, to learn from.
            observations: Table `observations`.
            critic_predictions: Table `critic_predictions`.
            item_embeddings: Table `item_embeddings`.
            need: What the ranking is for.
            gain: How engagement becomes gain.
            strength: Pseudo-observations of the global mean in an item's mean, > 0.
            star: Weights of STAR.
            fitted: Settings of the baselines that are fitted.
            seed: For a baseline that draws at random.
        """
        ...


def random_scores(labelled_instances: pd.DataFrame, *, seed: int, **_: object) -> Scores:
    """Uniform in [0, 1); each instance has its own generator, so its scores do not depend on the others."""
    columns = (labelled_instances[Columns.INSTANCE_ID], labelled_instances[Columns.CANDIDATES])
    return [
        np.random.default_rng([seed, int(instance_id), 1]).random(len(candidates))
        for instance_id, candidates in zip(*columns, strict=True)
    ]


def retriever_scores(labelled_instances: pd.DataFrame, **_: object) -> Scores:
    """Similarity to the history: the retriever's own order."""
    return _column(labelled_instances, Columns.SIMILARITY)


def trend_scores(labelled_instances: pd.DataFrame, **_: object) -> Scores:
    """Interactions of the days before the query."""
    return _column(labelled_instances, Columns.TREND)


def popularity_scores(labelled_instances: pd.DataFrame, *, observations: pd.DataFrame, **_: object) -> Scores:
    """log(1 + observed interactions of other training users), over all times."""
    # neither the unit of the gain nor the shrinkage matters for a count
    return _statistics(labelled_instances, observations, gain="linear", strength=1.0, column=0)


def item_mean_scores(
    labelled_instances: pd.DataFrame, *, observations: pd.DataFrame, gain: GainKind, strength: float, **_: object
) -> Scores:
    """Shrunken mean gain among the observed interactions of other training users, over all times."""
    return _statistics(labelled_instances, observations, gain=gain, strength=strength, column=1)


def star_scores(
    labelled_instances: pd.DataFrame,
    *,
    observations: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    star: StarScoringSettings,
    **_: object,
) -> Scores:
    """STAR (arXiv 2410.16458): likeness to the latest history items in text and in audience.

    Audiences are the observed interactions of other training users, over all times. Without history, as where the
    context is a query, it is the retriever's similarity.

    Raises:
        InputError: A candidate or history item without embedding.
    """
    vectors = ItemVectors.of(item_embeddings)
    audiences = Audiences.of(observations, vectors.item_ids)
    names = (Columns.USER_ID, Columns.CANDIDATES, Columns.SIMILARITY)
    context = (Columns.HISTORY_ITEMS, Columns.HISTORY_ENGAGEMENTS)
    scores = []
    for user, shown, similarity, items, engagements in zip(
        *(labelled_instances[name] for name in (*names, *context)), strict=True
    ):
        if len(items) == 0:
            scores.append(np.asarray(similarity, dtype=np.float64))
            continue
        candidates = vectors.rows(np.asarray(shown, dtype=np.int64), table="labelled_instances")
        history = vectors.rows(np.asarray(items, dtype=np.int64)[-star.history :], table="labelled_instances")
        weights = star_weights(len(history), star, np.asarray(engagements, dtype=np.float64)[-star.history :])
        semantic = vectors.matrix[candidates].astype(np.float64) @ vectors.matrix[history].T.astype(np.float64)
        shared = audiences.cosines(candidates, history, user=int(user))
        scores.append(weighted_likeness(semantic, shared, weights, star.collaborative))
    return scores


def critic_scores(
    labelled_instances: pd.DataFrame, *, critic_predictions: pd.DataFrame, need: Need, **_: object
) -> Scores:
    """Gain of the need with the critic's mean as engagement; the mean itself if the need does not use engagement.

    It is not cut at 0: candidates of which the critic thinks worse and worse are not all alike to it.
    """
    means, _variances = aligned_predictions(labelled_instances, critic_predictions)
    if not uses_engagement(need):
        return means
    signals = {name: _column(labelled_instances, name) for name in CANDIDATE_SIGNALS}
    scores = []
    for row, mean in enumerate(means):
        told: dict[str, np.ndarray] = {name: values[row] for name, values in signals.items()}
        scores.append(need_gains(need, {**told, Columns.ENGAGEMENT: mean}, cut=False)[0])
    return scores


def of_other_users(labelled_instances: pd.DataFrame, observations: pd.DataFrame) -> pd.DataFrame:
    """Observed interactions of the training users of whom nothing is asked, ordered by event.

    A fitted model that saw the interactions of an asking user would have seen the labels that it ranks.

    Raises:
        InputError: There is none.
    """
    observed = observed_training(observations)
    others = observed[~observed[Columns.USER_ID].isin(labelled_instances[Columns.USER_ID])]
    if others.empty:
        raise InputError(
            "observations: every training user with an observed interaction is asked about, so none is left to learn "
            "from; rank instances of held-out users"
        )
    return others.reset_index(drop=True)


def _column(labelled_instances: pd.DataFrame, name: str) -> Scores:
    return [np.asarray(values, dtype=np.float64) for values in labelled_instances[name]]


def _statistics(
    labelled_instances: pd.DataFrame, observations: pd.DataFrame, *, gain: GainKind, strength: float, column: int
) -> Scores:
    """One column of `item_statistics`, the instance's own user left out."""
    observed = observed_training(observations)
    lists = [np.asarray(candidates, dtype=np.int64) for candidates in labelled_instances[Columns.CANDIDATES]]
    sizes = [len(candidates) for candidates in lists]
    statistics = item_statistics(
        np.concatenate(lists),
        labelled_instances[Columns.USER_ID].to_numpy(np.int64).repeat(sizes),
        observed[Columns.ITEM_ID].to_numpy(np.int64),
        observed[Columns.USER_ID].to_numpy(np.int64),
        engagement_gain(observed[Columns.ENGAGEMENT].to_numpy(np.float64), gain),
        strength,
    )
    return np.split(statistics[:, column], np.cumsum(sizes)[:-1])
