"""The critic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.critic.completion import count_left_out, training_gains
from flexrec.critic.settings import CriticSettings, NeighbourSettings
from flexrec.critic.shown import with_predictions
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.completions import Completion
from flexrec.ranking.gains import GainKind
from flexrec.ranking.task import Needs
from flexrec.reporting.figures import critic_calibration_figure
from flexrec.sources.sparsify import observed_training_rows
from flexrec.tabular import Table

PAPER, WITH_STATISTICS = "features of the paper", "with item statistics"


def fit_critic(
    observations: Table,
    item_embeddings: pd.DataFrame,
    query_embeddings: pd.DataFrame,
    gain: GainKind,
    settings: CriticSettings,
    seed: int,
) -> tuple[Callable[[Path], None], pd.DataFrame, dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Train the critic with and without item statistics, measure both, and keep the configured one, the last."""
    from flexrec.critic.examples import build_examples
    from flexrec.critic.report import VARIANT, compare_critics
    from flexrec.critic.storage import save_critic
    from flexrec.critic.training import train_critic

    rows = observed_training_rows(observations)
    examples = build_examples(rows, item_embeddings, gain, settings, seed=seed, query_embeddings=query_embeddings)
    critics, curves = {}, []
    variants = ((PAPER, False), (WITH_STATISTICS, True))
    # what is kept comes last, which is where a study looks for it
    for name, with_statistics in variants if settings.item_statistics else reversed(variants):
        variant = settings.model_copy(update={"item_statistics": with_statistics})
        critics[name], curve = train_critic(examples, variant, seed=seed)
        curves.append(curve.assign(**{VARIANT: name}))
    table, predictions, groups = compare_critics(critics, examples.select("test"))
    kept = critics[WITH_STATISTICS if settings.item_statistics else PAPER]
    return (
        lambda folder: save_critic(kept, folder),
        pd.concat(curves, ignore_index=True),
        table,
        predictions,
        groups,
    )


def predict_gains(
    critic: Path,
    labelled_instances: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    query_embeddings: pd.DataFrame,
    observations: Table,
) -> pd.DataFrame:
    """Mean and variance of the gain of every candidate."""
    from flexrec.critic.prediction import predict_instances
    from flexrec.critic.storage import load_critic

    rows = observed_training_rows(observations)
    return predict_instances(load_critic(critic), labelled_instances, item_embeddings, rows, query_embeddings)


def complete_gains(
    labelled_instances: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    observations: Table,
    needs: Needs,
    gain: GainKind,
    completion: Completion,
    neighbours: NeighbourSettings,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The gains that training may use, the observed label or what the method puts in its place; and empty lists."""
    gains = training_gains(
        labelled_instances,
        critic_predictions,
        needs.root,
        gain,
        completion=completion,
        observations=observed_training_rows(observations),
        neighbours=neighbours,
    )
    return gains, {"training_gains": count_left_out(gains)}


def show_instances(
    labelled_instances: pd.DataFrame, critic_predictions: pd.DataFrame, prompt: PromptSettings
) -> pd.DataFrame:
    """What prompts are made of: the same table, whatever the critic says, unless a prompt shows its prediction."""
    if prompt.shows(Columns.PREDICTED):
        return with_predictions(labelled_instances, critic_predictions)
    return labelled_instances


def plot_critic(predictions: pd.DataFrame, groups: pd.DataFrame) -> go.Figure:
    """Predicted against true gain, and predicted deviation against the error made."""
    return critic_calibration_figure(predictions, groups)
