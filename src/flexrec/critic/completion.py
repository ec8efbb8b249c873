"""Gains that a policy may be trained with: the label where it is observed, a completion elsewhere; no torch."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.critic.neighbours import neighbour_gains
from flexrec.critic.settings import NeighbourSettings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.completions import Completion
from flexrec.ranking.gains import GainKind, engagement_gain
from flexrec.ranking.instances import CANDIDATE_SIGNALS
from flexrec.ranking.needs import Need, need_gains

logger = logging.getLogger(__name__)

SILENT = "lists of equal gains left out"
"""Of the counts: lists all of whose candidates have the same gain."""

SHORTER = "shorter lists left out"
"""Of the counts: a step of training needs lists of one length, and only queries in words may have fewer than K."""

Moments = tuple[list[Float[np.ndarray, " K"]], list[Float[np.ndarray, " K"]]]
"""Means and variances of the gains of the candidates of each instance; read where the label is not observed."""


class Completing(Protocol):
    """What stands for the labels of training instances that are not observed."""

    def __call__(
        self,
        training: pd.DataFrame,
        *,
        critic_predictions: pd.DataFrame,
        observations: pd.DataFrame | None,
        gain: GainKind,
        neighbours: NeighbourSettings,
    ) -> Moments:
        """Complete the rows `training` of the table `labelled_instances`; the rest as in `training_gains`."""


def _by_critic(training: pd.DataFrame, *, critic_predictions: pd.DataFrame, **_: object) -> Moments:
    return aligned_predictions(training, critic_predictions)


def _by_nothing(training: pd.DataFrame, **_: object) -> Moments:
    return _known([np.zeros(len(candidates)) for candidates in training[Columns.CANDIDATES]])


def _by_users(training: pd.DataFrame, **given: Any) -> Moments:
    return _by_neighbours(training, "users", **given)


def _by_items(training: pd.DataFrame, **given: Any) -> Moments:
    return _by_neighbours(training, "items", **given)


def _by_neighbours(
    training: pd.DataFrame,
    by: Literal["users", "items"],
    *,
    observations: pd.DataFrame | None,
    gain: GainKind,
    neighbours: NeighbourSettings,
    **_: object,
) -> Moments:
    if observations is None:
        raise InputError("completing gains by neighbours needs the table observations")
    return _known(neighbour_gains(training, observations, gain, neighbours, by=by))


def _known(means: list[Float[np.ndarray, " K"]]) -> Moments:
    """Taken for the truth: without variance."""
    return means, [np.zeros(len(mean)) for mean in means]


COMPLETIONS: dict[Completion, Completing] = {
    "critic": _by_critic,
    "observed": _by_nothing,
    "user_knn": _by_users,
    "item_knn": _by_items,
}


def training_gains(
    labelled_instances: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    needs: Mapping[str, Need],
    gain: GainKind,
    *,
    completion: Completion = "critic",
    observations: pd.DataFrame | None = None,
    neighbours: NeighbourSettings | None = None,
) -> pd.DataFrame:
    """Complete the sparse labels of the training instances and compose them by need.

    An observed candidate has the gain of its label and variance 0. Any other has, by `completion`, the critic's mean
    and variance; the prediction of neighbours without a variance; or nothing: gain 0 and variance 0. A need that does
    not use engagement has known gains, of variance 0. The log says how many lists teach nothing, because no order of
    their candidates is better than another.

    Args:
        labelled_instances: Table `labelled_instances`; only its training instances are read.
        critic_predictions: Table `critic_predictions`, with every training instance; read by `critic`.
        needs: Needs by name.
        gain: How engagement becomes gain; the critic's.
        completion: What stands for the labels that are not observed.
        observations: Table `observations`, of which `user_knn` and `item_knn` read the observed rows of training users.
        neighbours: Of `user_knn` and `item_knn`.

    Returns:
        Table `training_gains`: `instance_id`, `need`, `mean`, `variance` (lists aligned with the candidates), by need
        and then in the order of the instances.

    Raises:
        InputError: No training instance, predictions that are missing or of another number of candidates, or no
            observations where neighbours are asked for.
    """
    training = labelled_instances[labelled_instances[Columns.SPLIT] == "train"]
    if training.empty:
        raise InputError("labelled_instances: there is no training instance; lower K or raise the density")
    means, variances = COMPLETIONS[completion](
        training,
        critic_predictions=critic_predictions,
        observations=observations,
        gain=gain,
        neighbours=neighbours or NeighbourSettings(),
    )
    completed = []
    for row, mean, variance in zip(training.to_dict("records"), means, variances, strict=True):
        label = engagement_gain(np.asarray(row[Columns.OBSERVED_ENGAGEMENT], dtype=np.float64), gain)
        observed = ~np.isnan(label)
        signals: dict[str, np.ndarray] = {name: np.asarray(row[name], dtype=np.float64) for name in CANDIDATE_SIGNALS}
        signals[Columns.ENGAGEMENT] = np.where(observed, label, mean)
        completed.append((row[Columns.INSTANCE_ID], signals, np.where(observed, 0.0, variance)))
    rows = []
    for name, need in needs.items():
        gains = [need_gains(need, signals, variance) for _, signals, variance in completed]
        silent = sum(bool(np.ptp(mean) == 0) for mean, _ in gains)
        if silent:
            logger.info(
                "training gains (%s): %d of %d training instances have the same gain for every candidate under %s: "
                "they teach nothing",
                completion,
                silent,
                len(completed),
                name,
            )
        rows += [
            (instance_id, name, mean.tolist(), variance.tolist())
            for (instance_id, _, _), (mean, variance) in zip(completed, gains, strict=True)
        ]
    return pd.DataFrame(rows, columns=[Columns.INSTANCE_ID, Columns.NEED, Columns.MEAN, Columns.VARIANCE])


def count_left_out(gains: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many lists of a table of training gains warm-up and training leave out, by need and reason.

    Those without an order that is better than another, and of the others those shorter than the longest.

    Args:
        gains: Table `training_gains`.
    """
    silent = gains[Columns.MEAN].map(lambda mean: float(np.ptp(mean)) == 0.0)
    lengths = gains[Columns.MEAN].map(len)
    shorter = ~silent & (lengths < lengths[~silent].max())
    return {
        str(need): {"instances": len(rows), SILENT: int(silent[rows].sum()), SHORTER: int(shorter[rows].sum())}
        for need, rows in gains.groupby(Columns.NEED, sort=False).groups.items()
    }


def aligned_predictions(
    labelled_instances: pd.DataFrame, critic_predictions: pd.DataFrame
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The critic's means and variances of each instance, in the order of `labelled_instances`.

    Raises:
        InputError: An instance without predictions, or with another number of them than it has candidates.
    """
    by_id = critic_predictions.set_index(Columns.INSTANCE_ID)
    moments: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    columns = (labelled_instances[Columns.INSTANCE_ID], labelled_instances[Columns.CANDIDATES])
    for instance_id, candidates in zip(*columns, strict=True):
        if instance_id not in by_id.index:
            raise InputError(f"critic_predictions: instance {instance_id} is missing; predict these instances again")
        for name, values in zip((Columns.MEAN, Columns.VARIANCE), moments, strict=True):
            values.append(np.asarray(by_id.at[instance_id, name], dtype=np.float64))
            if len(values[-1]) != len(candidates):
                raise InputError(
                    f"critic_predictions: instance {instance_id} has {len(values[-1])} values in {name} for "
                    f"{len(candidates)} candidates; predict these instances again"
                )
    return moments
