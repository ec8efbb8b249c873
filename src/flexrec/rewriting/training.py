"""From tables to a trained rewriter, and to the rewrites of a policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.task import TaskSettings
from flexrec.rewriting.prompts import Shown
from flexrec.rewriting.requests import Request, example_rewrites, read_requests
from flexrec.rewriting.retrievers import Retriever
from flexrec.rewriting.rewards import RewriteReward, result_ndcg, search_for
from flexrec.rewriting.settings import RequestSettings, RewardSettings, RewritePromptSettings
from flexrec.rl.settings import RlSettings

if TYPE_CHECKING:
    from flexrec.rewriting.rewriter import Rewriter

VALIDATION_CUTOFF = 10


def choose_shown(
    items: pd.DataFrame,
    settings: RewritePromptSettings,
    *,
    task: TaskSettings,
    requests: RequestSettings,
    seed: int,
) -> Shown:
    """What every prompt shows: documents drawn by the seed, and made-up requests with their rewrites.

    Args:
        items: The common table.
        settings: How many of each.
        task: Entry of the dataset.
        requests: How requests are made.
        seed: Of the draws.
    """
    texts = items.sort_values(Columns.ITEM_ID)[Columns.TEXT].tolist()
    rows = np.random.default_rng(seed).permutation(len(texts))[: settings.documents]
    return Shown(
        tuple(str(texts[row]) for row in rows),
        tuple(example_rewrites(items, settings.examples, task=task, settings=requests, seed=seed)),
    )


def load_rewriter(
    base_model: Path,
    checkpoint: Path | None,
    shown: Shown,
    settings: RewritePromptSettings,
    *,
    items_name: str,
    decoding: DecodingSettings,
    seed: int,
    adapter: AdapterSettings | None = None,
) -> "Rewriter":
    """A policy as a rewriter.

    Args:
        base_model: Hugging Face folder.
        checkpoint: Policy folder; None for the base model.
        shown: What every prompt shows beside the request.
        settings: Prompt and form of the answer.
        items_name: What the items are called.
        decoding: Which engine, and how many prompts at once.
        seed: Of a new adapter.
        adapter: Weights to add and train; None for a policy that is only asked.
    """
    from flexrec.policy.models import load_policy, load_tokenizer
    from flexrec.rewriting.rewriter import Rewriter
    from flexrec.rl.warm_up import add_adapter

    # a trainer takes the model to its own device
    model = load_policy(base_model, checkpoint, device=None if adapter is None else "cpu")
    if adapter is not None:
        model = add_adapter(model, adapter, seed)
    return Rewriter(model, load_tokenizer(base_model), settings, shown=shown, items=items_name, decoding=decoding)


def train_on_requests(
    rewriter: "Rewriter",
    requests: pd.DataFrame,
    retriever: Retriever,
    *,
    reward: RewardSettings,
    training: RlSettings,
    work_folder: Path,
    seed: int,
) -> pd.DataFrame:
    """Train a rewriter on the training requests; validation requests give the curve and nothing else.

    Args:
        rewriter: The policy, with trainable weights; trained in place.
        requests: Table of `flexrec.rewriting.requests.build_requests`; test requests are not looked at.
        retriever: The black box.
        reward: The reward of a rewrite.
        training: Optimisation.
        work_folder: Checkpoints; a training that was killed goes on from the last whole one.
        seed: Of data order and sampling.

    Returns:
        The curves: `step`, `metric`, `value`.

    Raises:
        InputError: No training request.
    """
    from flexrec.rl.rewriting import train_rewriter

    asked = read_requests(requests, "train")
    validation = read_requests(requests, "validation")[: training.validation_queries]
    if not asked:
        raise InputError("rewrite_requests: there is no training request; make the table again")

    def validate(current: "Rewriter") -> Mapping[str, float]:
        return _validation_metrics(current, validation, retriever)

    return train_rewriter(
        rewriter,
        [request.text for request in asked],
        RewriteReward(asked, retriever, reward),
        validate=validate if validation else None,
        settings=training,
        work_folder=work_folder,
        seed=seed,
    )


def _validation_metrics(rewriter: "Rewriter", requests: list[Request], retriever: Retriever) -> dict[str, float]:
    rewrites = rewriter.rewrite([request.text for request in requests], description="validation")
    results = search_for(requests, [text or "" for text in rewrites], retriever, VALIDATION_CUTOFF)
    scores = [result_ndcg(found, one, VALIDATION_CUTOFF) for found, one in zip(results, requests, strict=True)]
    return {
        f"ndcg_at_{VALIDATION_CUTOFF}": float(np.mean(scores)),
        "invalid_rate": sum(text is None for text in rewrites) / len(rewrites),
    }
