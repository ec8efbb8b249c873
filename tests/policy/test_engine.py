"""The shared-prompt engine against the plain computation, and sampling against enumeration."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from flexrec.errors import InputError
from flexrec.policy import attention
from flexrec.policy.decoder import Decoder
from flexrec.policy.distribution import pad_prompts
from flexrec.policy.engine import ReplicatedEngine, SharedPromptEngine, make_engine
from flexrec.policy.grammar import Grammar, follow
from flexrec.policy.lora import in_model_type
from made_grammars import END, PAD, letters, reasoning


def batch(grammar, *, prompts, rollouts, seed=0, model):
    """Ragged prompts, one per row, and sampled answers, padded as the trainer pads them."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 9, size=rng.integers(3, 12)).tolist() for _ in range(prompts)]
    sampled = SharedPromptEngine(model, PAD).sample(texts, grammar, rollouts=rollouts, temperature=1.0, seed=seed)
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


@pytest.mark.parametrize("adapter", ["none", "ours", "PEFT's own"])
@pytest.mark.parametrize("form", [letters, reasoning])
def test_scores_and_gradients_equal_the_plain_computation(tiny_model, adapter, form):
    model = tiny_model if adapter == "none" else with_adapter(tiny_model, plain_peft=adapter == "PEFT's own")
    grammar = form(5)
    rows, completions, constraints, _, _ = batch(grammar, prompts=3, rollouts=4, model=model)
    # rows in any order: TRL shuffles them
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    rows, completions = [rows[row] for row in order], completions[order]
    constraints = type(constraints)(*(value[order.numpy()] for value in vars(constraints).values()))

    shared = gradients(model, lambda: SharedPromptEngine(model, PAD).score(rows, completions, constraints, grammar))
    replicated = gradients(model, lambda: ReplicatedEngine(model, PAD).score(rows, completions, constraints, grammar))
    plain = gradients(model, lambda: plain_scores(model, rows, completions, constraints, grammar))
    assert_equal(shared, replicated)
    assert_equal(shared, plain)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("count", "rollouts", "form", "checkpointing"),
    [
        (2, 1, letters, False),
        (2, 16, reasoning, True),
        (9, 3, letters, True),
        (9, 5, reasoning, False),
        (50, 1, reasoning, True),
        (50, 16, letters, False),
    ],
)
def test_any_number_of_candidates_and_rollouts(tiny_model, count, rollouts, form, checkpointing, adapter):
    model, grammar = with_adapter(tiny_model) if adapter else tiny_model, form(count)
    rows, completions, constraints, _, _ = batch(grammar, prompts=2, rollouts=rollouts, model=model)
    engine = SharedPromptEngine(model, PAD, checkpointing=checkpointing)
    shared = gradients(model, lambda: engine.score(rows, completions, constraints, grammar))
    replicated = gradients(model, lambda: ReplicatedEngine(model, PAD).score(rows, completions, constraints, grammar))
    assert_equal(shared, replicated)


