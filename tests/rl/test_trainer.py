"""The trainer against a computation from scratch, and its promises: determinism, resumption, learning."""

import dataclasses
import itertools
import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from flexrec.policy.models import load_base, load_policy, load_tokenizer, save_policy
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need
from flexrec.rl.examples import Example
from flexrec.rl.settings import MethodSettings, PpoSettings, RlSettings, UncertaintySettings, WarmUpSettings
from flexrec.rl.shared_prompt_trainer import train
from flexrec.rl.trainer import VALUE_HEAD, RankingTrainer, first_instances, token_advantages, train_policy
from flexrec.rl.warm_up import add_adapter, warm_up

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
PPO = MethodSettings(algorithm="ppo", item_reward="independent", uncertainty=UncertaintySettings(low=0.5, high=1.5))


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


@pytest.fixture
def ranker(tiny_folder):
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())


def swap_rewards_by_definition(gains):
    """r_k = 1/(K-k) sum_{j>k} [J(y) - J(y with k and j swapped)] (method, section 4)."""
    d = 1 / np.log2(np.arange(2, len(gains) + 2))
    ideal = np.sort(gains)[::-1] @ d
    rewards = np.zeros(len(gains))
    for k in range(len(gains) - 1):
        for j in range(k + 1, len(gains)):
            swapped = gains.copy()
            swapped[[k, j]] = swapped[[j, k]]
            rewards[k] += (gains @ d - swapped @ d) / ideal / (len(gains) - 1 - k)
    return rewards


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_loss_and_gradients_equal_a_computation_from_scratch(ranker, tiny_folder, tmp_path, trained):
    if trained == "full":
        ranker = Ranker(load_base(tiny_folder), ranker.tokenizer, PROMPT, DecodingSettings())
    settings = SETTINGS.model_copy(update={"kl": 0.1, "entropy_bonus": 0.02})
    method = MethodSettings(uncertainty=UncertaintySettings(scope="group", low=0.5, high=1.5))
    examples = [example(number, variance=0.3) for number in range(2)]
    trainer = RankingTrainer(ranker, examples, [], method, settings, tmp_path, seed=3)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    rows = [{"prompt": str(row)} for row in (0, 0, 0, 1, 1, 1)]
    batch = trainer._generate_and_score_completions(rows)
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    # move the policy off its reference, so that the KL term is not zero
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if trained == "full" or "lora_A.default" in name:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    model.zero_grad()
    loss = trainer._compute_loss(model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    names = [ranker.tokenizer.encode(f" {letter}")[0] for letter in "ABCD"]
    orders = [[names.index(token) for token in row] for row in batch["completion_ids"].tolist()]
    discounts = 1 / np.log2(np.arange(2, K + 2))
    advantages = np.zeros((6, K))
    for group in range(2):
        gains, variances = examples[group].gains, examples[group].variances
        members = range(3 * group, 3 * group + 3)
        rewards = np.stack([swap_rewards_by_definition(gains[orders[row]]) for row in members])
        pooled = (rewards - rewards.mean()) / (rewards.std(ddof=1) + method.epsilon)
        ideal = np.sort(gains)[::-1] @ discounts
        spread = np.array([discounts**2 @ variances[orders[row]] for row in members]) / ideal**2
        weights = 1 / (spread + method.uncertainty.epsilon)
        weights = np.clip(weights / weights.mean(), 0.5, 1.5)
        advantages[list(members)] = weights[:, None] * pooled
    np.testing.assert_allclose(batch["advantages"].numpy(), advantages, rtol=1e-4, atol=1e-5)

    # without adapters the reference is another model: the one that training started from
    reference = load_base(tiny_folder) if trained == "full" else model

    def log_probabilities(model, adapter):
        if trained == "lora":
            model.set_adapter(adapter)
        values, entropies = [], []
        for row, order in enumerate(orders):
            prompt = ranker.prompt(examples[row // 3].query)
            tokens = torch.tensor([prompt + [names[index] for index in order]])
            logits = model(tokens).logits[0, len(prompt) - 1 : -1][:, names]
            left = list(range(K))
            for rank, index in enumerate(order):
                table = logits[rank, left].log_softmax(-1)
                values.append(table[left.index(index)])
                entropies.append(-(table.exp() * table).sum())
                left.remove(index)
        return torch.stack(values).reshape(6, K), torch.stack(entropies).reshape(6, K)

    with torch.no_grad():
        of_reference, _ = log_probabilities(reference, "ref")
    torch.testing.assert_close(batch["ref_per_token_logps"], of_reference, rtol=1e-4, atol=1e-5)
    model.zero_grad()
    logps, entropies = log_probabilities(model, "default")
    log_ratio = of_reference - logps
    kl = log_ratio.exp() - log_ratio - 1
    assert kl.max() > 1e-4
    surrogate = -torch.tensor(advantages).float() * (logps - logps.detach()).exp()
    expected = (surrogate + 0.1 * kl).mean() - 0.02 * entropies.mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert float(trainer._metrics["train"]["kl"][-1]) == pytest.approx(kl.mean().item(), rel=1e-3)
    assert len(gradients) == sum(weight.requires_grad for weight in model.parameters())
    for name, gradient in gradients.items():
        other = dict(model.named_parameters())[name].grad
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1e-4), name


def _perturb(model, size):
    """Move the policy off its reference and off the policy that sampled."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A.default" in name:
                weight += size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))


def _tokens_by_definition(model, prompt, names, order):
    """Log-probability, entropy and rank of every token of an answer, from all identifiers that could still follow."""
    answer = [token for index in order for token in names[index]]
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    left, values, entropies, ranks = list(order), [], [], []
    for rank, index in enumerate(order):
        for depth, token in enumerate(names[index]):
            fitting = {names[other][depth] for other in left if names[other][:depth] == names[index][:depth]}
            allowed = sorted(fitting)
            table = logits[len(values)][allowed].log_softmax(-1)
            values.append(table[allowed.index(token)])
            entropies.append(-(table.exp() * table).sum())
            ranks.append(rank)
        left.remove(index)
    return torch.stack(values), torch.stack(entropies), torch.tensor(ranks)


@pytest.mark.parametrize(("identifiers", "count"), [("letters", 4), ("numbers", 11)])
def test_the_ratio_of_an_item_is_the_geometric_mean_over_its_tokens(ranker, tmp_path, identifiers, count):
    """Rank-GRPO in its own words: 1/(G N) sum_i sum_k min(w A, clip(w) A), w = (prod_t ratio_t)^(1/|k|)."""
    prompting = PROMPT.model_copy(update={"identifiers": identifiers})
    ranker = Ranker(ranker.model, ranker.tokenizer, prompting, DecodingSettings())
    settings = SETTINGS.model_copy(update={"kl": 0.1, "entropy_bonus": 0.02, "iterations": 2})
    method = MethodSettings(
        item_reward="rank_relevance",
        item_advantage="per_rank",
        sequence_advantage=False,
        importance="item",
        clip=(0.06, 0.08),
        uncertainty=UncertaintySettings(scope="none"),
    )
    examples = [example(number, count=count) for number in range(2)]
    trainer = RankingTrainer(ranker, examples, [], method, settings, tmp_path, seed=3)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": str(row)} for row in (0, 0, 0, 1, 1, 1)])
    names = ranker.grammar(count).identifiers
    assert {len(name) for name in names} == ({1} if identifiers == "letters" else {2, 3})
    orders = [ranker.read(row, count).order for row in batch["completion_ids"].tolist()]

    def by_definition(adapter):
        model.set_adapter(adapter)
        return [
            _tokens_by_definition(model, ranker.prompt(examples[row // 3].query), names, order)
            for row, order in enumerate(orders)
        ]

    with torch.no_grad():
        old, reference = by_definition("default"), by_definition("ref")
    _perturb(model, 0.05)
    model.set_adapter("default")
    model.zero_grad()
    loss = trainer._compute_loss(model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    relevance = np.stack([examples[row // 3].gains[list(order)] for row, order in enumerate(orders)])
    relevance = relevance.reshape(2, 3, count)
    centred = relevance - relevance.mean(1, keepdims=True)
    advantages = torch.tensor(centred / (relevance.std(1, ddof=1, keepdims=True) + 1e-6)).reshape(6, count).float()
    model.zero_grad()
    terms, ratios, kls, entropies = [], [], [], []
    for row, (logps, spread, ranks) in enumerate(by_definition("default")):
        for rank in range(count):
            ratio = (logps - old[row][0])[ranks == rank].mean().exp()
            advantage = advantages[row, rank]
            terms.append(torch.minimum(ratio * advantage, ratio.clamp(0.94, 1.08) * advantage))
            ratios.append(ratio.item())
        gap = reference[row][0] - logps
        kls.append((gap.exp() - gap - 1).mean())
        entropies.append(spread)
    expected = -torch.stack(terms).mean() + 0.1 * torch.stack(kls).mean() - 0.02 * torch.cat(entropies).mean()
    expected.backward()
    # the problem is not a trivial one
    assert min(ratios) < 0.94
    assert max(ratios) > 1.08
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    for name, gradient in gradients.items():
        other = dict(model.named_parameters())[name].grad
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1e-4), name


def test_ppo_equals_a_computation_from_scratch(ranker, tmp_path):
    settings = SETTINGS.model_copy(update={"kl": 0.0, "entropy_bonus": 0.0})
    method = PPO.model_copy(update={"ppo": PpoSettings(discount=0.9, gae=0.8, value_clip=0.01)})
    examples = [example(number, variance=0.3) for number in range(2)]
    trainer = RankingTrainer(ranker, examples, [], method, settings, tmp_path, seed=3)
    trainer.current_gradient_accumulation_steps = 1
    model, head = trainer.model.train(), trainer._value_head
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    batch = trainer._generate_and_score_completions([{"prompt": str(row)} for row in (0, 0, 0, 1, 1, 1)])

    names = [name[0] for name in ranker.grammar(K).identifiers]
    orders = [[names.index(token) for token in row] for row in batch["completion_ids"].tolist()]
    discounts = 1 / np.log2(np.arange(2, K + 2))
    rewards = np.stack(
        [
            examples[row // 3].gains[order] * discounts / (np.sort(examples[row // 3].gains)[::-1] @ discounts)
            for row, order in enumerate(orders)
        ]
    )
    # the last item is no decision: what it earns belongs to the one before
    earned = np.concatenate([rewards[:, : K - 2], rewards[:, K - 2 :].sum(1, keepdims=True)], 1)
    to_come = np.stack([[sum(0.9**n * r for n, r in enumerate(row[s:])) for s in range(K - 1)] for row in earned])
    assert head.bias.item() == pytest.approx(to_come.mean(), rel=1e-5)

    prompts = [ranker.prompt(examples[row // 3].query) for row in range(6)]
    tokens = torch.tensor(
        [[*prompt, *(names[index] for index in order)] for prompt, order in zip(prompts, orders, strict=True)]
    )
    decoder = model.get_base_model().model

    def values():
        """From the decoder's own forward pass."""
        states = decoder(tokens).last_hidden_state[:, -K - 1 : -2].detach()
        states = (states - states.mean(-1, keepdim=True)) / (states.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return states @ head.weight / states.shape[-1] ** 0.5 + head.bias

    old = values().detach()
    nexts = np.concatenate([old[:, 1:], np.zeros((6, 1))], 1)
    deltas = earned + 0.9 * nexts - old.numpy()
    raw = np.stack([[sum(0.72**n * d for n, d in enumerate(row[s:])) for s in range(K - 1)] for row in deltas])
    white = (raw - raw.mean()) / (raw.std(ddof=1) + method.epsilon)
    spread = np.array(
        [
            discounts**2
            @ examples[row // 3].variances[order]
            / (np.sort(examples[row // 3].gains)[::-1] @ discounts) ** 2
            for row, order in enumerate(orders)
        ]
    ).reshape(2, 3)
    weights = 1 / (spread + 1e-4)
    weights = np.clip(weights / weights.mean(1, keepdims=True), 0.5, 1.5).reshape(6, 1)
    np.testing.assert_allclose(batch["advantages"][:, :-1].numpy(), weights * white, rtol=1e-3, atol=1e-4)
    assert (batch["advantages"][:, -1] == 0).all()

    with torch.no_grad():
        head.weight += 0.1
    model.zero_grad()
    loss = trainer._compute_loss(model, batch)
    loss.backward()
    of_head, of_policy = (
        head.weight.grad.clone(),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )
    head.zero_grad()
    model.zero_grad()
    returns, new = torch.tensor(raw).float() + old, values()
    near = old + (new - old).clamp(-0.01, 0.01)
    value_loss = torch.maximum((new - returns) ** 2, (near - returns) ** 2).mean()
    logps = [
        _tokens_by_definition(model, prompt, [(name,) for name in names], order)[0]
        for prompt, order in zip(prompts, orders, strict=True)
    ]
    logps = torch.stack(logps)
    expected = -(batch["advantages"] * (logps - logps.detach()).exp()).mean() + value_loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(of_head, head.weight.grad, rtol=1e-3, atol=1e-5)
    for name, gradient in of_policy.items():
        other = dict(model.named_parameters())[name].grad
        assert (gradient - other).abs().max() <= 1e-3 * other.abs().max().clamp(min=1e-4), name


@pytest.mark.parametrize("iterations", [1, 2])
def test_costs_by_hand(tiny_folder, tmp_path, iterations):
    """B = 2 prompts, G = 3 answers of K = 4 tokens, sampled anew every `iterations` of 4 steps."""
    _, curves = _train(tiny_folder, tmp_path, SETTINGS.model_copy(update={"iterations": iterations}))
    wide = curves.pivot(index="step", columns="metric", values="value")
    ranker, rng = _fresh(tiny_folder), np.random.default_rng(1)
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


LORA, FULL = AdapterSettings(rank=4, alpha=8), AdapterSettings(kind="full")


def _weights(ranker):
    parts = ranker.model.named_parameters()
    return {name: p.detach().clone() for name, p in parts if p.requires_grad or "lora" in name}


def _fresh(tiny_folder, adapter=LORA):
    model = add_adapter(load_base(tiny_folder), adapter, seed=0)
    return Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())


def _train(tiny_folder, work, settings=SETTINGS, decoding=None, sampler=None, method=DEFAULT, adapter=LORA):
    ranker = _fresh(tiny_folder, adapter)
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
    return _weights(ranker), curves


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
    weights, curves = _train(tiny_folder, tmp_path / "whole", settings, **options)
    again, curves_again = _train(tiny_folder, tmp_path / "again", settings, **options)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_again)

    compute_loss = RankingTrainer._compute_loss

    def dying(self, *rest):
        if self.state.global_step == killed_after:
            raise _KilledError
        return compute_loss(self, *rest)

    monkeypatch.setattr(RankingTrainer, "_compute_loss", dying)
    with pytest.raises(_KilledError):
        _train(tiny_folder, tmp_path / "killed", settings, **options)
    monkeypatch.setattr(RankingTrainer, "_compute_loss", compute_loss)
    # the newest checkpoint was being written when the machine went down
    half = tmp_path / "killed" / f"checkpoint-{killed_after + 1}"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    resumed, curves_resumed = _train(tiny_folder, tmp_path / "killed", settings, **options)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_resumed)
    steps = curves_resumed[curves_resumed["metric"] == "reward"]["step"].tolist()
    assert steps == [1, 2, 3, 4][::iterations]
    heads = [load_file(tmp_path / run / "checkpoint-4" / VALUE_HEAD) for run in ("whole", "killed") if method == PPO]
    if heads:
        assert all(torch.equal(heads[0][name], heads[1][name]) for name in ("weight", "bias"))
        assert heads[0]["weight"].abs().max() > 0


def test_all_weights_are_trained_beside_an_untouched_reference(tiny_folder, tmp_path):
    ranker = _fresh(tiny_folder, FULL)
    settings = SETTINGS.model_copy(update={"steps": 12, "prompts_per_step": 3, "rollouts": 8, "learning_rate": 1e-3})
    trainer = RankingTrainer(ranker, [example(number) for number in range(6)], [], DEFAULT, settings, tmp_path, seed=1)
    before = _weights(ranker)
    curves = train(trainer, tmp_path)
    after, reference = _weights(ranker), dict(trainer.ref_model.named_parameters())
    assert before.keys() == after.keys() == reference.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], reference[name]) for name in before)
    wide = curves.pivot(index="step", columns="metric", values="value")
    # the first step begins at the reference
    assert wide["kl"][1] == pytest.approx(0.0, abs=1e-6)
    assert wide["kl"][12] > 0.1
    assert wide["reward"][-3:].mean() > wide["reward"][1:4].mean() + 0.05


def test_curves_hold_what_one_wants_to_watch(tiny_folder, tmp_path):
    _, curves = _train(tiny_folder, tmp_path)
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
    weights, _ = _train(tiny_folder, tmp_path / "shared")
    moved = _differ(weights, _weights(_fresh(tiny_folder)))
    plain, _ = _train(tiny_folder, tmp_path / "plain", decoding=DecodingSettings(engine="replicated"))
    checkpointed, _ = _train(
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
    weights, curves = _train(tiny_folder, tmp_path / "own")
    other, curves_of_other = _train(
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
    _, curves = _train(tiny_folder, tmp_path / "own", settings)
    means, largest = compared(curves)
    assert len(means) == 4
    assert all(0 <= mean <= most < 1e-4 for mean, most in zip(means, largest, strict=True))
    assert warnings() == []
    _, curves = _train(tiny_folder, tmp_path / "other", settings, sampler=Elsewhere)
    means, largest = compared(curves)
    # also at the second update from the same rollouts, when the policy is another already
    assert means == pytest.approx([0.5] * 4, abs=1e-4)
    assert largest == pytest.approx([0.9] * 4, abs=1e-4)
    (warning,) = warnings()
    assert "step 1: " in warning
    assert "differ by 0.5 nats a token" in warning
    assert "take `generation: {kind: shared_prompt}`" in warning


def test_warm_up_fits_the_optimal_lists(tiny_folder, tmp_path):
    ranker = _fresh(tiny_folder)
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
        if decoding.constrained and method is DEFAULT:
            # reasoning tokens of one rollout share the advantage of its list; item tokens have their own
            assert len(set(batch["advantages"][0, :4].tolist())) == 1
        if method is formed:
            # tags are no decisions, reasoning is; a list of a random model has the wrong form where nothing keeps it
            assert batch["decisions"][0, :4].all()
            assert not (batch["decisions"] & (batch["completion_mask"] == 0)).any()
            rewarded = trainer._metrics["train"]["reward"][-1]
            assert rewarded > 0 if decoding.constrained else rewarded < -1


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


def test_rewards_by_definition_are_zero_on_average():
    gains = np.array([3.0, 0.5, 2.0, 0.0])
    mean = np.mean(
        [swap_rewards_by_definition(gains[list(order)]) for order in itertools.permutations(range(4))], axis=0
    )
    np.testing.assert_allclose(mean, 0, atol=1e-12)


def test_validation_looks_at_every_need(ranker):
    examples = [dataclasses.replace(example(number), need=need) for need in "ab" for number in range(4)]
    chosen = first_instances(examples, 4)
    assert [(one.query.instance.instance_id, one.need) for one in chosen] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
