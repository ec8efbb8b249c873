"""How well critics predict labels that they were not trained on."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flexrec.critic.calibration import calibration, reliability
from flexrec.critic.examples import CriticExamples
from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.prediction import predict_examples
from flexrec.ranking.columns import Columns

VARIANT, GAIN = "variant", "gain"


def compare_critics(
    critics: Mapping[str, TwoTowerCritic], examples: CriticExamples
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame, pd.DataFrame]:
    """Measure several critics on the same held-out examples.

    Args:
        critics: By name of the variant.
        examples: The test part of the examples.

    Returns:
        The calibration table by variant; the predictions (`variant`, `mean`, `variance`, `gain`); and the groups of
        the reliability plot (`variant`, `bin`, `n`, `predicted_std`, `rmse`).
    """
    table, predictions, groups = {}, [], []
    for name, critic in critics.items():
        mean, variance = predict_examples(critic, examples)
        table[name] = calibration(mean, variance, examples.target)
        columns = {VARIANT: name, Columns.MEAN: mean, Columns.VARIANCE: variance, GAIN: examples.target}
        predictions.append(pd.DataFrame(columns))
        groups.append(reliability(mean, variance, examples.target).assign(**{VARIANT: name}))
    return table, pd.concat(predictions, ignore_index=True), pd.concat(groups, ignore_index=True)
