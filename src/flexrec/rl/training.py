"""From the tables of the pipelines to a trained policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flexrec.errors import InputError
from flexrec.policy.settings import AdapterSettings, DecodingSettings, GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import Need
from flexrec.rl.settings import Method, RlSettings, SftMethodSettings, WarmUpSettings

if TYPE_CHECKING:
    from flexrec.policy.ranker import Ranker

TABLES = ("labelled_instances", "items", "training_gains", "true_gains")
"""What a training reads."""


def checked_table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """One of `TABLES`, checked against its schema, as the catalog does."""
    from flexrec.ranking import schemas

    forms = {
        "labelled_instances": schemas.PromptInstances,
        "items": schemas.Items,
        "training_gains": schemas.TrainingGains,
        "true_gains": schemas.Gains,
    }
    return forms[name].validate(table)


def own_adapter(method: Method) -> AdapterSettings | None:
    """The adapter that a method brings itself: it then begins with the base model, whatever the others begin with."""
    return method.adapter if isinstance(method, SftMethodSettings) else None


def train_on_tables(
    base_model: Path,
    checkpoint: Path | None,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    training_gains: pd.DataFrame,
    true_gains: pd.DataFrame,
    *,
    needs: Mapping[str, Need],
    prompt: PromptSettings,
    decoding: DecodingSettings,
    method: Method,
    settings: RlSettings,
    seed: int,
    work_folder: Path,
    adapter: AdapterSettings | None = None,
    warm_up: WarmUpSettings | None = None,
    generation: GenerationSettings | None = None,
) -> tuple["Ranker", pd.DataFrame]:
    """Train a policy on training instances; validation instances give the curve and nothing else.

    Args:
        base_model: Hugging Face folder.
        checkpoint: Policy folder that training starts from; None starts from the base model, as does a method with an
            adapter of its own.
        labelled_instances: Instances of all splits; test instances are not looked at.
        items: Titles and topics.
        training_gains: Gains of the training instances.
        true_gains: Gains of held-out instances.
        needs: The needs to train for, by name.
        prompt: Layout of the prompt.
        decoding: Form of the answers.
        method: Rewards and advantages, or supervised fine-tuning.
        settings: Optimisation; for fine-tuning the budget.
        seed: Seed of adapter, data order and sampling.
        work_folder: Checkpoints; a training that was killed goes on from the last whole one.
        adapter: Which weights are trained where there is no checkpoint.
        warm_up: The updates behind the checkpoints of others; a method with an adapter of its own makes up for them.
        generation: Where rollouts come from; None for the built-in sampler.

    Returns:
        The trained ranker and the curves: `step`, `metric`, `value`.

    Raises:
        InputError: No training instance teaches anything.
    """
    from flexrec.policy.models import load_policy, load_tokenizer
    from flexrec.policy.ranker import Ranker
    from flexrec.ranking.instances import read_instances
    from flexrec.rl.examples import instructive, make_examples
    from flexrec.rl.warm_up import add_adapter

    if (own := own_adapter(method)) is not None:
        checkpoint, adapter = None, own
    # the trainer takes it to its own device, after a vLLM in this process has taken its share of the memory
    model = load_policy(base_model, checkpoint, device="cpu", trainable=True)
    if checkpoint is None:
        model = add_adapter(model, adapter or AdapterSettings(), seed)
    ranker = Ranker(model, load_tokenizer(base_model), prompt, decoding)
    instances = {
        split: read_instances(labelled_instances[labelled_instances[Columns.SPLIT] == split], items)
        for split in ("train", "validation")
    }
    known = {split: {instance.instance_id for instance in members} for split, members in instances.items()}
    examples = make_examples(instances["train"], training_gains, needs, mean=Columns.MEAN, variance=Columns.VARIANCE)
    validation = make_examples(
        instances["validation"],
        true_gains[true_gains[Columns.INSTANCE_ID].isin(known["validation"])],
        needs,
        mean=Columns.GAINS,
        variance=None,
    )
    if not examples:
        raise InputError(f"there is no training instance with gains for the needs {', '.join(needs)}")
    examples = instructive(examples)
    if isinstance(method, SftMethodSettings):
        from flexrec.rl.fine_tuning import fine_tune

        curves = fine_tune(
            ranker,
            examples,
            validation,
            method=method,
            settings=settings,
            warm_up=warm_up or WarmUpSettings(),
            work_folder=work_folder,
            seed=seed,
        )
        return ranker, curves
    from flexrec.rl.trainer import train_policy

    options: dict[str, Any] = {}
    if generation is not None and generation.kind == "vllm":
        from flexrec.policy.vllm_engines import start_vllm

        options["sampler"] = start_vllm(base_model, generation)
    curves = train_policy(
        ranker, examples, validation, method=method, settings=settings, work_folder=work_folder, seed=seed, **options
    )
    return ranker, curves