def test_checkpointing_keeps_less(llama):
    grammar = letters(20)
    _, completions, constraints, _, sampled = batch(grammar, prompts=1, rollouts=8, model=llama)
    kept = []
    for checkpointing in (False, True):
        engine, size = SharedPromptEngine(llama, PAD, checkpointing=checkpointing), [0]

        def count(tensor, size=size):
            size[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            engine.score([[1] * 200] * len(sampled.completions), completions, constraints, grammar)
        kept.append(size[0])
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["shared_prompt", "replicated"])
def test_one_on_policy_step_reads_the_prompts_once_and_stays_exact(tiny_model, adapter, kind, monkeypatch):
    model = with_adapter(tiny_model) if adapter else tiny_model
    grammar, texts, size = letters(5), [[1, 2, 3], [4, 5, 6, 7, 8]], 4
    engine = make_engine(kind, model, PAD, remember=True)

    def step():
        sampled = engine.sample(texts, grammar, rollouts=size, temperature=1.0, seed=0, graph=True)
        completions = torch.tensor(sampled.completions)
        constraints, _ = follow(grammar, sampled.completions, 5)
        rows = [text for text in texts for _ in range(size)]
        with torch.no_grad():
            old, _ = engine.score(rows, completions, constraints, grammar, entropies=False)
            if adapter:
                with model.disable_adapter():
                    reference, _ = engine.score(rows, completions, constraints, grammar, entropies=False)
                    expected = plain_scores(model, rows, completions, constraints, grammar)[0]
                torch.testing.assert_close(reference, expected, rtol=1e-4, atol=1e-5)
        # the trainer shuffles the rollouts before the update
        shuffled = [5, 3, 7, 0, 1, 6, 2, 4]
        rows, completions, old = [rows[row] for row in shuffled], completions[shuffled], old[shuffled]
        constraints, _ = follow(grammar, completions.tolist(), 5)
        found = gradients(model, lambda: engine.score(rows, completions, constraints, grammar))
        assert_equal(found, gradients(model, lambda: plain_scores(model, rows, completions, constraints, grammar)))
        torch.testing.assert_close(old, found[0], rtol=1e-4, atol=1e-5)
        # the sampler's log-probabilities are the update's: nothing has to be computed again
        drawn = torch.tensor(sampled.log_probabilities)[shuffled]
        torch.testing.assert_close(drawn, found[0], rtol=1e-4, atol=1e-5)

    encoded, lower, lower_answers = [], [], []
    encode, run_lower, run_answers = Decoder.encode, Decoder.lower, Decoder.lower_answers
    monkeypatch.setattr(Decoder, "encode", lambda *a: encoded.append(1) or encode(*a))
    monkeypatch.setattr(Decoder, "lower", lambda *a: lower.append(1) or run_lower(*a))
    monkeypatch.setattr(Decoder, "lower_answers", lambda *a: lower_answers.append(1) or run_answers(*a))
    step()
    if kind == "shared_prompt":
        # the policy's prompts once, the reference's once; what both share at the bottom once, prompts and rollouts
        assert (len(encoded), len(lower), len(lower_answers)) == ((2, 1, 1) if adapter else (1, 0, 0))
    # new weights: nothing that was made with the old ones may be used again
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.mul_(1.1)
    step()


@pytest.mark.parametrize("ragged", [False, True])
def test_prompts_encoded_a_few_at_a_time_are_the_same(tiny_model, monkeypatch, ragged):
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 9, size=3 + number * ragged).tolist() for number in (4, 1, 5, 0, 2, 3, 6)]
    engine, calls = SharedPromptEngine(tiny_model, PAD), []
    padded = Decoder._padded
    monkeypatch.setattr(Decoder, "_padded", lambda self, some, pad: calls.append(len(some)) or padded(self, some, pad))

    def encoded(at_once):
        monkeypatch.setattr("flexrec.policy.decoder.AT_ONCE", at_once)
        calls.clear()
        with torch.no_grad():
            found = engine._decoder.encode(texts, PAD)
        assert max(calls) == min(at_once, len(texts))
        return found

    whole, pieces = encoded(100), encoded(3)
    assert whole.lengths.tolist() == pieces.lengths.tolist() == [len(text) for text in texts]
    assert (whole.seen is None) == (pieces.seen is None) == (not ragged)
    torch.testing.assert_close(whole.last, pieces.last, rtol=1e-4, atol=1e-5)
    read = torch.ones(1, dtype=torch.bool) if whole.seen is None else whole.seen.transpose(-1, -2)
    for one, other in zip(whole.keys + whole.values, pieces.keys + pieces.values, strict=True):
        torch.testing.assert_close(one * read, other * read, rtol=1e-4, atol=1e-5)
    if ragged:
        assert torch.equal(whole.seen, pieces.seen)
    answers = [engine.sample(texts, letters(5), rollouts=2, temperature=1.0, seed=1) for _ in range(2)]
    monkeypatch.setattr("flexrec.policy.decoder.AT_ONCE", 100)
    answers.append(engine.sample(texts, letters(5), rollouts=2, temperature=1.0, seed=1))
    assert answers[0].completions == answers[1].completions == answers[2].completions


