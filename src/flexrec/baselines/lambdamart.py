"""LambdaMART on the signals of the candidates."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.baselines.scores import Scores
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.completion import aligned_predictions, training_gains
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.instances import CANDIDATE_SIGNALS
from flexrec.ranking.needs import Need


def lambdamart_scores(
    labelled_instances: pd.DataFrame,
    *,
    training_instances: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    need: Need,
    gain: GainKind,
    fitted: FittedSettings,
    seed: int,
    **_: object,
) -> Scores:
    """Gradient-boosted trees that are trained to order the training instances of other users by the need's gains.

    A candidate is described by its signals and the critic's mean, each as it is and min-max normalised over the
    candidates of its list, since a model that reads a prompt sees the whole list too. The gains are those that a policy
    is trained with where the critic completes them: the label where it is observed, the critic's mean elsewhere.

    Source: Burges (2010), "From RankNet to LambdaRank to LambdaMART"; LightGBM's objective `lambdarank`.

    Raises:
        InputError: No training instance of another user, an instance without predictions of the critic, or LightGBM
            cannot be loaded.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise InputError(
            f"lambdamart: LightGBM cannot be loaded ({error}); it needs the system library libgomp, Debian: libgomp1. "
            "Install it, or take lambdamart out of evaluate.baselines"
        ) from error

    asked = labelled_instances[Columns.USER_ID]
    training = training_instances[~training_instances[Columns.USER_ID].isin(asked)]
    if training.empty:
        raise InputError("lambdamart: there is no training instance of a user who is not asked about")
    settings = fitted.lambdamart
    gains = training_gains(training, critic_predictions, {"lambdamart": need}, gain)[Columns.MEAN]
    grades, worth = gain_grades(
        np.concatenate([np.asarray(values, dtype=np.float64) for values in gains]), settings.grades
    )
    sizes = [len(candidates) for candidates in labelled_instances[Columns.CANDIDATES]]
    if len(worth) == 1:
        return [np.zeros(size) for size in sizes]
    model = lightgbm.LGBMRanker(
        objective="lambdarank",
        n_estimators=settings.trees,
        num_leaves=settings.leaves,
        learning_rate=settings.learning_rate,
        min_child_samples=settings.min_rows,
        label_gain=worth.tolist(),
        random_state=seed,
        # one thread, one way to build histograms: the same bits on every run
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbosity=-1,
    )
    model.fit(list_features(training, critic_predictions), grades, group=[len(values) for values in gains])
    scores = np.asarray(model.predict(list_features(labelled_instances, critic_predictions)), dtype=np.float64)
    return np.split(scores, np.cumsum(sizes)[:-1])


def gain_grades(
    gains: Float[np.ndarray, " n"], grades: int
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " used"]]:
    """Turn gains into grades, which LambdaMART needs, and say what each grade is worth.

    Where there are at most as many different gains as grades, each gain is a grade; otherwise they are cut at their
    quantiles.

    The worth of a grade is the mean gain in it, so that the NDCG that is optimised is that of the gains, up to their
    differences within a grade; a power of the grade would be another measure.

    Args:
        gains: At least one; equal ones get the same grade.
        grades: Most grades; there may be fewer where gains repeat.

    Returns:
        Grades from 0 without gaps, and the worth of each, increasing.
    """
    values, codes = np.unique(gains, return_inverse=True)
    if len(values) > grades:
        edges = np.quantile(gains, np.arange(1, grades) / grades)
        _, codes = np.unique(np.searchsorted(edges, gains, side="left"), return_inverse=True)
    return codes, np.bincount(codes, weights=gains) / np.bincount(codes)


def list_features(instances: pd.DataFrame, critic_predictions: pd.DataFrame) -> Float[np.ndarray, "n features"]:
    """One row per candidate: the signals and the critic's mean, then the same min-max normalised over its list.

    A column that is constant in a list is 0 there.

    Raises:
        InputError: An instance without predictions of the critic.
    """
    means, _variances = aligned_predictions(instances, critic_predictions)
    blocks = []
    columns = [instances[name] for name in CANDIDATE_SIGNALS]
    for mean, *signals in zip(means, *columns, strict=True):
        own = np.column_stack([*(np.asarray(values, dtype=np.float64) for values in signals), mean])
        low, span = own.min(axis=0), np.ptp(own, axis=0)
        blocks.append(np.column_stack([own, (own - low) / np.where(span == 0.0, 1.0, span)]))
    return np.concatenate(blocks)
