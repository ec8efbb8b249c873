"""The probe."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexrec.evaluation.asking import ARRANGEMENT, SHOWN, TEXT, ask, choose_instances, random_rankings
from flexrec.evaluation.gallery import gallery
from flexrec.evaluation.input_order import input_order_metrics, input_order_summary
from flexrec.evaluation.names import UNTRAINED, WARMED_UP
from flexrec.evaluation.rankings import evaluate_rankings, true_gains
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.evaluation.summary import summarise
from flexrec.evaluation.switching import switching, switching_summary
from flexrec.policy.models import load_policy, load_tokenizer
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.task import Needs
from flexrec.reporting.figures.probe import input_order_figure, switching_figure, transfer_figure
from flexrec.reporting.probe import Probe, probe_markdown, probe_metrics, probe_page, probe_text
from flexrec.reporting.provenance import provenance


def choose_probe(
    labelled_instances: pd.DataFrame, true_labels: pd.DataFrame, count: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The test instances that are asked about, and their labels."""
    chosen = choose_instances(labelled_instances, count=count, seed=seed)
    return chosen, true_labels[true_labels[Columns.INSTANCE_ID].isin(chosen[Columns.INSTANCE_ID])]


def label_probe(
    probe_instances: pd.DataFrame, probe_labels: pd.DataFrame, asked: Needs, trained_for: Needs, gain: GainKind
) -> pd.DataFrame:
    """The true gains under every need."""
    return true_gains(probe_instances, probe_labels, _every(asked, trained_for).root, gain)


def ask_policy(
    base_model: Path,
    probe_instances: pd.DataFrame,
    items: pd.DataFrame,
    gains: pd.DataFrame,
    asked: Needs,
    trained_for: Needs,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    random_orders: int,
    seed: int,
    checkpoint: Path | None = None,
    method: str = UNTRAINED,
) -> pd.DataFrame:
    """Answers of the base model as it comes, or of a checkpoint."""
    return ask(
        Ranker(load_policy(base_model, checkpoint), load_tokenizer(base_model), prompt, decoding),
        probe_instances,
        items,
        gains,
        _every(asked, trained_for).root,
        rearranged_needs=list(trained_for.root),
        random_orders=random_orders,
        method=method,
        seed=seed,
    )


def measure_transfer(
    untrained: pd.DataFrame,
    warmed_up: pd.DataFrame,
    trained: pd.DataFrame,
    probe_instances: pd.DataFrame,
    probe_labels: pd.DataFrame,
    asked: Needs,
    trained_for: Needs,
    gain: GainKind,
    relevant_engagement: float,
    settings: EvaluationSettings,
    method: str,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rankings of the prompts as they are shown, their metrics, and means, intervals and tests by need asked for."""
    needs = _every(asked, trained_for).root
    answers = pd.concat([untrained, warmed_up, trained], ignore_index=True)
    shown = answers[answers[ARRANGEMENT] == SHOWN].drop(columns=[ARRANGEMENT, TEXT])
    rankings = pd.concat([random_rankings(probe_instances, list(needs), seed=seed), shown], ignore_index=True)
    metrics = evaluate_rankings(
        rankings, probe_instances, probe_labels, needs, kind=gain, threshold=relevant_engagement
    )
    summary = summarise(
        metrics, references={WARMED_UP: (UNTRAINED,), method: (UNTRAINED, WARMED_UP)}, **settings.resampling(seed)
    )
    return rankings, metrics, summary


def measure_switching(
    untrained: pd.DataFrame,
    warmed_up: pd.DataFrame,
    trained: pd.DataFrame,
    gains: pd.DataFrame,
    probe_instances: pd.DataFrame,
    settings: EvaluationSettings,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every model's rankings for two needs against the ideal lists, per instance and on average."""
    answers = pd.concat([untrained, warmed_up, trained], ignore_index=True)
    compared = switching(answers[answers[ARRANGEMENT] == SHOWN], gains, probe_instances)
    summary = switching_summary(compared, **settings.resampling(seed))
    return compared, summary


def measure_input_order(
    untrained: pd.DataFrame,
    warmed_up: pd.DataFrame,
    trained: pd.DataFrame,
    probe_instances: pd.DataFrame,
    probe_labels: pd.DataFrame,
    trained_for: Needs,
    gain: GainKind,
    relevant_engagement: float,
    settings: EvaluationSettings,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """NDCG@5 and tau in every input order, per instance and on average."""
    metrics = input_order_metrics(
        pd.concat([untrained, warmed_up, trained], ignore_index=True),
        probe_instances,
        probe_labels,
        trained_for.root,
        kind=gain,
        threshold=relevant_engagement,
    )
    summary = input_order_summary(metrics, **settings.resampling(seed))
    return metrics, summary


def show_answers(
    untrained: pd.DataFrame,
    warmed_up: pd.DataFrame,
    trained: pd.DataFrame,
    probe_instances: pd.DataFrame,
    items: pd.DataFrame,
    gains: pd.DataFrame,
    asked: Needs,
    trained_for: Needs,
    prompt: PromptSettings,
    count: int,
) -> pd.DataFrame:
    """A few instances under every need, with what each model wrote."""
    answers = pd.concat([untrained, warmed_up, trained], ignore_index=True)
    needs = _every(asked, trained_for).root
    return gallery(answers, probe_instances, items, gains, needs, prompt, count=count)


def draw_probe(
    transfer: pd.DataFrame, switching_means: pd.DataFrame, input_order: pd.DataFrame, trained_for: Needs, method: str
) -> tuple[go.Figure, go.Figure, go.Figure]:
    """One figure per question."""
    return (
        transfer_figure(transfer, method=method, trained_for=list(trained_for.root)),
        switching_figure(switching_means),
        input_order_figure(input_order),
    )


def write_probe(
    transfer: pd.DataFrame,
    switching_means: pd.DataFrame,
    input_order: pd.DataFrame,
    shown: pd.DataFrame,
    transfer_drawn: go.Figure,
    switching_drawn: go.Figure,
    input_order_drawn: go.Figure,
    trained_for: Needs,
    dataset: str,
    method: str,
    model: str,
    layout: str,
    density: float,
    seed: int,
) -> tuple[dict[str, Any], str, str, str]:
    """The numbers, the results as Markdown and for the terminal, and everything as one HTML page."""
    names = tuple(trained_for.root)
    probe = Probe(
        title=f"flexrec probe: {', '.join(names)} on {dataset}",
        subject=f"{model} trained by {method} for {', '.join(names)} on {dataset}, asked for more than that.",
        method=method,
        trained_for=names,
        transfer=transfer,
        switching=switching_means,
        input_order=input_order,
        gallery=shown,
        figures=(transfer_drawn, switching_drawn, input_order_drawn),
        facts=provenance(
            dataset=dataset,
            **{"trained for": list(names)},
            method=method,
            model=model,
            layout=layout,
            density=density,
            seed=seed,
        ),
    )
    numbers = probe_metrics(transfer, switching_means, input_order)
    return numbers, probe_markdown(probe), probe_text(probe), probe_page(probe)


def _every(asked: Needs, trained_for: Needs) -> Needs:
    """The needs asked for, and those trained for where they are not among them."""
    return Needs(asked.root | {name: need for name, need in trained_for.root.items() if name not in asked.root})
