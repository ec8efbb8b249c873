"""What the trainer promises: costs, determinism, resumption, all that it trains."""

import dataclasses
import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from flexrec.errors import InputError
from flexrec.policy.models import load_base, load_policy, load_tokenizer, save_policy
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.rl.callbacks import refuse_divergence
from flexrec.rl.settings import MethodSettings, UncertaintySettings, WarmUpSettings
from flexrec.rl.shared_prompt_trainer import train
from flexrec.rl.trainer import VALUE_HEAD, RankingTrainer, first_instances, token_advantages
from flexrec.rl.warm_up import add_adapter, warm_up
from small_trainings import (
    DEFAULT,
    FULL,
    LORA,
    PROMPT,
    SETTINGS,
    K,
    example,
    moved_ranker,
    new_ranker,
    trained,
    weights_of,
)

PPO = MethodSettings(algorithm="ppo", item_reward="independent", uncertainty=UncertaintySettings(low=0.5, high=1.5))


@pytest.fixture
def ranker(tiny_folder):
    return moved_ranker(tiny_folder)


@pytest.mark.parametrize("iterations", [1, 2])
def test_costs_by_hand(tiny_folder, tmp_path, iterations):
    """B = 2 prompts, G = 3 answers of K = 4 tokens, sampled anew every `iterations` of 4 steps."""
    _, curves = trained(tiny_folder, tmp_path, SETTINGS.model_copy(update={"iterations": iterations}))
    wide = curves.pivot(index="step", columns="metric", values="value")
    ranker, rng = new_ranker(tiny_folder), np.random.default_rng(1)
    rows = np.concatenate([rng.permutation(6), rng.permutation(6)])[:8]
    lengths = [len(ranker.prompt(example(int(row)).query)) for row in rows]
    read = [lengths[0] + lengths[1], lengths[2] + lengths[3], lengths[4] + lengths[5], lengths[6] + lengths[7]]
    read = read if iterations == 1 else [read[0], read[0], read[1], read[1]]
    batches = np.array([1, 2, 3, 4] if iterations == 1 else [1, 1, 2, 2])
    expected = {
        "updates": [1, 2, 3, 4],
        "prompts": [2, 4, 6, 8],
        "prompt_tokens": np.cumsum(read),
        "answer_tokens": [24, 48, 72, 96],
        "rollouts": 6 * batches,
        "sampled_tokens": 24 * batches,
    }
    for name, counts in expected.items():
        assert wide[f"cost/{name}"].dropna().tolist() == list(counts), name


def test_token_advantages_by_hand():
    items = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    ranks = torch.tensor([[-1, 0, 1], [1, 0, -1]])
    advantages = token_advantages(items, torch.tensor([10.0, 20.0]), torch.tensor([1.0, 0.5]), ranks)
    assert advantages.tolist() == [[10.0, 1.0, -2.0], [2.0, 1.5, 10.0]]


def test_small_steps_of_all_weights_are_not_lost_in_rounding(tiny_folder):
    model = add_adapter(load_base(tiny_folder).bfloat16(), AdapterSettings(kind="full"), seed=0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model(torch.arange(20)[None]).logits.square().mean().backward()
    torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0).step()
    for name, weight in model.named_parameters():
        learning = weight.grad.abs() > 1e-6
        assert learning.any(), name
        assert (weight != before[name])[learning].float().mean() > 0.99, name


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "iterations", "killed_after", "adapter"),
    [(DEFAULT, 1, 1, LORA), (DEFAULT, 2, 3, LORA), (PPO, 1, 2, LORA), (DEFAULT, 1, 2, FULL)],
)
def test_a_killed_training_ends_with_the_same_weights_and_curves(
    tiny_folder, tmp_path, monkeypatch, method, iterations, killed_after, adapter
):
    settings, options = SETTINGS.model_copy(update={"iterations": iterations}), {"method": method, "adapter": adapter}
    weights, curves = trained(tiny_folder, tmp_path / "whole", settings, **options)
    again, curves_again = trained(tiny_folder, tmp_path / "again", settings, **options)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_again)

    compute_loss = RankingTrainer._compute_loss

    def dying(self, *rest):
        if self.state.global_step == killed_after:
            raise _KilledError
        return compute_loss(self, *rest)

    monkeypatch.setattr(RankingTrainer, "_compute_loss", dying)
    with pytest.raises(_KilledError):
        trained(tiny_folder, tmp_path / "killed", settings, **options)
    monkeypatch.setattr(RankingTrainer, "_compute_loss", compute_loss)
    # the newest checkpoint was being written when the machine went down
    half = tmp_path / "killed" / f"checkpoint-{killed_after + 1}"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    resumed, curves_resumed = trained(tiny_folder, tmp_path / "killed", settings, **options)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_resumed)
    steps = curves_resumed[curves_resumed["metric"] == "reward"]["step"].tolist()
    assert steps == [1, 2, 3, 4][::iterations]
    heads = [load_file(tmp_path / run / "checkpoint-4" / VALUE_HEAD) for run in ("whole", "killed") if method == PPO]
    if heads:
        assert all(torch.equal(heads[0][name], heads[1][name]) for name in ("weight", "bias"))
        assert heads[0]["weight"].abs().max() > 0