def test_a_prompt_that_comes_twice_in_a_batch(llama):
    grammar, text = letters(5), [1, 2, 3]
    engine = SharedPromptEngine(llama, PAD, remember=True)
    sampled = engine.sample([text, [4, 5], text], grammar, rollouts=2, temperature=1.0, seed=0, graph=True)
    rows = [text, text, [4, 5], [4, 5], text, text]
    completions = torch.tensor(sampled.completions)
    constraints, _ = follow(grammar, sampled.completions, 5)
    found = gradients(llama, lambda: engine.score(rows, completions, constraints, grammar))
    plain = ReplicatedEngine(llama, PAD)
    assert_equal(found, gradients(llama, lambda: plain.score(rows, completions, constraints, grammar)))


def in_bfloat16(model):
    """The model as it is trained in bfloat16, adapters in float32, and the same weights computed in float32."""
    half = copy.deepcopy(model).bfloat16()
    for name, weight in half.named_parameters():
        if "lora" in name:
            weight.data = dict(model.named_parameters())[name].data.clone()
    return half, copy.deepcopy(half).float()


def update(model, kind, rows, completions, constraints, grammar, old):
    """What one update by RL computes: values of every token, and the gradient of all trained weights as one vector."""
    model.zero_grad()
    logps, entropies = make_engine(kind, model, PAD).score(rows, completions, constraints, grammar)
    advantages = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    gap = old - logps
    ratio = (-gap).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    loss = -surrogate + 0.1 * (gap.exp() - gap - 1) - 0.05 * entropies
    loss.mean().backward()
    found = {"log-probabilities": logps, "entropies": entropies, "loss": loss}
    found["gradients"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return {name: value.detach().double() for name, value in found.items()}


def errors_of_both(model, grammar, *, lengths, rollouts, vocabulary, seed):
    """How far both engines in bfloat16 are from float32 with the same weights: norms, relative to float32's."""
    half, exact = in_bfloat16(model)
    rng = np.random.default_rng(seed)
    texts = [rng.integers(*vocabulary, size=length).tolist() for length in lengths]
    rows = [text for text in texts for _ in range(rollouts)]
    found = {}
    for kind in ("shared_prompt", "replicated"):
        engine = make_engine(kind, half, PAD)
        sampled = engine.sample(texts, grammar, rollouts=rollouts, temperature=1.0, seed=seed)
        completions = torch.tensor(sampled.completions)
        constraints, _ = follow(grammar, sampled.completions, completions.shape[1])
        if kind == "shared_prompt":
            given = rows, completions, constraints, grammar
        with torch.no_grad():
            right = ReplicatedEngine(exact, PAD).score(rows, completions, constraints, grammar)[0].double()
        drawn = torch.tensor(sampled.log_probabilities).double()
        found[kind] = {"sampling": ((drawn - right).norm() / right.norm()).item()}
    # the policy has moved, within the clipped range and beyond it: not so near its ends that rounding would decide
    with torch.no_grad():
        old = ReplicatedEngine(exact, PAD).score(*given)[0]
    moves = torch.tensor([-0.7, -0.05, 0.05, 0.7])
    old = old + moves[torch.randint(0, 4, old.shape, generator=torch.Generator().manual_seed(seed))]
    right = update(exact, "replicated", *given, old)
    for kind, errors in found.items():
        values = update(half, kind, *given, old)
        errors |= {name: ((values[name] - right[name]).norm() / right[name].norm()).item() for name in right}
    return found


BOUNDS = {"log-probabilities": 1.2, "sampling": 1.2, "entropies": 1.2, "loss": 1.4, "gradients": 1.4}
"""Most error of the shared prompt in that of the plain computation, each the geometric mean over eight models.

Rounding is as good as random: from one model to the next the ratio spreads by a factor of e^0.12 (loss and gradients:
e^0.3), so the mean of eight by e^0.04 (e^0.1). The bounds are three of those above one, and what the blocks of
attention round more than the fused kernel of the plain computation does, a few hundredths.
"""

OF_TWO = {"log-probabilities": 1.4, "sampling": 1.4, "entropies": 1.4, "loss": 2.0, "gradients": 2.0}
"""The same for the two models of one architecture, whose mean spreads by e^0.085 (e^0.21)."""


@pytest.mark.parametrize("adapter", [False, True])
def test_bfloat16_errs_no_more_than_the_plain_computation_in_bfloat16(made, adapter, monkeypatch):
    in_blocks = []
    apply = attention._CausalBlocks.apply
    monkeypatch.setattr(attention._CausalBlocks, "apply", lambda *a: in_blocks.append(len(a[0])) or apply(*a))
    ratios = {name: {of: [] for of in made} for name in BOUNDS}
    for seed in range(2):
        for of, architecture in made.items():
            model = architecture(seed)
            model = with_adapter(model) if adapter else model
            # longer than what is computed in one block
            found = errors_of_both(model, letters(12), lengths=(31, 197, 120), rollouts=3, vocabulary=(1, 9), seed=seed)
            for name, values in ratios.items():
                values[of].append(found["shared_prompt"][name] / found["replicated"][name])
                # bfloat16 rounds to three digits at best
                assert found["replicated"][name] > 1e-3
            assert in_blocks
            in_blocks.clear()
    logs = {name: np.log([*values.values()]) for name, values in ratios.items()}
    means = {name: float(np.exp(values.mean())) for name, values in logs.items()}
    assert all(means[name] <= bound for name, bound in BOUNDS.items()), means
    each = {name: np.exp(values.mean(axis=1)).tolist() for name, values in logs.items()}
    assert all(max(each[name]) <= bound for name, bound in OF_TWO.items()), each


@pytest.fixture(scope="module")
def smollm2(smollm2_folder):
    from flexrec.policy.models import load_base

    return load_base(smollm2_folder)


def adapted(model):
    """A copy with LoRA on its two uppermost layers."""
    from flexrec.policy.settings import AdapterSettings
    from flexrec.rl.warm_up import add_adapter

    model = add_adapter(copy.deepcopy(model), AdapterSettings(rank=8, alpha=16, upper_layers=2), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


NAMES = Grammar(tuple((token,) for token in range(330, 340)), constrained=True, end_token=2, max_length=80)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_real_model_is_computed_exactly(smollm2, adapter):
    model = (adapted(smollm2) if adapter else copy.deepcopy(smollm2)).float()
    rng = np.random.default_rng(0)
    rows = [text for size in (37, 61) for text in [rng.integers(300, 900, size=size).tolist()] * 2]
    answers = [(330 + rng.permutation(10)).tolist() for _ in rows]
    constraints, _ = follow(NAMES, answers, 10)
    run = {
        kind: gradients(
            model,
            lambda kind=kind: make_engine(kind, model, PAD).score(rows, torch.tensor(answers), constraints, NAMES),
        )
        for kind in ("shared_prompt", "replicated")
    }
    assert_equal(run["shared_prompt"], run["replicated"])


def test_the_real_model_in_bfloat16(smollm2):
    # one draw of one model, whose ratios spread by up to e^0.3 (`BOUNDS`): what is wrong by more than rounding
    found = errors_of_both(
        adapted(smollm2).bfloat16(), NAMES, lengths=(195,), rollouts=3, vocabulary=(300, 900), seed=0
    )
    for name in BOUNDS:
        assert found["replicated"][name] > 1e-3
        assert found["shared_prompt"][name] <= 2 * found["replicated"][name], name


def test_without_a_kernel_for_parts_the_result_is_the_same(tiny_model, monkeypatch):
    grammar = letters(6)
    rows, completions, constraints, _, _ = batch(grammar, prompts=3, rollouts=4, model=tiny_model)
    compute = lambda: SharedPromptEngine(tiny_model, PAD).score(rows, completions, constraints, grammar)  # noqa: E731
    parts = gradients(tiny_model, compute)
    monkeypatch.setattr("flexrec.policy.attention._has_parts", lambda query: False)
    assert_equal(gradients(tiny_model, compute), parts)


@pytest.mark.parametrize("form", [letters, reasoning])
def test_sampling_reports_the_log_probabilities_that_scoring_finds(tiny_model, form):
    grammar = form(6)
    rows, completions, constraints, _, sampled = batch(grammar, prompts=4, rollouts=3, model=tiny_model)
    with torch.no_grad():
        logps, _ = SharedPromptEngine(tiny_model, PAD).score(rows, completions, constraints, grammar)
    for row, values in enumerate(sampled.log_probabilities):
        torch.testing.assert_close(logps[row, : len(values)], torch.tensor(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [letters, reasoning])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_constrained_answers_are_permutations(llama, form, count):
    *_, orders, _ = batch(form(count), prompts=3, rollouts=4, model=llama)
    assert all(sorted(order) == list(range(count)) for order in orders)


def test_sampled_permutations_follow_the_enumerated_distribution(tiny_model):
    grammar = letters(4)
    prompt = [3, 1, 4, 1, 5]
    orders = list(itertools.permutations(range(4)))
    answers = torch.tensor([[10 + index for index in order] for order in orders])
    engine = SharedPromptEngine(tiny_model, PAD)
    constraints, _ = follow(grammar, answers.tolist(), 4)
    with torch.no_grad():
        logps, _ = engine.score([prompt] * len(orders), answers, constraints, grammar)
    probabilities = logps.sum(1).double().exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)

    drawn = 4000
    sampled = engine.sample([prompt], grammar, rollouts=drawn, temperature=1.0, seed=7)
    counts = np.zeros(len(orders))
    for answer in sampled.completions:
        counts[orders.index(tuple(token - 10 for token in answer))] += 1
    expected = (probabilities / probabilities.sum()).numpy() * drawn
    likely = expected >= 5
    observed = np.append(counts[likely], counts[~likely].sum())
    predicted = np.append(expected[likely], expected[~likely].sum())
    assert chisquare(observed, predicted).pvalue > 1e-3


def test_greedy_takes_the_most_probable_identifier_at_every_rank(llama):
    grammar = letters(4)
    prompt = [2, 7, 1, 8]
    engine = SharedPromptEngine(llama, PAD)
    greedy = engine.sample([prompt], grammar, rollouts=1, temperature=0.0, seed=0).completions[0]
    tokens, chosen = list(prompt), []
    for _ in range(4):
        with torch.no_grad():
            logits = llama(torch.tensor([tokens])).logits[0, -1]
        left = [token for token in range(10, 14) if token not in chosen]
        chosen.append(max(left, key=lambda token: logits[token].item()))
        tokens.append(chosen[-1])
    assert greedy == chosen


def test_sampling_is_reproducible_and_leaves_the_model_in_its_mode(llama):
    llama.train()
    engine = SharedPromptEngine(llama, PAD)
    runs = [
        engine.sample([[1, 2, 3]], letters(5), rollouts=8, temperature=1.0, seed=seed).completions for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert llama.training
    llama.eval()


def test_free_answers_stop_at_the_end_token(llama):
    free = Grammar(((10,), (11,)), constrained=False, end_token=END, max_length=30)
    sampled = SharedPromptEngine(llama, PAD).sample([[1, 2, 3]], free, rollouts=64, temperature=1.5, seed=0)
    ended = [answer for answer in sampled.completions if END in answer]
    assert ended
    assert all(answer.index(END) == len(answer) - 1 for answer in ended)
    assert all(len(answer) == 30 for answer in sampled.completions if END not in answer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "softcapping"),
        ({"attention_dropout": 0.1}, "attention dropout"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic position"),
    ],
)
def test_models_that_would_not_be_computed_exactly_are_refused(llama, monkeypatch, change, message):
    for name, value in change.items():
        monkeypatch.setattr(llama.config, name, value, raising=False)
    with pytest.raises(InputError, match=message):
        SharedPromptEngine(llama, PAD)


def test_the_replicated_engine_takes_sliding_windows():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
    )
    model = Gemma3ForCausalLM(config).eval()
    grammar = letters(5)
    engine = ReplicatedEngine(model, PAD)
    texts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 1, 4]]
    sampled = engine.sample(texts, grammar, rollouts=3, temperature=1.0, seed=0)
    rows = [text for text in texts for _ in range(3)]
    constraints, orders = follow(grammar, sampled.completions, 5)
    assert all(sorted(order) == list(range(5)) for order in orders)
    completions = torch.tensor(sampled.completions)
    with torch.no_grad():
        found, _ = engine.score(rows, completions, constraints, grammar)
        expected, _ = plain_scores(model, rows, completions, constraints, grammar)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(sampled.log_probabilities), found, rtol=1e-4, atol=1e-5)
