"""Headroom."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.baselines.settings import FittedSettings
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.evaluation.headroom import compare_headroom, headroom_metrics
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.ranking.task import TaskSettings
from flexrec.reporting.headroom import headroom_figure, headroom_markdown, headroom_text
from flexrec.reporting.provenance import provenance
from flexrec.tabular import Table, as_table


def measure_headroom(
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    observations: Table,
    critic_predictions: pd.DataFrame,
    task: TaskSettings,
    fitted: FittedSettings,
    seed: int,
) -> pd.DataFrame:
    """Metrics of the instances of held-out users, ranked with more and more known."""
    if task.context != "history":
        raise InputError(
            f"headroom asks what more of a user's history would bring, and the requests of {task.source} are queries; "
            "take a dataset of users"
        )
    rows = as_table(observations).to_pandas().sort_values(Columns.EVENT_ID, ignore_index=True)
    training = rows[Columns.SPLIT] == SPLITS[0]
    return headroom_metrics(
        labelled_instances[labelled_instances[Columns.SPLIT] != SPLITS[0]],
        true_labels,
        rows[training],
        rows[~training],
        critic_predictions,
        gain=task.gain,
        threshold=task.relevant_engagement,
        fitted=fitted,
        seed=seed,
    )


def summarise_headroom(instance_metrics: pd.DataFrame, settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    """Means and paired differences from the item mean."""
    return compare_headroom(instance_metrics, settings.resampling(seed))


def tell_headroom(
    headroom: dict[str, Any], task: TaskSettings, critic: CriticSettings, dataset: str, density: float, seed: int
) -> tuple[go.Figure, str, str]:
    """The figure, and the results as text for the terminal and as Markdown."""
    facts = provenance(
        dataset=dataset,
        density=density,
        seed=seed,
        candidates=task.candidates,
        **{"shown history": task.history, "critic's taste": "none" if critic.taste is None else critic.taste.factors},
    )
    return (
        headroom_figure(headroom),
        headroom_text(headroom),
        headroom_markdown(headroom, title=f"Headroom above the item mean on {dataset}", facts=facts),
    )