def test_all_weights_are_trained_beside_an_untouched_reference(tiny_folder, tmp_path):
    ranker = new_ranker(tiny_folder, FULL)
    settings = SETTINGS.model_copy(update={"steps": 12, "prompts_per_step": 3, "rollouts": 8, "learning_rate": 1e-3})
    trainer = RankingTrainer(ranker, [example(number) for number in range(6)], [], DEFAULT, settings, tmp_path, seed=1)
    before = weights_of(ranker)
    curves = train(trainer, tmp_path)
    after, reference = weights_of(ranker), dict(trainer.ref_model.named_parameters())
    assert before.keys() == after.keys() == reference.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], reference[name]) for name in before)
    wide = curves.pivot(index="step", columns="metric", values="value")
    # the first step begins at the reference
    assert wide["kl"][1] == pytest.approx(0.0, abs=1e-6)
    assert wide["kl"][12] > 0.1
    assert wide["reward"][-3:].mean() > wide["reward"][1:4].mean() + 0.05


def test_curves_hold_what_one_wants_to_watch(tiny_folder, tmp_path):
    _, curves = trained(tiny_folder, tmp_path)
    metrics = set(curves["metric"])
    ranks = {f"advantage/std_at_rank_{rank:02d}" for rank in range(1, K + 1)}
    assert {"reward", "kl", "entropy", "loss", "answer/invalid_rate", "weight/median"} | ranks <= metrics
    validation = curves[curves["metric"] == "validation/ndcg_at_5"]
    assert validation["step"].tolist() == [0, 2, 4]
    assert curves["value"].map(np.isfinite).all()


def _differ(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first if ".ref." not in name)


def test_what_makes_a_step_cheap_does_not_change_it(tiny_folder, tmp_path):
    """The plain computation, and gradient checkpointing, end with the same weights up to rounding."""
    weights, _ = trained(tiny_folder, tmp_path / "shared")
    moved = _differ(weights, weights_of(new_ranker(tiny_folder)))
    plain, _ = trained(tiny_folder, tmp_path / "plain", decoding=DecodingSettings(engine="replicated"))
    checkpointed, _ = trained(
        tiny_folder, tmp_path / "checkpointed", SETTINGS.model_copy(update={"gradient_checkpointing": True})
    )
    assert _differ(weights, plain) < 1e-2 * moved
    assert _differ(weights, checkpointed) < 1e-2 * moved


def test_rollouts_may_come_from_elsewhere(tiny_folder, tmp_path):
    """Any sampler that samples the same answers trains the same policy, told of the weights before every step."""

    class Elsewhere:
        def __init__(self, ranker):
            self._engine, self.told = ranker.engine(), []

        def refresh(self, model):
            self.told.append(sum(p.detach().double().sum().item() for n, p in model.named_parameters() if "lora" in n))

        def sample(self, prompts, grammar, **options):
            assert len(self.told) == len(set(self.told)), "the weights were told twice"
            return self._engine.sample(prompts, grammar, **options)

    made = []
    weights, curves = trained(tiny_folder, tmp_path / "own")
    other, curves_of_other = trained(
        tiny_folder, tmp_path / "other", sampler=lambda ranker: made.append(Elsewhere(ranker)) or made[0]
    )
    assert len(made[0].told) == SETTINGS.steps
    assert _differ(weights, other) < 1e-4
    assert curves["metric"].tolist() == curves_of_other["metric"].tolist()


