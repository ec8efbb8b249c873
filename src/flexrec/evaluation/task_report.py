"""What a ranking task looks like before any model has seen it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import dcg, discounts, engagement_gain, ideal_dcg
from flexrec.ranking.task import TaskSettings
from flexrec.retrieval.instances import DROPPED
from flexrec.retrieval.signals import trend_coverage
from flexrec.study.paper import near_random_rows
from flexrec.tabular import Table, as_table

ENGAGEMENT = "engagement"
"""Name of the scores of the labels themselves, which stand beside those of the needs."""

_SHOWN = ("ndcg_at_5", "ndcg_at_10", "ndcg_at_30")


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
    retrieved: Mapping[str, Mapping[str, int]] | None = None,
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
        retrieved: What the retrieval counted, by split.

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
            Columns.NEED: ENGAGEMENT,
            Columns.GAINS: [
                # cut at 0, as the needs do
                np.maximum(engagement_gain(np.asarray(row, dtype=np.float64), task.gain), 0.0)
                for row in true_labels[Columns.ENGAGEMENT]
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
        "retrieved": {split: dict(counts) for split, counts in (retrieved or {}).items()},
        "instances": {str(split): int(count) for split, count in sorted(counts.items())},
        "candidates_per_instance": float(labelled_instances[Columns.CANDIDATES].map(len).mean()),
        "trend_coverage": {f"{window:g} days": share for window, share in coverage.items()},
        "test_scores": scores,
        "paper_near_random": _paper_rows(task, list(scores)),
    }


def _paper_rows(task: TaskSettings, needs: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The paper's near-random rows by need, where it has some; those of the labels stand by the engagement at least."""
    if task.paper_dataset is None:
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for need in needs:
        about = need
        if need == ENGAGEMENT:
            about = "search" if task.context == "query" else "interest"
            if about in needs:
                continue
        rows = near_random_rows(task.paper_dataset, about)
        if rows:
            found[need] = [{"row": ", ".join(filter(None, (row.method, row.model))), **row.metrics} for row in rows]
    return found


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
        *_left_out(report["retrieved"]),
        f"candidates that somebody took up before the query: {coverage}",
        "NDCG@5/10/30 on test instances" + " " * 8 + "random order      retriever's order",
    ]
    for need, scores in report["test_scores"].items():
        random, retriever = (
            " ".join(f"{scores[f'{order}_ndcg_at_{k}']:.3f}" for k in (5, 10, 30)) for order in ("random", "retriever")
        )
        lines.append(f"  {need:<36}{random:<18}{retriever}")
        for row in report["paper_near_random"].get(need, []):
            known = " ".join(f"{row[name]:.3f}" if name in row else "  -  " for name in _SHOWN)
            lines.append(f"  {'  the paper: ' + row['row']:<36}{known.rstrip()}")
    return "\n".join(lines) + "\n"


def _left_out(retrieved: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for the users without a request, by split; none where every user has one."""
    by_split = {split: counts[DROPPED] for split, counts in retrieved.items() if counts[DROPPED]}
    users = ", ".join(f"{count:,} {split}" for split, count in by_split.items())
    return [f"{DROPPED}, whose pools are smaller than K: {users}"] if users else []
