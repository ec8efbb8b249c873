"""What a ranking task looks like before any model has seen it."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import dcg, discounts, ideal_dcg
from flexrec.retrieval.signals import trend_coverage


def expected_random_ndcg(gains: Float[np.ndarray, "*batch K"], k: int) -> Float[np.ndarray, "*batch"]:
    r"""Expected NDCG@k of a uniformly random order.

    Every rank gets the mean gain in expectation: E[DCG@k] = \bar g \sum_{i \le k} d_i. Exact, no sampling.

    Args:
        gains: Gains >= 0 of the candidates, in any order.
        k: Cut-off; more than K means K.
    """
    gains = np.asarray(gains, dtype=np.float64)
    ideal = ideal_dcg(gains, k)
    expected = gains.mean(-1) * discounts(gains.shape[-1])[:k].sum()
    return np.divide(expected, ideal, out=np.zeros_like(ideal), where=ideal > 0)


def describe_task(
    labelled_instances: pd.DataFrame, observations: pd.DataFrame, gains: pd.DataFrame, *, trend_window_days: float
) -> dict[str, Any]:
    """Size of the task, how informative its signals are, and what a random and the retriever's order score.

    Args:
        labelled_instances: The common table.
        observations: The common table.
        gains: True gains of the held-out instances.
        trend_window_days: The window that the trend signal uses.

    Returns:
        Plain numbers, ready for JSON; the scores are means over the test instances.
    """
    test = labelled_instances[labelled_instances[Columns.SPLIT] == "test"].set_index(Columns.INSTANCE_ID)
    windows = sorted({1.0, 7.0, float(trend_window_days)})
    coverage = trend_coverage(labelled_instances, observations, days=windows)
    scores: dict[str, dict[str, float]] = {}
    for need, rows in gains[gains[Columns.INSTANCE_ID].isin(test.index)].groupby(Columns.NEED, sort=False):
        values: dict[str, list[float]] = {}
        for instance_id, row in zip(rows[Columns.INSTANCE_ID], rows[Columns.GAINS], strict=True):
            gain = np.asarray(row, dtype=np.float64)
            retrieved = gain[np.argsort(-np.asarray(test.loc[instance_id, Columns.SIMILARITY]), kind="stable")]
            for k in (5, 10, 30):
                ideal = ideal_dcg(gain, k)
                values.setdefault(f"random_ndcg_at_{k}", []).append(float(expected_random_ndcg(gain, k)))
                values.setdefault(f"retriever_ndcg_at_{k}", []).append(float(dcg(retrieved, k) / ideal) if ideal else 0)
        scores[str(need)] = {name: float(np.mean(value)) for name, value in values.items()}
    counts = labelled_instances[Columns.SPLIT].value_counts()
    return {
        "interactions": len(observations),
        "observed_share": float(observations[Columns.OBSERVED].mean()),
        "users": int(observations[Columns.USER_ID].nunique()),
        "instances": {str(split): int(count) for split, count in sorted(counts.items())},
        "candidates_per_instance": float(labelled_instances[Columns.CANDIDATES].map(len).mean()),
        "trend_coverage": {f"{window:g} days": share for window, share in coverage.items()},
        "test_scores": scores,
    }