@pytest.mark.parametrize("iterations", [1, 2])
def test_log_probabilities_of_the_sampler_are_compared_with_the_policys(tiny_folder, tmp_path, caplog, iterations):
    class Elsewhere:
        """Says of the first of K - 1 = 3 choices 0.9 nats less than is true, of the other two 0.3: 0.5 on average."""

        def __init__(self, ranker):
            self._engine = ranker.engine()

        def refresh(self, model):
            pass

        def sample(self, prompts, grammar, **options):
            sampled = self._engine.sample(prompts, grammar, **options)
            said = [[first - 0.9, *(x - 0.3 for x in rest), 0.0] for first, *rest, _ in sampled.log_probabilities]
            return dataclasses.replace(sampled, log_probabilities=said)

    def warnings():
        ours = [record for record in caplog.records if record.name.startswith("flexrec")]
        return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]

    def compared(curves):
        wide = curves.pivot(index="step", columns="metric", values="value").loc[1:]
        return [wide[f"sampling/logprob_difference_{name}"].tolist() for name in ("mean", "max")]

    settings = SETTINGS.model_copy(update={"iterations": iterations})
    _, curves = trained(tiny_folder, tmp_path / "own", settings)
    means, largest = compared(curves)
    assert len(means) == 4
    assert all(0 <= mean <= most < 1e-4 for mean, most in zip(means, largest, strict=True))
    assert warnings() == []
    _, curves = trained(tiny_folder, tmp_path / "other", settings, sampler=Elsewhere)
    means, largest = compared(curves)
    # also at the second update from the same rollouts, when the policy is another already
    assert means == pytest.approx([0.5] * 4, abs=1e-4)
    assert largest == pytest.approx([0.9] * 4, abs=1e-4)
    (warning,) = warnings()
    assert "step 1: " in warning
    assert "differ by 0.5 nats a token" in warning
    assert "take `generation: {kind: shared_prompt}`" in warning


def test_warm_up_fits_the_optimal_lists(tiny_folder, tmp_path):
    ranker = new_ranker(tiny_folder)
    curve = warm_up(
        ranker,
        [example(0), example(1)],
        settings=WarmUpSettings(steps=8, lists_per_step=2, learning_rate=1e-2),
        work_folder=tmp_path,
        seed=0,
    )
    assert curve["step"].tolist() == list(range(1, 9))
    assert curve["value"].iloc[-1] < 0.5 * curve["value"].iloc[0]


def test_free_answers_with_reasoning_train_too(tiny_folder, tmp_path):
    prompt = PROMPT.model_copy(update={"reasoning": True})
    free = DecodingSettings(constrained=False, max_answer_tokens=12)
    tags = DecodingSettings(constrained=True, max_reasoning_tokens=4, max_answer_tokens=40)
    formed = PPO.model_copy(update={"format_reward": (0.1, -2.0), "importance": "item"})
    for decoding, method in ((free, DEFAULT), (tags, DEFAULT), (free, formed), (tags, formed)):
        model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=2), seed=0)
        ranker = Ranker(model, load_tokenizer(tiny_folder), prompt, decoding)
        trainer = RankingTrainer(ranker, [example(0), example(1)], [], method, SETTINGS, tmp_path, seed=0)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        batch = trainer._generate_and_score_completions([{"prompt": str(row)} for row in (0, 0, 0, 1, 1, 1)])
        assert batch["advantages"].shape == batch["completion_ids"].shape
        loss = trainer._compute_loss(trainer.model, batch | {"num_items_in_batch": batch["completion_mask"].sum()})
        assert torch.isfinite(loss)
        if method is formed:
            # tags are no decisions, reasoning is; a list of a random model has the wrong form where nothing keeps it
            assert batch["decisions"][0, :4].all()
            assert not (batch["decisions"] & (batch["completion_mask"] == 0)).any()
            rewarded = trainer._metrics["train"]["reward"][-1]
            assert rewarded > 0 if decoding.constrained else rewarded < -1


