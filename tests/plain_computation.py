"""Log-probabilities, entropies and gradients of answers by the model itself, from scratch."""

import itertools

import numpy as np
import torch

from flexrec.policy.distribution import pad_prompts
from flexrec.policy.engine import SharedPromptEngine
from flexrec.policy.grammar import follow
from flexrec.policy.lora import in_model_type
from made_grammars import PAD


def batch(grammar, *, prompts, rollouts, seed=0, model, temperature=1.0):
    """Ragged prompts, one per row, and sampled answers, padded as the trainer pads them."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 9, size=rng.integers(3, 12)).tolist() for _ in range(prompts)]
    engine = SharedPromptEngine(model, PAD)
    sampled = engine.sample(texts, grammar, rollouts=rollouts, temperature=temperature, seed=seed)
    rows = [text for text in texts for _ in range(rollouts)]
    length = max(len(answer) for answer in sampled.completions)
    completions = torch.tensor([answer + [PAD] * (length - len(answer)) for answer in sampled.completions])
    constraints, orders = follow(grammar, sampled.completions, length)
    return rows, completions, constraints, orders, sampled


def plain_scores(model, prompts, completions, constraints, grammar, temperature=1.0):
    """From scratch: the whole sequence of every row through the whole model, full logits, masked by hand."""
    tokens, mask = pad_prompts(prompts, PAD)
    full = torch.cat([tokens, completions], 1)
    full_mask = torch.cat([mask, torch.ones_like(completions)], 1)
    positions = (full_mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=full, attention_mask=full_mask, position_ids=positions).logits
    logits = logits[:, tokens.shape[1] - 1 : -1].float() / temperature
    rows = []
    for n, t in itertools.product(range(completions.shape[0]), range(completions.shape[1])):
        kind = constraints.kind[n, t]
        if kind in (2, 3):
            rows.append((torch.zeros(()), torch.zeros(())))
            continue
        if kind == 1:
            columns = [c for c, keep in zip(grammar.choices, constraints.allowed[n, t], strict=True) if keep]
        else:
            columns = [c for c in range(logits.shape[-1]) if not (grammar.constrained and c == grammar.end_token)]
        table = logits[n, t, columns].log_softmax(-1)
        rows.append((table[columns.index(int(completions[n, t]))], -(table.exp() * table).sum()))
    logps, entropies = (torch.stack(values).reshape(completions.shape) for values in zip(*rows, strict=True))
    return logps, entropies


def with_adapter(model, *, plain_peft=False):
    """LoRA on the upper two of three layers, as large as the weights, so that nothing is lost in rounding.

    As a trained policy has it (`in_model_type`), or as PEFT makes it.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[1, 2])
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model if plain_peft else in_model_type(model)


def gradients(model, compute):
    """Values, and the gradient of a random combination of them with regard to every trained weight."""
    model.zero_grad()
    logps, entropies = compute()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    (weights * logps + 0.3 * entropies).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logps.detach(), entropies.detach(), grads


def assert_equal(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance / 10)
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=tolerance / 10)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in found[2].items():
        scale = expected[2][name].abs().max().clamp(min=1e-3)
        assert (gradient - expected[2][name]).abs().max() <= tolerance * scale, name
