"""Losses, gradients and ratios of the trainer against a computation from scratch."""

import itertools

import numpy as np
import pytest
import torch

from flexrec.policy.models import load_base
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.rl.settings import MethodSettings, PpoSettings, UncertaintySettings
from flexrec.rl.trainer import RankingTrainer
from small_trainings import PROMPT, SETTINGS, K, example, moved_ranker

PPO = MethodSettings(algorithm="ppo", item_reward="independent", uncertainty=UncertaintySettings(low=0.5, high=1.5))


@pytest.fixture
def ranker(tiny_folder):
    return moved_ranker(tiny_folder)


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


@pytest.mark.parametrize(("trained", "temperature"), [("lora", 1.0), ("full", 1.0), ("lora", 0.6)])
def test_loss_and_gradients_equal_a_computation_from_scratch(ranker, tiny_folder, tmp_path, trained, temperature):
    if trained == "full":
        ranker = Ranker(load_base(tiny_folder), ranker.tokenizer, PROMPT, DecodingSettings())
    settings = SETTINGS.model_copy(update={"kl": 0.1, "entropy_bonus": 0.02, "temperature": temperature})
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
            logits = model(tokens).logits[0, len(prompt) - 1 : -1][:, names] / temperature
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


def test_rewards_by_definition_are_zero_on_average():
    gains = np.array([3.0, 0.5, 2.0, 0.0])
    mean = np.mean(
        [swap_rewards_by_definition(gains[list(order)]) for order in itertools.permutations(range(4))], axis=0
    )
    np.testing.assert_allclose(mean, 0, atol=1e-12)
