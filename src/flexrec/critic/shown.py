"""What the critic predicts, for prompts that show it; no torch."""

import pandas as pd

from flexrec.critic.completion import aligned_predictions
from flexrec.ranking.columns import Columns


def with_predictions(labelled_instances: pd.DataFrame, critic_predictions: pd.DataFrame) -> pd.DataFrame:
    """Put the critic's mean beside the signals, for prompts that show it.

    No label of a held-out user is in it, and no hidden one. But it is not as of the query time, as the other signals
    are: like the item mean, the critic knows what training users were observed to do at any time. The prediction of a
    training candidate leaves its own label out of the item's statistics, while the critic's weights have seen it, as
    one of many: in training prompts it is a little better than it will be.

    Args:
        labelled_instances: Table `labelled_instances`.
        critic_predictions: Table `critic_predictions`, with every one of these instances.

    Returns:
        Table `prompt_instances`: the instances with the column `predicted`.

    Raises:
        InputError: As `aligned_predictions`.
    """
    means, _ = aligned_predictions(labelled_instances, critic_predictions)
    return labelled_instances.assign(
        **{Columns.PREDICTED: pd.Series(means, index=labelled_instances.index, dtype=object)}
    )
