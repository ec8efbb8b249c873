"""What a ranking task looks like before any model has seen it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import dcg, discounts, engagement_gain, ideal_dcg
from flexrec.ranking.task import TaskSettings
from flexrec.retrieval.signals import trend_coverage
from flexrec.tabular import Table, as_table


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
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    observations: Table | pd.DataFrame,
    gains: pd.DataFrame,
    task: TaskSettings,
    *,
    daily_counts: pd.DataFrame | None = None,
    dropped: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Size of the task, how informative its signals are, and what a random and the retriever's order score.

    Args:
        labelled_instances: The common table.
        true_labels: The common table; the engagement itself is always reported beside the needs asked for.
        observations: The common table.
        gains: True gains of the held-out instances.
        task: What the task was made with.
        daily_counts: The common table, where the trend is the platform's own count.
        dropped: Rule in words -> rows that the source dropped or repaired by it.

    Returns:
        Plain values, ready for JSON; the scores are means over the test instances.
    """
    test = labelled_instances[labelled_instances[Columns.SPLIT] == "test"].set_index(Columns.INSTANCE_ID)
    windows = sorted({1.0, 7.0, float(task.trend_window_days)})
    coverage = trend_coverage(labelled_instances, observations, days=windows, daily_counts=daily_counts)
    table = as_table(observations)
    totals = table.aggregate(
        rows=table.count(), observed=table.count(where=table[Columns.OBSERVED]), users=table[Columns.USER_ID].nunique()
    )
    size = totals.to_pandas().iloc[0]
    engagement = pd.DataFrame(
        {
            Columns.INSTANCE_ID: true_labels[Columns.INSTANCE_ID],
            Columns.NEED: "engagement",
            Columns.GAINS: [
                engagement_gain(np.asarray(row, dtype=np.float64), task.gain) for row in true_labels[Columns.ENGAGEMENT]
            ],
        }
    )
    rows = pd.concat([engagement, gains])
    scores = {
        str(need): _order_scores(part, test)
        for need, part in rows[rows[Columns.INSTANCE_ID].isin(test.index)].groupby(Columns.NEED, sort=False)
    }
    counts = labelled_instances[Columns.SPLIT].value_counts()
    return {
        "interactions": int(size["rows"]),
        "observed_share": float(size["observed"] / size["rows"]),
        "users": int(size["users"]),
        "dropped": dict(dropped or {}),
        "instances": {str(split): int(count) for split, count in sorted(counts.items())},
        "candidates_per_instance": float(labelled_instances[Columns.CANDIDATES].map(len).mean()),
        "trend_coverage": {f"{window:g} days": share for window, share in coverage.items()},
        "test_scores": scores,
        "paper_random_ndcg": None if task.paper_random is None else list(task.paper_random),
    }


def _order_scores(gains: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for instance_id, row in zip(gains[Columns.INSTANCE_ID], gains[Columns.GAINS], strict=True):
        gain = np.asarray(row, dtype=np.float64)
        retrieved = gain[np.argsort(-np.asarray(test.loc[instance_id, Columns.SIMILARITY]), kind="stable")]
        for k in (5, 10, 30):
            ideal = ideal_dcg(gain, k)
            values.setdefault(f"random_ndcg_at_{k}", []).append(float(expected_random_ndcg(gain, k)))
            values.setdefault(f"retriever_ndcg_at_{k}", []).append(float(dcg(retrieved, k) / ideal) if ideal else 0.0)
    return {name: float(np.mean(value)) for name, value in values.items()}


def task_text(report: dict[str, Any]) -> str:
    """The report in a few lines for the terminal."""
    instances = ", ".join(f"{count} {split}" for split, count in report["instances"].items())
    coverage = ", ".join(f"{share:.0%} in {window}" for window, share in report["trend_coverage"].items())
    lines = [
        f"{report['interactions']:,} interactions of {report['users']:,} users, "
        f"{report['observed_share']:.1%} of them observed",
        f"instances: {instances}; {report['candidates_per_instance']:g} candidates each",
        *(f"{rule}: {rows:,}" for rule, rows in report["dropped"].items() if rows),
        f"candidates that somebody took up before the query: {coverage}",
        "NDCG@5/10/30 on test instances" + " " * 8 + "random order      retriever's order",
    ]
    for need, scores in report["test_scores"].items():
        random, retriever = (
            " ".join(f"{scores[f'{order}_ndcg_at_{k}']:.3f}" for k in (5, 10, 30)) for order in ("random", "retriever")
        )
        lines.append(f"  {need:<36}{random:<18}{retriever}")
    if report["paper_random_ndcg"]:
        paper = " ".join(f"{value:.3f}" for value in report["paper_random_ndcg"])
        lines.append(f"  {'the paper, engagement, near-random':<36}{paper}")
    return "\n".join(lines) + "\n"