@pytest.mark.parametrize("method", [DEFAULT, PPO])
def test_tokens_of_the_reasoning_have_the_advantage_of_the_list_or_none(tiny_folder, tmp_path, method):
    """The first four tokens are reasoning, whatever they say: the grammar closes it after them."""
    prompt = PROMPT.model_copy(update={"reasoning": True})
    decoding = DecodingSettings(constrained=True, max_reasoning_tokens=4, max_answer_tokens=40)
    found = {}
    for counted in (True, False):
        ranker = Ranker(new_ranker(tiny_folder).model, load_tokenizer(tiny_folder), prompt, decoding)
        own = method.model_copy(update={"sequence_advantage": counted})
        trainer = RankingTrainer(ranker, [example(0), example(1)], [], own, SETTINGS, tmp_path, seed=0)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        batch = trainer._generate_and_score_completions([{"prompt": str(row)} for row in (0, 0, 0, 1, 1, 1)])
        found[counted] = batch["advantages"][:, :4], batch["advantages"][:, 4:]
    (reasoning, _), (idle, items) = found[True], found[False]
    assert (idle == 0).all()
    # what names an item is learned from either way
    assert (items != 0).any()
    assert (reasoning != 0).any(1).sum() >= 4
    if method is DEFAULT:
        # all tokens of a rollout share the advantage of its list, which is 0 in the mean of a group
        assert (reasoning == reasoning[:, :1]).all()
        torch.testing.assert_close(reasoning[:, 0].reshape(2, 3).sum(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_saved_policies_rank_as_before_and_name_no_path(ranker, tiny_folder, tmp_path):
    queries = [example(number).query for number in range(5)]
    before = ranker.rank(queries)
    save_policy(ranker.model, tmp_path, base_name="tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    again = Ranker(load_policy(tiny_folder, tmp_path), ranker.tokenizer, PROMPT, DecodingSettings()).rank(queries)
    assert again == before
    assert all(sorted(answer.order) == list(range(K)) for answer in again)


def test_numbers_as_identifiers(tiny_folder):
    prompt = PROMPT.model_copy(update={"identifiers": "numbers"})
    ranker = Ranker(load_base(tiny_folder), load_tokenizer(tiny_folder), prompt, DecodingSettings())
    answers = ranker.rank([example(number).query for number in range(3)])
    assert all(sorted(answer.order) == list(range(K)) for answer in answers)
    assert all(max(answer.ranks) == K - 1 for answer in answers)


def test_validation_looks_at_every_need(ranker):
    examples = [dataclasses.replace(example(number), need=need) for need in "ab" for number in range(4)]
    chosen = first_instances(examples, 4)
    assert [(one.query.instance.instance_id, one.need) for one in chosen] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


@pytest.mark.parametrize(("steps", "iterations"), [(2, 1), (4, 2), (3, 2)])
def test_a_training_killed_after_its_last_step_makes_no_other(tiny_folder, tmp_path, steps, iterations):
    """While the policy is written, say: the last checkpoint is whole, the node is not done."""
    settings = SETTINGS.model_copy(update={"steps": steps, "iterations": iterations})
    weights, curves = trained(tiny_folder, tmp_path, settings)
    assert (tmp_path / f"checkpoint-{steps}" / "complete").exists()
    again, curves_again = trained(tiny_folder, tmp_path, settings)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_again)


def test_a_training_that_diverges_says_so(tiny_folder, tmp_path):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(InputError, match=r"(the training diverges: .* lower|at too high a) .*learning.rate"):
        trained(tiny_folder, tmp_path, settings)


@pytest.mark.parametrize(("name", "value"), [("loss", float("nan")), ("grad_norm", float("inf"))])
def test_what_is_no_number_stops_a_training(name, value):
    refuse_divergence({"loss": 0.5, "grad_norm": 1.0}, 3, "`rl.learning_rate`")
    with pytest.raises(
        InputError, match=r"the training diverges: `\w+` is (nan|inf) at step 3; lower `rl.learning_rate`"
    ):
        refuse_divergence({"loss": 0.5, name: value}, 3, "`rl.learning_rate`")
