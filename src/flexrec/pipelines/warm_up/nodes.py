"""Base model and warm-up."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flexrec.policy.models import BaseModelSettings, load_base, load_tokenizer, prepare_base_model, save_policy
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances
from flexrec.ranking.task import Needs
from flexrec.rl.examples import instructive, make_examples
from flexrec.rl.settings import WarmUpSettings

logger = logging.getLogger(__name__)

Write = Callable[[Path], None]


def prepare_model(model: BaseModelSettings, raw_folder: str) -> Write:
    """Fetch the base model and make a Hugging Face folder of it."""
    import torch

    from flexrec.policy.speed import hint_about_types

    if hint := hint_about_types(model.root.dtype, gpu=torch.cuda.is_available()):
        logger.info(hint)
    return lambda folder: prepare_base_model(model.root, Path(raw_folder), folder)


def train_warm_up(
    base_model: Path,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    training_gains: pd.DataFrame,
    needs: Needs,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    adapter: AdapterSettings,
    settings: WarmUpSettings,
    model_name: str,
    seed: int,
    work_folder: Path,
) -> tuple[Write, pd.DataFrame]:
    """Fine-tune the base model on the optimal lists of training instances."""
    from flexrec.rl.warm_up import add_adapter, warm_up

    # the trainer takes it to its own device
    model = add_adapter(load_base(base_model, device="cpu"), adapter, seed)
    ranker = Ranker(model, load_tokenizer(base_model), prompt, decoding)
    training = labelled_instances[labelled_instances[Columns.SPLIT] == "train"]
    examples = make_examples(
        read_instances(training, items), training_gains, needs.root, mean=Columns.MEAN, variance=Columns.VARIANCE
    )
    curve = warm_up(ranker, instructive(examples), settings=settings, work_folder=work_folder, seed=seed)
    return lambda folder: save_policy(model, folder, base_name=model_name), curve
