"""Trainings of a tiny model on four candidates, which take a second."""

import numpy as np
import torch

from flexrec.policy.models import load_base, load_tokenizer
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need
from flexrec.rl.examples import Example
from flexrec.rl.settings import MethodSettings, RlSettings
from flexrec.rl.trainer import train_policy
from flexrec.rl.warm_up import add_adapter

K = 4
NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)
SETTINGS = RlSettings(
    steps=4, prompts_per_step=2, rollouts=3, learning_rate=1e-3, validate_every=2, validation_queries=2, save_every=1
)
PROMPT = PromptSettings(line="{signals}: {id}", signals={"trend": "word"}, history_line="{title}")
DEFAULT = MethodSettings()
LORA, FULL = AdapterSettings(rank=4, alpha=8), AdapterSettings(kind="full")


def example(number, *, variance=0.0, count=K):
    rng = np.random.default_rng(number)
    trend = rng.permutation(count).astype(float)
    candidates = tuple(
        Candidate(item, f"Film {item}", ("Drama",), {"trend": value, "similarity": 0.5, "niche": 0.0})
        for item, value in enumerate(trend)
    )
    history = (HistoryItem(90, "Seen before", ("Drama",), 4.0),)
    instance = Instance(number, number, 1000, history, candidates)
    return Example(Query(instance, NEED), "trend", trend, variance * rng.random(count))


def weights_of(ranker):
    parts = ranker.model.named_parameters()
    return {name: p.detach().clone() for name, p in parts if p.requires_grad or "lora" in name}


def new_ranker(tiny_folder, adapter=LORA):
    model = add_adapter(load_base(tiny_folder), adapter, seed=0)
    return Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())


def trained(tiny_folder, work, settings=SETTINGS, decoding=None, sampler=None, method=DEFAULT, adapter=LORA):
    ranker = new_ranker(tiny_folder, adapter)
    if decoding is not None:
        ranker = Ranker(ranker.model, ranker.tokenizer, PROMPT, decoding)
    examples = [example(number) for number in range(6)]
    curves = train_policy(
        ranker,
        examples,
        [example(number) for number in range(10, 12)],
        method=method,
        settings=settings,
        work_folder=work,
        seed=1,
        sampler=None if sampler is None else sampler(ranker),
    )
    return weights_of(ranker), curves


def moved_ranker(tiny_folder):
    """A ranker whose adapter changes what the base model says."""
    ranker = new_ranker(tiny_folder)
    for name, weight in ranker.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return ranker
