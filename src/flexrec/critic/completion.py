"""Gains that a policy may be trained with: the label where it is observed, the critic elsewhere; no torch."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain
from flexrec.ranking.instances import CANDIDATE_SIGNALS
from flexrec.ranking.needs import Need, need_gains


def training_gains(
    labelled_instances: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    needs: Mapping[str, Need],
    gain: GainKind,
) -> pd.DataFrame:
    """Complete the sparse labels of the training instances and compose them by need.

    An observed candidate has the gain of its label and variance 0, any other the critic's mean and variance. A need
    that does not use engagement has known gains, of variance 0.

    Args:
        labelled_instances: Table `labelled_instances`; only its training instances are read.
        critic_predictions: Table `critic_predictions`, with every training instance.
        needs: Needs by name.
        gain: How engagement becomes gain; the critic's.

    Returns:
        Table `training_gains`: `instance_id`, `need`, `mean`, `variance` (lists aligned with the candidates), by need
        and then in the order of the instances.

    Raises:
        InputError: No training instance, or predictions that are missing or of another number of candidates.
    """
    training = labelled_instances[labelled_instances[Columns.SPLIT] == "train"]
    if training.empty:
        raise InputError("labelled_instances: there is no training instance; lower K or raise the density")
    means, variances = aligned_predictions(training, critic_predictions)
    completed = []
    for row, mean, variance in zip(training.to_dict("records"), means, variances, strict=True):
        label = engagement_gain(np.asarray(row[Columns.OBSERVED_ENGAGEMENT], dtype=np.float64), gain)
        observed = ~np.isnan(label)
        signals: dict[str, np.ndarray] = {name: np.asarray(row[name], dtype=np.float64) for name in CANDIDATE_SIGNALS}
        signals[Columns.ENGAGEMENT] = np.where(observed, label, mean)
        completed.append((row[Columns.INSTANCE_ID], signals, np.where(observed, 0.0, variance)))
    rows = [
        (instance_id, name, *(values.tolist() for values in need_gains(need, signals, variance)))
        for name, need in needs.items()
        for instance_id, signals, variance in completed
    ]
    return pd.DataFrame(rows, columns=[Columns.INSTANCE_ID, Columns.NEED, Columns.MEAN, Columns.VARIANCE])


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
