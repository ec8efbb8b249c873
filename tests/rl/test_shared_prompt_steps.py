"""What a step of the trainer computes, and what it does not compute again."""

from collections import Counter

import numpy as np
import pytest

from flexrec.policy.decoder import Decoder
from flexrec.policy.distribution import unpadded
from flexrec.policy.models import load_base, load_tokenizer
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need
from flexrec.rl.examples import Example
from flexrec.rl.settings import MethodSettings, RlSettings
from flexrec.rl.shared_prompt_trainer import train
from flexrec.rl.trainer import RankingTrainer
from flexrec.rl.warm_up import add_adapter

NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)
PROMPT = PromptSettings(line="{signals}: {id}", signals={"trend": "word"}, history_line="{title}")
SETTINGS = RlSettings(steps=3, prompts_per_step=3, rollouts=4, learning_rate=1e-3, kl=0.1)


def example(number):
    trend = np.random.default_rng(number).permutation(4).astype(float)
    candidates = tuple(
        Candidate(item, f"Film {item}", ("Drama",), {"trend": value, "similarity": 0.5, "niche": 0.0})
        for item, value in enumerate(trend)
    )
    # of different lengths, so that no prompt could stand in another's place
    history = tuple(HistoryItem(90 + item, "Seen before", ("Drama",), 4.0) for item in range(1 + number))
    return Example(Query(Instance(number, number, 1000, history, candidates), NEED), "trend", trend, np.zeros(4))


class Watched:
    """Counts, engine by engine, how often prompts are encoded, and the untrained layers run on prompts and answers."""

    def __init__(self, monkeypatch):
        self.calls = Counter()
        for name in ("encode", "lower", "lower_answers"):
            monkeypatch.setattr(Decoder, name, self._counting(name, getattr(Decoder, name)))

    def _counting(self, name, method):
        def counted(decoder, *args, **options):
            self.calls[decoder, name] += 1
            return method(decoder, *args, **options)

        return counted

    def of(self, engine):
        return tuple(self.calls[engine._decoder, name] for name in ("encode", "lower", "lower_answers"))


def trained(tiny_folder, tmp_path, monkeypatch, adapter, settings=SETTINGS):
    """A trainer after its steps, what it computed, and the rows whose prompts each update saw, in its order."""
    model = add_adapter(load_base(tiny_folder), adapter, seed=0)
    ranker = Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())
    trainer = RankingTrainer(ranker, [example(n) for n in range(9)], [], MethodSettings(), settings, tmp_path, seed=1)
    updates, loss = [], RankingTrainer._compute_loss

    def watched_loss(self, model, inputs):
        prompts = unpadded(inputs["prompt_ids"], inputs["prompt_mask"])
        updates.append([trainer._prompts.index(prompt) for prompt in prompts])
        return loss(self, model, inputs)

    monkeypatch.setattr(RankingTrainer, "_compute_loss", watched_loss)
    watched = Watched(monkeypatch)
    train(trainer, tmp_path)
    return trainer, watched, updates


UPPER = AdapterSettings(rank=4, alpha=8, upper_layers=1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_prompts_are_encoded_once_for_sampling_and_update_and_once_for_the_reference(
    tiny_folder, tmp_path, monkeypatch, checkpointing
):
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": checkpointing})
    trainer, watched, updates = trained(tiny_folder, tmp_path, monkeypatch, UPPER, settings)
    assert trainer._engine._decoder.untrained == 1
    # per step: the policy's prompts and the reference's; the layer below the adapters once for both, of prompts and
    # of rollouts
    assert watched.of(trainer._engine) == (2 * settings.steps, settings.steps, settings.steps)
    # and no other engine
    assert {decoder for decoder, _ in watched.calls} == {trainer._engine._decoder}
    # TRL has shuffled between sampling and update: groups are torn apart, their prompts come in another order
    size, schedule = settings.rollouts, [int(row) for row in trainer.train_dataset["prompt"]]
    reordered = 0
    for step, rows in enumerate(updates):
        sampled = [row for row in schedule[3 * step : 3 * step + 3] for _ in range(size)]
        assert sorted(rows) == sorted(sampled)
        assert any(len(set(rows[start : start + size])) > 1 for start in range(0, len(rows), size))
        reordered += list(dict.fromkeys(rows)) != list(dict.fromkeys(sampled))
    assert len(updates) == settings.steps
    assert reordered


def test_adapters_everywhere_and_no_reference(tiny_folder, tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update={"kl": 0.0})
    trainer, watched, _ = trained(tiny_folder, tmp_path, monkeypatch, AdapterSettings(rank=4, alpha=8), settings)
    assert watched.of(trainer._engine) == (settings.steps, 0, 0)


def test_a_reference_that_is_a_model_of_its_own(tiny_folder, tmp_path, monkeypatch):
    trainer, watched, _ = trained(tiny_folder, tmp_path, monkeypatch, AdapterSettings(kind="full"))
    assert watched.of(trainer._engine) == (SETTINGS.steps, 0, 0)
    assert watched.of(trainer._reference_engine)[0] == SETTINGS.steps


def test_a_second_update_on_the_same_rollouts_encodes_their_prompts_by_the_new_weights(
    tiny_folder, tmp_path, monkeypatch
):
    settings = SETTINGS.model_copy(update={"steps": 4, "iterations": 2})
    trainer, watched, _ = trained(tiny_folder, tmp_path, monkeypatch, UPPER, settings)
    # two batches of rollouts: sampling with the first update, the reference, the second update; below nothing changes
    assert watched.of(trainer._engine) == (2 * 3, 2, 2)
