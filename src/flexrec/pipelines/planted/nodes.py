"""The planted-truth study."""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from flexrec.planted.page import planted_page, planted_text
from flexrec.planted.results import summarise_planted
from flexrec.planted.settings import (
    ComparisonSettings,
    FeedbackSettings,
    GradientSettings,
    LearnerSettings,
    PlantedSettings,
    ReportedStatistics,
    ShowingSettings,
    TransferSettings,
    WeightingSettings,
    WorldSettings,
)
from flexrec.planted.study import compare, directions, show_or_reward, transfer, weigh
from flexrec.reporting.figures.planted import (
    planted_curves_figure,
    planted_showing_figure,
    planted_spread_figure,
    planted_transfer_figure,
    planted_weights_figure,
)
from flexrec.reporting.provenance import provenance
from flexrec.reporting.tables import facts_markdown


def compare_variants(
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: ComparisonSettings,
    work_folder: Path,
    experiment: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every variant of an experiment, at its best learning rate and at a common one."""
    return compare(experiment, world, feedback, learner, settings, work_folder)


def weigh_by_uncertainty(
    world: WorldSettings, learner: LearnerSettings, settings: WeightingSettings, work_folder: Path
) -> pd.DataFrame:
    """Critics of several kinds, with and without weights by their uncertainty."""
    return weigh(world, learner, settings, work_folder)


def transfer_between_needs(
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: TransferSettings,
    work_folder: Path,
) -> pd.DataFrame:
    """Trained for one need and asked for another, and for all at once."""
    return transfer(world, feedback, learner, settings, work_folder)


def measure_directions(
    world: WorldSettings,
    feedback: FeedbackSettings,
    learner: LearnerSettings,
    settings: GradientSettings,
    work_folder: Path,
) -> pd.DataFrame:
    """Where each reward pushes."""
    return directions(world, feedback, learner, settings, work_folder)


def show_or_reward_lists(
    world: WorldSettings, learner: LearnerSettings, settings: ShowingSettings, work_folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lists rewarded and lists shown, under critics of several kinds, with few requests and with many."""
    return show_or_reward(world, learner, settings, work_folder)


def summarise_study(
    rewards: pd.DataFrame,
    uncertainty: pd.DataFrame,
    transfer: pd.DataFrame,
    tail: pd.DataFrame,
    reasoning: pd.DataFrame,
    gradients: pd.DataFrame,
    showing: pd.DataFrame,
    rates_of_rewards: pd.DataFrame,
    rates_of_tail: pd.DataFrame,
    rates_of_reasoning: pd.DataFrame,
    rates_of_showing: pd.DataFrame,
    statistics: ReportedStatistics,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """All curves in one table, their means, intervals and tests, and the learning rates."""
    curves = pd.concat([rewards, uncertainty, transfer, tail, reasoning, gradients, showing], ignore_index=True)
    rates = pd.concat([rates_of_rewards, rates_of_tail, rates_of_reasoning, rates_of_showing], ignore_index=True)
    return curves, summarise_planted(curves, statistics), rates


def draw_study(
    curves: pd.DataFrame, results: pd.DataFrame
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure, go.Figure, go.Figure, go.Figure]:
    """Learning curves, the effect of the weights, the transfer matrix, the spreads over ranks, lists shown."""
    return (
        planted_curves_figure(curves, experiment="rewards"),
        planted_curves_figure(curves, experiment="tail", metric="ndcg_at_k"),
        planted_curves_figure(curves, experiment="reasoning"),
        planted_weights_figure(results),
        planted_transfer_figure(results),
        planted_spread_figure(results),
        planted_showing_figure(curves),
    )


def write_study(results: pd.DataFrame, rates: pd.DataFrame, settings: PlantedSettings) -> tuple[str, str]:
    """The study as a page, with what it came from, and its answers as text for the terminal."""
    page = "\n\n".join([planted_page(results, rates, settings).rstrip(), facts_markdown(provenance())])
    return page, planted_text(results, rates, settings.statistics)
