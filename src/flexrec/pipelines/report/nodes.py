"""The report."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.policy.models import saved_dtype
from flexrec.ranking.task import Needs
from flexrec.reporting.examples import select_examples
from flexrec.reporting.figures import (
    advantage_spread_figure,
    critic_calibration_figure,
    results_figure,
    stack_curves,
    tau_figure,
    training_figure,
    uncertainty_weights_figure,
)
from flexrec.reporting.page import Report, render_page
from flexrec.reporting.provenance import provenance
from flexrec.reporting.settings import ReportSettings
from flexrec.reporting.tables import facts_markdown, results_markdown, summary_sentences, terminal_table


def draw_training(rl_curves: pd.DataFrame, method: str) -> tuple[go.Figure, go.Figure, go.Figure]:
    """The training curves, the spread of advantages over ranks, and the uncertainty weights."""
    curves = stack_curves({method: rl_curves})
    return training_figure(curves), advantage_spread_figure(curves), uncertainty_weights_figure(curves)


def draw_results(summary: pd.DataFrame, instance_metrics: pd.DataFrame) -> tuple[go.Figure, go.Figure]:
    """Results with intervals, and Kendall's tau with the input order."""
    return results_figure(summary), tau_figure(instance_metrics)


def write_report(
    summary: pd.DataFrame,
    rankings: pd.DataFrame,
    instance_metrics: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    true_gains: pd.DataFrame,
    rl_curves: pd.DataFrame,
    critic_test_predictions: pd.DataFrame,
    critic_reliability: pd.DataFrame,
    critic_calibration: dict[str, Any],
    task_report: dict[str, Any],
    base_model: Path,
    needs: Needs,
    settings: ReportSettings,
    dataset: str,
    method: str,
    model: str,
    layout: str,
    density: float,
    seed: int,
) -> tuple[str, str, str]:
    """The results as Markdown and as text for the terminal, and everything as one HTML page."""
    facts = provenance(
        dataset=dataset,
        needs=list(needs.root),
        model=model,
        dtype=saved_dtype(base_model),
        layout=layout,
        method=method,
        density=density,
        seed=seed,
    )
    facts |= {"task": task_report, "critic": critic_calibration}
    curves = stack_curves({method: rl_curves})
    sentences = summary_sentences(summary, method=method)
    examples = [
        example
        for need in needs.root
        for example in select_examples(
            rankings,
            instance_metrics,
            labelled_instances,
            items,
            true_gains,
            need=need,
            methods=("untrained", "warmed_up", method),
            count=settings.examples,
        )
    ]
    page = render_page(
        Report(
            title=f"flexrec: {', '.join(needs.root)} on {dataset}",
            subject=f"{model} trained by {method} to rank for {', '.join(needs.root)} on {dataset}.",
            method=method,
            summary=summary,
            figures={
                "Results on held-out users": results_figure(summary),
                "Training": training_figure(curves),
                "Spread of the advantage over ranks": advantage_spread_figure(curves),
                "Uncertainty weights": uncertainty_weights_figure(curves),
                "Correlation with the input order": tau_figure(instance_metrics),
                "Calibration of the critic": critic_calibration_figure(critic_test_predictions, critic_reliability),
            },
            examples=examples,
            facts=facts,
        )
    )
    markdown = "\n\n".join([*sentences, results_markdown(summary), facts_markdown(facts)]) + "\n"
    text = "\n".join([terminal_table(summary), *sentences, ""])
    return markdown, text, page
