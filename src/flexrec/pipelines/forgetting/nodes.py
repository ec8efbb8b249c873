"""The check for forgetting."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.evaluation.names import UNTRAINED
from flexrec.forgetting.probe import ask, read
from flexrec.forgetting.report import compare_models, forgetting_figure, forgetting_markdown, forgetting_text
from flexrec.forgetting.settings import ForgettingSettings
from flexrec.policy.models import load_base, load_policy, load_tokenizer
from flexrec.ranking.task import Needs
from flexrec.reporting.provenance import provenance


def examine(
    base_model: Path, settings: ForgettingSettings, checkpoint: Path | None = None, method: str = UNTRAINED
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the base model as it comes, or a checkpoint, answers and how it reads."""
    model, tokenizer = load_policy(base_model, checkpoint), load_tokenizer(base_model)
    answers = ask(model, tokenizer, settings, name=method)
    base = load_base(base_model) if checkpoint is not None else None
    return answers, read(model, tokenizer, settings, name=method, base=base)


def compare_forgetting(
    untrained_answers: pd.DataFrame,
    untrained_windows: pd.DataFrame,
    warmed_up_answers: pd.DataFrame,
    warmed_up_windows: pd.DataFrame,
    trained_answers: pd.DataFrame,
    trained_windows: pd.DataFrame,
    settings: ForgettingSettings,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """All answers in one table, all pieces of text in another, and the comparison."""
    answers = pd.concat([untrained_answers, warmed_up_answers, trained_answers], ignore_index=True)
    windows = pd.concat([untrained_windows, warmed_up_windows, trained_windows], ignore_index=True)
    return answers, windows, compare_models(answers, windows, settings, seed=seed)


def tell_forgetting(
    forgetting: dict[str, Any],
    needs: Needs,
    settings: ForgettingSettings,
    dataset: str,
    method: str,
    model: str,
    layout: str,
    density: float,
    seed: int,
) -> tuple[go.Figure, str, str]:
    """The figure, and the results as text for the terminal and as Markdown."""
    names = list(needs.root)
    facts = provenance(
        dataset=dataset,
        **{"trained for": names},
        method=method,
        model=model,
        layout=layout,
        density=density,
        seed=seed,
        prompts=settings.prompts,
        **{"pieces of text": settings.windows},
    )
    title = f"What {model} forgets, trained by {method} for {', '.join(names)} on {dataset}"
    return (
        forgetting_figure(forgetting),
        forgetting_text(forgetting),
        forgetting_markdown(forgetting, title=title, facts=facts),
    )
