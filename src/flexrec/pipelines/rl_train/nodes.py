"""Training by the method: reinforcement learning, or supervised fine-tuning at the same budget."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flexrec.policy.models import save_policy
from flexrec.policy.settings import DecodingSettings, GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.task import Needs
from flexrec.rl.settings import MethodEntry, RlSettings, WarmUpSettings
from flexrec.rl.training import train_on_tables


def train_rl(
    base_model: Path,
    warm_up_policy: Path,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    training_gains: pd.DataFrame,
    true_gains: pd.DataFrame,
    needs: Needs,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    generation: GenerationSettings,
    method: MethodEntry,
    settings: RlSettings,
    warm_up: WarmUpSettings,
    model_name: str,
    seed: int,
    work_folder: Path,
) -> tuple[Callable[[Path], None], pd.DataFrame]:
    """Train the warmed-up policy on training instances; validation instances give the curve and nothing else."""
    ranker, curves = train_on_tables(
        base_model,
        warm_up_policy,
        labelled_instances,
        items,
        training_gains,
        true_gains,
        needs=needs.root,
        prompt=prompt,
        decoding=decoding,
        generation=generation,
        method=method.root,
        settings=settings,
        warm_up=warm_up,
        seed=seed,
        work_folder=work_folder,
    )
    return lambda folder: save_policy(ranker.model, folder, base_name=model_name), curves
