"""Is the critic right, and does it know when it is not? No torch.

To be measured on labels that neither fitted the critic nor chose its epoch. They are observed interactions of training
users: if what is observed is no fair sample of what is not, the critic does worse on the latter than these numbers say.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.errors import InputError

_RESOLUTION = 1e-6  # float32 predictions that differ by less are the same number


def accuracy(
    mean: Float[np.ndarray, " n"], variance: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"]
) -> dict[str, float]:
    r"""Errors of the means, and how likely the labels were.

    Args:
        mean: Predicted gains.
        variance: Predicted variances, > 0.
        target: True gains.

    Returns:
        `mse`, `mae`, and `nll`, the mean of :math:`\tfrac12 ((y - \mu)^2 / \sigma^2 + \log 2 \pi \sigma^2)` in nats.

    Raises:
        InputError: No prediction, or arrays of different lengths.
    """
    mean, variance, target = _aligned(mean, variance, target)
    squared = (target - mean) ** 2
    return {
        "mse": float(squared.mean()),
        "mae": float(np.abs(target - mean).mean()),
        "nll": float(0.5 * (squared / variance + np.log(2 * np.pi * variance)).mean()),
    }


def calibration(
    mean: Float[np.ndarray, " n"], variance: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"]
) -> dict[str, float | int | None]:
    """The numbers to report of a critic; arguments and errors as `accuracy`.

    Returns:
        `n`, what `accuracy` returns, `pearson_mean` (predicted and true gain), `pearson_variance` (predicted variance
        and squared error). A correlation is None where one side does not vary: it does not exist there.
    """
    mean, variance, target = _aligned(mean, variance, target)
    return {
        "n": len(target),
        **accuracy(mean, variance, target),
        "pearson_mean": _pearson(mean, target),
        "pearson_variance": _pearson(variance, (target - mean) ** 2),
    }


def reliability(
    mean: Float[np.ndarray, " n"],
    variance: Float[np.ndarray, " n"],
    target: Float[np.ndarray, " n"],
    *,
    bins: int = 10,
) -> pd.DataFrame:
    """Predicted deviation against the error that was made, in equally large groups by predicted deviation.

    Args:
        mean: As in `accuracy`.
        variance: As in `accuracy`.
        target: As in `accuracy`.
        bins: Number of groups, >= 1; as many as predictions if there are fewer.

    Returns:
        One row per group, the surest first: `bin` (from 0), `n`, `predicted_std` (root of the mean predicted variance),
        `rmse`. Equal in every row for a calibrated critic.

    Raises:
        InputError: As `accuracy`, or no group is asked for.
    """
    mean, variance, target = _aligned(mean, variance, target)
    if bins < 1:
        raise InputError(f"reliability needs at least one bin, not {bins}")
    surest_first = np.argsort(variance, kind="stable")
    groups = np.array_split(surest_first, min(bins, len(target)))
    return pd.DataFrame(
        {
            "bin": np.arange(len(groups)),
            "n": [len(group) for group in groups],
            "predicted_std": [float(np.sqrt(variance[group].mean())) for group in groups],
            "rmse": [float(np.sqrt(((target - mean)[group] ** 2).mean())) for group in groups],
        }
    )


def _aligned(*arrays: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], ...]:
    values = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    if len({array.shape for array in values}) > 1:
        raise InputError(f"means, variances and labels differ in shape: {[array.shape for array in values]}")
    if values[0].size == 0:
        raise InputError("there is no prediction to measure; the critic has no held-out examples")
    return values


def _pearson(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    if any(np.ptp(side) <= _RESOLUTION * np.abs(side).max() for side in (a, b)):
        return None
    return float(np.corrcoef(a, b)[0, 1])
