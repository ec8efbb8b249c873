"""Evaluation."""

from pathlib import Path
from typing import Any

import pandas as pd

from flexrec.baselines import baseline_rankings
from flexrec.baselines.settings import FittedSettings
from flexrec.evaluation.llm import llm_rankings
from flexrec.evaluation.names import UNTRAINED, WARMED_UP
from flexrec.evaluation.rankings import evaluate_rankings
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.evaluation.summary import headline_metrics, summarise
from flexrec.policy.models import load_policy, load_tokenizer
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.task import Needs
from flexrec.retrieval.star import StarScoringSettings
from flexrec.sources.sparsify import observed_training_rows
from flexrec.tabular import Table


def rank_baselines(
    labelled_instances: pd.DataFrame,
    observations: Table,
    critic_predictions: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    needs: Needs,
    baselines: list[str],
    star: StarScoringSettings,
    fitted: FittedSettings,
    gain: GainKind,
    seed: int,
) -> pd.DataFrame:
    """Rankings of everything that is no language model."""
    return baseline_rankings(
        _test(labelled_instances),
        observed_training_rows(observations),
        critic_predictions,
        item_embeddings,
        needs.root,
        methods=baselines,
        gain=gain,
        seed=seed,
        training_instances=labelled_instances[labelled_instances[Columns.SPLIT] == "train"],
        star=star,
        fitted=fitted,
    )


def rank(
    base_model: Path,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    needs: Needs,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    seed: int,
    checkpoint: Path | None = None,
    method: str = UNTRAINED,
) -> pd.DataFrame:
    """Rankings of the base model as it comes, or of a checkpoint."""
    ranker = Ranker(load_policy(base_model, checkpoint), load_tokenizer(base_model), prompt, decoding)
    return llm_rankings(ranker, _test(labelled_instances), items, needs.root, method=method, seed=seed)


def measure(
    baselines: pd.DataFrame,
    untrained: pd.DataFrame,
    warmed_up: pd.DataFrame,
    trained: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    needs: Needs,
    gain: GainKind,
    relevant_engagement: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rankings in one table, and the metrics of each."""
    rankings = pd.concat([baselines, untrained, warmed_up, trained], ignore_index=True)
    metrics = evaluate_rankings(
        rankings, labelled_instances, true_labels, needs.root, kind=gain, threshold=relevant_engagement
    )
    return rankings, metrics


def compare(
    instance_metrics: pd.DataFrame, settings: EvaluationSettings, method: str, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Means with intervals, and paired tests of each stage against the one before and against the baselines."""
    references = {
        WARMED_UP: (UNTRAINED,),
        method: (UNTRAINED, WARMED_UP, *settings.baselines),
    }
    summary = summarise(instance_metrics, references=references, **settings.resampling(seed))
    return summary, headline_metrics(summary)


def _test(labelled_instances: pd.DataFrame) -> pd.DataFrame:
    return labelled_instances[labelled_instances[Columns.SPLIT] == "test"]
