"""The trainer of rewriters: against a computation from scratch, deterministic, resumable, and it learns."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from flexrec.policy.models import load_base, load_tokenizer
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.rewriting.prompts import Shown
from flexrec.rewriting.rewriter import Rewriter
from flexrec.rewriting.settings import RewritePromptSettings
from flexrec.rl.rewriting import RewritingTrainer, train_rewriter
from flexrec.rl.settings import RlSettings
from flexrec.rl.warm_up import add_adapter

SETTINGS = RlSettings(
    steps=3, prompts_per_step=2, rollouts=3, learning_rate=1e-3, validate_every=2, save_every=1, entropy_bonus=0.0
)
QUERIES = [f"films like Film {number}" for number in range(5)]


@dataclass(frozen=True)
class Parts:
    retrieval: float
    form: float


class Plain(Rewriter):
    """Every answer has the right form: its tokens by number. An untrained random model never writes JSON."""

    def read(self, completion):
        return " ".join(str(token) for token in completion) if completion[0] % 5 else None


def reward(rows, rewrites):
    """Small tokens are good; the form counts too."""
    return [
        Parts(0.0, -2.0) if text is None else Parts(float(np.mean([int(t) < 20_000 for t in text.split()])), 0.1)
        for text in rewrites
    ]


def make(tiny_folder, kind=Plain, **decoding):
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    prompt = RewritePromptSettings(user="{query}", max_answer_tokens=5)
    return kind(
        model, load_tokenizer(tiny_folder), prompt, shown=Shown(("Alien",)), items="films",
        decoding=DecodingSettings(**decoding),
    )  # fmt: skip


def weights_of(rewriter):
    return {name: p.detach().clone() for name, p in rewriter.model.named_parameters() if "lora" in name}


def train(tiny_folder, work, settings=SETTINGS, **decoding):
    rewriter = make(tiny_folder, **decoding)
    curves = train_rewriter(
        rewriter,
        QUERIES,
        reward,
        validate=lambda current: {"ndcg_at_10": float(len(current.rewrite(QUERIES[:2])))},
        settings=settings,
        work_folder=work,
        seed=1,
    )
    return weights_of(rewriter), curves


def test_loss_equals_a_computation_from_scratch(tiny_folder, tmp_path):
    rewriter = make(tiny_folder)
    settings = SETTINGS.model_copy(update={"kl": 0.1})
    trainer = RewritingTrainer(rewriter, QUERIES, reward, None, settings, tmp_path, seed=3)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": str(row)} for row in (0, 0, 0, 4, 4, 4)])
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.default" in name:
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    loss = trainer._compute_loss(model, batch)

    answers = [
        row[mask.bool()].tolist() for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    parts = reward(range(6), [rewriter.read(answer) for answer in answers])
    totals = np.array([part.retrieval + part.form for part in parts]).reshape(2, 3)
    expected = (totals - totals.mean(1, keepdims=True)) / (totals.std(1, ddof=1, keepdims=True) + 1e-4)
    assert np.abs(expected).max() > 0
    advantages = batch["advantages"].reshape(6, -1)[:, 0].numpy()
    np.testing.assert_allclose(advantages, expected.flatten(), rtol=1e-4, atol=1e-5)

    def log_probabilities(adapter):
        model.set_adapter(adapter)
        rows = []
        for row, answer in enumerate(answers):
            prompt = rewriter.prompt(QUERIES[0 if row < 3 else 4])
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            rows.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
        return rows

    with torch.no_grad():
        reference, policy = log_probabilities("ref"), log_probabilities("default")
    terms = []
    for advantage, ref, logp in zip(expected.flatten(), reference, policy, strict=True):
        kl = (ref - logp).exp() - (ref - logp) - 1
        terms.append((-advantage + 0.1 * kl).mean())
    # on-policy: the ratio is one
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-3, abs=1e-5)


class _KilledError(Exception):
    pass


def test_a_killed_training_ends_with_the_same_weights_and_curves(tiny_folder, tmp_path, monkeypatch):
    killed_after = 2
    weights, curves = train(tiny_folder, tmp_path / "whole")
    again, curves_again = train(tiny_folder, tmp_path / "again")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_again)
    rollout = RewritingTrainer.rollout

    def dying(self, prompts, trainer):
        if self.state.global_step == killed_after:
            raise _KilledError
        return rollout(self, prompts, trainer)

    monkeypatch.setattr(RewritingTrainer, "rollout", dying)
    with pytest.raises(_KilledError):
        train(tiny_folder, tmp_path / "killed")
    monkeypatch.setattr(RewritingTrainer, "rollout", rollout)
    # the newest checkpoint was being written when the machine went down
    half = tmp_path / "killed" / f"checkpoint-{killed_after + 1}"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    resumed, curves_resumed = train(tiny_folder, tmp_path / "killed")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_resumed)


def test_curves_hold_what_one_wants_to_watch(tiny_folder, tmp_path):
    _, curves = train(tiny_folder, tmp_path)
    assert {"reward", "kl", "entropy", "loss", "answer/invalid_rate", "answer/retrieval"} <= set(curves["metric"])
    validated = curves[curves["metric"] == "validation/ndcg_at_10"]
    assert validated["step"].tolist() == [0, 2, 3]
    assert validated["value"].tolist() == [2.0] * 3
    assert curves["value"].map(np.isfinite).all()
    last = curves[curves["step"] == 3].set_index("metric")["value"]
    # 3 steps of 2 queries with 3 answers each, of up to 5 tokens
    assert (last["cost/updates"], last["cost/prompts"], last["cost/rollouts"]) == (3, 6, 18)
    assert last["cost/sampled_tokens"] == last["cost/answer_tokens"] <= 18 * 5
    parts = curves[curves["step"] == 1].set_index("metric")["value"]
    # 0.1 where the form is right, -2 where not
    form = 0.1 - 2.1 * parts["answer/invalid_rate"]
    assert parts["reward"] == pytest.approx(parts["answer/retrieval"] + form, abs=1e-5)


def test_both_engines_train_the_same(tiny_folder, tmp_path):
    fresh = weights_of(make(tiny_folder))
    shared, _ = train(tiny_folder, tmp_path / "shared")
    plain, _ = train(tiny_folder, tmp_path / "plain", engine="replicated")
    own = [name for name in shared if ".ref." not in name]
    moved = max((shared[name] - fresh[name]).abs().max().item() for name in own if name in fresh)
    assert moved > 0
    assert max((shared[name] - plain[name]).abs().max().item() for name in own) < 1e-2 * moved


def test_it_learns_what_is_rewarded(tiny_folder, tmp_path):
    settings = SETTINGS.model_copy(
        update={
            # A random model is undecided: its distribution is sharpened, so that some steps are enough. Any of five
            # seeds is above 1 by step 30, on the way there one is as late as another is early.
            "steps": 40,
            "temperature": 0.2,
            "prompts_per_step": 1,
            "rollouts": 16,
            "learning_rate": 1e-2,
            "validate_every": 50,
            "save_every": 50,
            "kl": 0.0,
        }
    )
    _, curves = train(tiny_folder, tmp_path, settings)
    rewards = curves[curves["metric"] == "reward"].sort_values("step")["value"].to_numpy()
    # small tokens and the right form are worth 1.1
    assert rewards[:5].mean() < 0.5
    assert rewards[-5:].mean() > 0.9


def test_answers_of_the_wrong_form_alone_teach_nothing(tiny_folder, tmp_path):
    rewriter = make(tiny_folder, Rewriter)
    before = weights_of(rewriter)
    settings = SETTINGS.model_copy(update={"steps": 1, "kl": 0.0})
    curves = train_rewriter(rewriter, QUERIES, reward, settings=settings, work_folder=tmp_path, seed=0)
    after = weights_of(rewriter)
    assert all(torch.equal(before[name], after[name]) for name in before)
    values = curves.set_index("metric")["value"]
    assert (values["reward"], values["answer/invalid_rate"]) == (-2.0, 1.0)
