"""Figures as pure functions: a frame in, a Plotly figure out; an empty frame gives a figure that says so."""

from flexrec.reporting.figures.critic import critic_calibration_figure
from flexrec.reporting.figures.example import example_figure
from flexrec.reporting.figures.results import results_figure, tau_figure
from flexrec.reporting.figures.training import (
    advantage_spread_figure,
    advantage_spread_heatmap,
    stack_curves,
    training_figure,
    uncertainty_weights_figure,
)

__all__ = [
    "advantage_spread_figure",
    "advantage_spread_heatmap",
    "critic_calibration_figure",
    "example_figure",
    "results_figure",
    "stack_curves",
    "tau_figure",
    "training_figure",
    "uncertainty_weights_figure",
]
