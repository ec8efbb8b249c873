"""What ranks, rewrites or is asked is sent to the GPU where there is one; what is trained is left to its trainer."""

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from flexrec.forgetting.settings import ForgettingSettings
from flexrec.pipelines.evaluate import nodes as evaluate
from flexrec.pipelines.forgetting import nodes as forgetting
from flexrec.pipelines.probe import nodes as probe
from flexrec.pipelines.warm_up import nodes as warm_up
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.task import Needs
from flexrec.rewriting.prompts import Shown
from flexrec.rewriting.settings import RewritePromptSettings
from flexrec.rewriting.training import load_rewriter
from flexrec.rl.settings import MethodSettings, RlSettings, WarmUpSettings
from flexrec.rl.training import train_on_tables

NOTHING, NEEDS = pd.DataFrame({"split": []}), Needs({})
PROMPT, DECODING = PromptSettings(), DecodingSettings()


@pytest.fixture(params=["cpu", "cuda"])
def best(request, monkeypatch):
    """A machine without a GPU, and one that has it, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param == "cuda")
    return request.param


@pytest.fixture
def sent(monkeypatch):
    """Where models are sent, in that order; they stay where they are."""
    places = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, device: places.append(device) or model)
    return places


class _EnoughError(Exception):
    pass


def enough(*_, **__):
    raise _EnoughError


def test_models_that_rank_are_sent_to_the_gpu(best, sent, tiny_folder, monkeypatch):
    monkeypatch.setattr(evaluate, "llm_rankings", enough)
    monkeypatch.setattr(probe, "ask", enough)
    # a folder with all weights is a policy like any other
    for checkpoint in (None, tiny_folder):
        with pytest.raises(_EnoughError):
            evaluate.rank(tiny_folder, NOTHING, NOTHING, NEEDS, PROMPT, DECODING, 0, checkpoint)
        with pytest.raises(_EnoughError):
            probe.ask_policy(
                tiny_folder, NOTHING, NOTHING, NOTHING, NEEDS, NEEDS, PROMPT, DECODING, 0, 0, checkpoint=checkpoint
            )
    assert sent == [best] * 4


def test_models_that_are_asked_are_sent_to_the_gpu(best, sent, tiny_folder, monkeypatch):
    for name in ("ask", "read"):
        monkeypatch.setattr(forgetting, name, lambda *_, **__: None)
    forgetting.examine(tiny_folder, ForgettingSettings(), checkpoint=tiny_folder)
    # the base model beside it
    assert sent == [best] * 2


@pytest.mark.parametrize("adapter", [None, AdapterSettings(rank=2)])
def test_a_rewriter_is_sent_to_the_gpu_unless_it_is_to_be_trained(best, sent, tiny_folder, adapter):
    load_rewriter(
        tiny_folder,
        None,
        Shown((), ()),
        RewritePromptSettings(),
        items_name="films",
        decoding=DECODING,
        seed=0,
        adapter=adapter,
    )
    assert sent == [best if adapter is None else "cpu"]


def test_what_is_trained_is_left_to_the_trainer(best, sent, tiny_folder, tmp_path, monkeypatch):
    """A vLLM in the same process takes its share of the GPU before the model is there."""
    monkeypatch.setattr("flexrec.rl.warm_up.add_adapter", enough)
    with pytest.raises(_EnoughError):
        train_on_tables(
            tiny_folder,
            None,
            *(NOTHING,) * 4,
            needs={},
            prompt=PROMPT,
            decoding=DECODING,
            method=MethodSettings(),
            settings=RlSettings(),
            seed=0,
            work_folder=tmp_path,
        )
    with pytest.raises(_EnoughError):
        warm_up.train_warm_up(
            tiny_folder,
            *(NOTHING,) * 3,
            NEEDS,
            PROMPT,
            DECODING,
            AdapterSettings(),
            WarmUpSettings(),
            "tiny",
            0,
            tmp_path,
        )
    assert sent == ["cpu", "cpu"]
