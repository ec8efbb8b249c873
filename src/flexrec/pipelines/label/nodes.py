"""Labels."""

from typing import Any

import pandas as pd

from flexrec.evaluation.rankings import true_gains
from flexrec.evaluation.task_report import describe_task, task_text
from flexrec.ranking.gains import GainKind
from flexrec.ranking.task import Needs, TaskSettings
from flexrec.retrieval.signals import LabelSettings, label_signals
from flexrec.tabular import Table


def label_candidates(
    instances: pd.DataFrame,
    observations: Table,
    items: pd.DataFrame,
    daily_counts: pd.DataFrame,
    label: LabelSettings,
    trend_window_days: float,
    engagement_midpoint: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shuffle the candidates and give each its signals; labels of held-out users go into a table of their own."""
    return label_signals(
        instances,
        observations,
        items,
        trend_window_days=trend_window_days,
        quality_strength=label.quality_strength,
        quality_midpoint=engagement_midpoint,
        seed=seed,
        daily_counts=daily_counts,
    )


def label_gains(
    labelled_instances: pd.DataFrame, true_labels: pd.DataFrame, needs: Needs, gain: GainKind
) -> pd.DataFrame:
    """The true gains of held-out instances, for each need asked for."""
    return true_gains(labelled_instances, true_labels, needs.root, gain)


def report_task(
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    observations: Table,
    gains: pd.DataFrame,
    daily_counts: pd.DataFrame,
    ingest_report: dict[str, Any],
    retrieve_report: dict[str, Any],
    task: TaskSettings,
) -> dict[str, Any]:
    """What the task looks like: its size, its signals, and what a random order would score."""
    return describe_task(
        labelled_instances,
        true_labels,
        observations,
        gains,
        task,
        daily_counts=daily_counts,
        dropped=ingest_report["dropped"],
        retrieved=retrieve_report["retrieve"],
    )


def print_task(task_report: dict[str, Any]) -> None:
    """Show the task in a few lines."""
    print(f"\n{task_text(task_report)}", flush=True)
