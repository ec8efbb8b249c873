"""Reinforcement learning."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flexrec.policy.models import load_policy, load_tokenizer, save_policy
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances
from flexrec.ranking.task import Needs
from flexrec.rl.examples import make_examples
from flexrec.rl.settings import MethodSettings, RlSettings


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
    method: MethodSettings,
    settings: RlSettings,
    model_name: str,
    seed: int,
    work_folder: Path,
) -> tuple[Callable[[Path], None], pd.DataFrame]:
    """Train the warmed-up policy on training instances; validation instances give the curve and nothing else."""
    from flexrec.rl.trainer import train_policy

    ranker = Ranker(
        load_policy(base_model, warm_up_policy, trainable=True), load_tokenizer(base_model), prompt, decoding
    )
    instances = {
        split: read_instances(labelled_instances[labelled_instances[Columns.SPLIT] == split], items)
        for split in ("train", "validation")
    }
    examples = make_examples(
        instances["train"], training_gains, needs.root, mean=Columns.MEAN, variance=Columns.VARIANCE
    )
    known = {instance.instance_id for instance in instances["validation"]}
    validation = make_examples(
        instances["validation"],
        true_gains[true_gains[Columns.INSTANCE_ID].isin(known)],
        needs.root,
        mean=Columns.GAINS,
        variance=None,
    )
    curves = train_policy(
        ranker, examples, validation, method=method, settings=settings, work_folder=work_folder, seed=seed
    )
    return lambda folder: save_policy(ranker.model, folder, base_name=model_name), curves
