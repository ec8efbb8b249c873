"""Supervised fine-tuning at the budget of RL: what it learns from, what it costs, and that a kill changes nothing."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.policy.grammar import Cursor, Kind, follow
from flexrec.policy.models import load_base, load_tokenizer
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Factor, Need, Term
from flexrec.rl.examples import Example, instructive, optimal_order, shortened
from flexrec.rl.fine_tuning import fine_tune, lists_of_equal_tokens
from flexrec.rl.settings import RlSettings, SftMethodSettings, WarmUpSettings
from flexrec.rl.warm_up import ListTrainer, Update, add_adapter, lessons, target_tokens, updates, warm_up

ROOT = Path(__file__).parents[2]
K = 4
NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)
HISTORY = (HistoryItem(90, "Seen before", ("Drama",), 4.0),)
PROMPT = PromptSettings(line="{title}, {signals}: {id}", signals={"trend": "word"}, history_line="{title}")
ADAPTER = AdapterSettings(rank=4, alpha=8, dropout=0.3, targets=("q_proj", "v_proj"))
RL = RlSettings(steps=3, prompts_per_step=2, rollouts=3, validate_every=2, validation_queries=2, save_every=1)
WARM_UP = WarmUpSettings(steps=2, lists_per_step=1)


def example(number: int, gains: list[float] | None = None) -> Example:
    trend = np.random.default_rng(number).permutation(K).astype(float) if gains is None else np.array(gains)
    candidates = tuple(
        Candidate(item, f"Film {number} {item}", ("Drama",), {"trend": value, "similarity": 0.5, "niche": 0.0})
        for item, value in enumerate(trend)
    )
    return Example(
        Query(Instance(number, number, 1000, HISTORY, candidates), NEED), "trend", trend, np.zeros(len(trend))
    )


@pytest.fixture
def ranker(tiny_folder) -> Ranker:
    model = add_adapter(load_base(tiny_folder), ADAPTER, seed=0)
    return Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())


def tuned(ranker: Ranker, folder, **method: object) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    curves = fine_tune(
        ranker,
        [example(number) for number in range(6)],
        [example(number) for number in (10, 11)],
        method=SftMethodSettings.model_validate({"algorithm": "sft", "learning_rate": 1e-2, **method}),
        settings=RL,
        warm_up=WARM_UP,
        work_folder=folder,
        seed=1,
    )
    return {name: p.detach().clone() for name, p in ranker.model.named_parameters() if "lora" in name}, curves


def values(curves: pd.DataFrame, metric: str) -> dict[int, float]:
    rows = curves[curves["metric"] == metric]
    return dict(zip(rows["step"], rows["value"], strict=True))


# --- The budget ---


def test_lists_of_equal_tokens_by_hand() -> None:
    # RL learns from 4 * (350 + 8 * 10) = 1720 tokens, a list has 360: 4.8 of them, rounded up
    assert lists_of_equal_tokens(350, 10, prompts=4, rollouts=8) == 5
    # 32 * (1500 + 8 * 30) = 55680 of 1530: 36.4
    assert lists_of_equal_tokens(1500, 30, prompts=32, rollouts=8) == 37
    # where prompts cost nothing every answer is one
    assert lists_of_equal_tokens(0, 10, prompts=4, rollouts=8) == 32


def test_the_updates_and_tokens_of_the_others(ranker, tmp_path) -> None:
    prompts = [len(ranker.prompt(example(number).query)) for number in range(6)]
    size = lists_of_equal_tokens(np.mean(prompts), K, prompts=2, rollouts=3)
    _, curves = tuned(ranker, tmp_path)
    assert values(curves, "cost/updates") == {1: 1, 2: 2, 3: 3}
    assert values(curves, "cost/prompts") == {step: step * size for step in (1, 2, 3)}
    assert values(curves, "cost/answer_tokens")[3] == 3 * size * K
    learned = values(curves, "cost/prompt_tokens")[3] + values(curves, "cost/answer_tokens")[3]
    by_rl = 3 * 2 * (np.mean(prompts) + 3 * K)
    assert by_rl <= learned < by_rl + 3 * (max(prompts) + K)
    assert values(curves, "cost/rollouts") == {1: 0, 2: 0, 3: 0}


def test_an_adapter_of_its_own_makes_up_for_the_warm_up(ranker, tmp_path) -> None:
    _, curves = tuned(ranker, tmp_path, adapter=ADAPTER.model_dump(), lists_per_step=3)
    # two updates of one list, which the others have made before, then three of three
    assert values(curves, "cost/prompts") == {1: 0, 2: 0, 3: 3, 4: 6, 5: 9}
    assert values(curves, "cost/updates") == {1: 0, 2: 0, 3: 1, 4: 2, 5: 3}
    assert list(values(curves, "validation/ndcg_at_5")) == [0, 2, 4, 5]


def test_going_on_with_the_warm_up_has_the_rate_of_rl(tiny_folder, tmp_path) -> None:
    """Whatever an environment sets it to: what RL is compared with may not differ in it."""
    entry = yaml.safe_load((ROOT / "conf" / "base" / "methods.yml").read_text())["methods"]["sft"]
    kept = []
    for name, method in (("entry", entry), ("by hand", {"algorithm": "sft", "learning_rate": 1e-3})):
        model = add_adapter(load_base(tiny_folder), ADAPTER, seed=0)
        fine_tune(
            Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings()),
            [example(number) for number in range(4)],
            [],
            method=SftMethodSettings.model_validate(method),
            settings=RL.model_copy(update={"learning_rate": 1e-3}),
            warm_up=WARM_UP,
            work_folder=tmp_path / name,
            seed=1,
        )
        kept.append({name: p.detach().clone() for name, p in model.named_parameters() if "lora" in name})
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_every_example_comes_once_before_any_comes_twice(ranker) -> None:
    examples = [example(number) for number in range(6)]
    updates = lessons(ranker, examples, [Update(size, K) for size in (1, 2, 5, 6)], seed=3)
    assert [len(update) for update in updates] == [1, 2, 5, 6]
    prompts = [ranker.prompt(one.query) for one in examples]
    order = [prompts.index(lesson.prompt) for update in updates for lesson in update]
    assert sorted(order[:6]) == sorted(order[6:12]) == list(range(6))
    assert order[:6] != order[6:12]
    assert [lesson for update in lessons(ranker, examples, [Update(6, K)], seed=3) for lesson in update] == [
        lesson for update in updates[:3] for lesson in update
    ][:6]


# --- Short lists first ---


def test_lists_grow_from_the_shortest_to_all_over_their_share_of_the_steps() -> None:
    growing = WarmUpSettings(steps=10, lists_per_step=4, shortest=3, growing=0.6)
    # six steps from 3 towards 9, a candidate more in each, then all of them
    assert updates(growing, 9) == [Update(4, count) for count in (3, 4, 5, 6, 7, 8, 9, 9, 9, 9)]
    assert [update.count for update in updates(growing, 6)] == [3, 3, 4, 4, 5, 5, 6, 6, 6, 6]
    # no instance has fewer candidates than itself
    assert [update.count for update in updates(growing, 2)] == [2] * 10
    assert updates(growing.model_copy(update={"growing": 0.0}), 9) == [Update(4, 9)] * 10


@given(
    gains=st.lists(st.integers(0, 3), min_size=3, max_size=12).filter(lambda gains: len(set(gains)) > 1),
    count=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_a_short_list_has_something_to_choose_and_says_nothing_else(gains: list[int], count: int, seed: int) -> None:
    whole = example(0, [float(gain) for gain in gains])
    short = shortened(whole, count, np.random.default_rng(seed))
    if count >= len(gains):
        assert short is whole
        return
    candidates = short.query.instance.candidates
    assert len(candidates) == len(short.gains) == len(short.variances) == count
    assert short.gains.max() == max(gains) > short.gains.min()
    # each candidate with its own gain, and all in the order that they had
    assert [whole.gains[candidate.item_id] for candidate in candidates] == short.gains.tolist()
    places = [candidate.item_id for candidate in candidates]
    assert places == sorted(set(places))
    assert replace(short.query.instance, candidates=whole.query.instance.candidates) == whole.query.instance


def test_short_lists_are_of_the_same_examples_in_the_same_order(ranker) -> None:
    examples = [example(number) for number in range(6)]
    whole = lessons(ranker, examples, [Update(2, K)] * 3, seed=3)
    short = lessons(ranker, examples, [Update(2, 2), Update(2, 3), Update(2, K)], seed=3)
    titles = [ranker.tokenizer.decode(lesson.prompt) for update in whole for lesson in update]
    for number, lesson in enumerate(lesson for update in short for lesson in update):
        count = 2 + number // 2
        text = ranker.tokenizer.decode(lesson.prompt)
        lines = [line.rsplit(":", 1)[0] for line in text.splitlines() if "Film " in line]
        assert len(lines) == lesson.count == count == len(lesson.answer)
        # the identifiers are those of a list of that length
        assert sorted(lesson.answer) == sorted(name for names in ranker.grammar(count).identifiers for name in names)
        assert {line.split(",")[0] for line in lines} <= {
            line.split(",")[0] for line in titles[number].splitlines() if "Film " in line
        }
    assert short[2] == whole[2]


def test_short_lists_are_learnt(ranker, tmp_path) -> None:
    curve = warm_up(
        ranker,
        [example(0), example(1)],
        settings=WarmUpSettings(steps=80, lists_per_step=2, learning_rate=1e-2, shortest=2, growing=0.2),
        work_folder=tmp_path,
        seed=0,
    )
    # at first there are two to order, about ln 2 / 2 = .35; four would be .79
    assert curve["value"].iloc[0] < 0.5
    assert curve["value"].iloc[-1] < 0.5 * np.log(24) / 4


# --- What is learned ---


def test_equal_gains_are_in_any_order() -> None:
    rng = np.random.default_rng(0)
    orders = [optimal_order(np.array([0.0, 5.0, 0.0, 1.0]), rng) for _ in range(50)]
    assert set(orders) == {(1, 3, 0, 2), (1, 3, 2, 0)}


def test_lists_that_teach_nothing_are_left_out(caplog) -> None:
    examples = [example(0), example(1, [0.0] * K), example(2, [2.0] * K), example(3, [0.0, 0.0, 1.0, 0.0])]
    with caplog.at_level(logging.INFO, logger="flexrec"):
        assert instructive(examples) == [examples[0], examples[3]]
    assert caplog.messages == ["2 of 4 training prompts are left out: all of their candidates have the same gain"]
    with pytest.raises(InputError, match=r"none of 2 training instances .* no signal of the need tells .* apart"):
        instructive(examples[1:3])
    of_labels = NEED.model_copy(update={"terms": (Term(factors=(Factor(signal="engagement"),)),)})
    unlabelled = [replace(one, query=replace(one.query, need=of_labels)) for one in examples[1:3]]
    with pytest.raises(InputError, match=r"none of 2 training instances .* `gains: critic`"):
        instructive(unlabelled)


def test_lists_shorter_than_the_longest_are_left_out(caplog) -> None:
    examples = [example(0), example(1, [0.0, 1.0]), example(2), example(3, [2.0] * (K + 1))]
    with caplog.at_level(logging.INFO, logger="flexrec"):
        assert instructive(examples) == [examples[0], examples[2]]
    # the longest that teaches something
    assert caplog.messages[1:] == [
        "1 of 4 training prompts are left out: they have fewer than 4 candidates, and a step needs one number"
    ]


def test_it_learns_the_optimal_lists(tiny_folder, tmp_path) -> None:
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=8, alpha=16), seed=0)
    ranker = Ranker(model, load_tokenizer(tiny_folder), PROMPT, DecodingSettings())
    examples = [example(0), example(1)]
    curves = fine_tune(
        ranker,
        examples,
        examples,
        method=SftMethodSettings(algorithm="sft", learning_rate=1e-2, lists_per_step=2),
        settings=RL.model_copy(update={"steps": 12}),
        warm_up=WARM_UP,
        work_folder=tmp_path,
        seed=0,
    )
    loss, found = values(curves, "loss"), values(curves, "validation/ndcg_at_5")
    # untrained, the loss is about that of a random order: (ln 4 + ln 3 + ln 2 + ln 1) / 4 = .79
    assert loss[1] == pytest.approx(np.log(24) / 4, abs=0.2)
    assert loss[12] < 0.5 * loss[1]
    assert found[12] > found[0]
    assert {"gradient_norm", "validation/ndcg_at_5/trend"} <= set(curves["metric"])


# --- The target ---

EMPTY = "<think></think>"


def of_form(ranker: Ranker, *, identifiers: str = "letters", reasoning: bool = True, **decoding: object) -> Ranker:
    """The same policy with another form of answers."""
    prompt = PROMPT.model_copy(update={"identifiers": identifiers, "reasoning": reasoning})
    return Ranker(ranker.model, ranker.tokenizer, prompt, DecodingSettings.model_validate(decoding))


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("identifiers", ["letters", "numbers"])
@pytest.mark.parametrize("order", [(2, 0, 1), (10, 3, 11, 0, 9, 1, 8, 2, 7, 4, 6, 5)])
def test_a_target_is_an_answer_of_the_policy(ranker, identifiers, constrained, reasoning, order) -> None:
    ranker = of_form(ranker, identifiers=identifiers, reasoning=reasoning, constrained=constrained)
    grammar = ranker.grammar(len(order))
    tokens = target_tokens(ranker, order)
    names = [f" {chr(65 + index)}" if identifiers == "letters" else f"{index + 1}," for index in order]
    said = "".join(names)
    text = f"{EMPTY}<answer>{said}</answer>" if reasoning else said
    assert ranker.text(tokens) == text

    constraints, orders = follow(grammar, [tokens], len(tokens))
    kinds, ranks = constraints.kind[0], constraints.rank[0]
    if constrained:
        assert orders == [list(order)]
        # the reasoning is free, tags behind it are forced, and every token of an identifier is a choice
        lengths = [len(grammar.identifiers[index]) for index in order]
        before, after = (6, 3, 3)[: 3 * reasoning] or (0, 0), 3 * reasoning
        expected = [Kind.FREE] * before[0] + [Kind.FORCED] * before[1] + [Kind.CHOICE] * sum(lengths)
        assert kinds.tolist() == [*expected, *([Kind.FORCED] * after)]
        chosen = kinds == Kind.CHOICE
        assert ranks[chosen].tolist() == np.repeat(np.arange(len(order)), lengths).tolist()
        assert (ranks[~chosen] == -1).all()
        columns = [grammar.column[token] for token in np.array(tokens)[chosen]]
        assert constraints.allowed[0, chosen, columns].all()
        # with all of it the answer is complete, and not before
        cursor = Cursor(grammar)
        for token in tokens:
            assert cursor.kind is not Kind.DONE
            cursor.advance(token)
        assert cursor.kind is Kind.DONE
    else:
        assert (kinds == Kind.FREE).all()
        assert tokens[-1] == grammar.end_token
        assert grammar.end_token not in tokens[:-1]
    answer = ranker.read(tokens, len(order))
    assert (answer.order, answer.invalid, answer.repeated, answer.missing) == (order, 0, 0, 0)


@pytest.mark.parametrize("budget", [1, 3, 5, 6, 7])
def test_a_budget_shorter_than_the_tags_closes_the_reasoning(ranker, budget) -> None:
    ranker = of_form(ranker, max_reasoning_tokens=budget)
    tokens = target_tokens(ranker, (2, 0, 1))
    constraints, orders = follow(ranker.grammar(3), [tokens], len(tokens))
    assert orders == [[2, 0, 1]]
    assert (constraints.kind[0] == Kind.FREE).sum() == min(budget, 6)
    assert ranker.text(tokens).endswith("</think><answer> C A B</answer>")


@pytest.mark.parametrize("constrained", [False, True])
def test_with_reasoning_the_list_is_learnt_behind_an_empty_one(ranker, tiny_folder, tmp_path, constrained) -> None:
    # all weights: what an adapter of four ranks can make of random layers cannot point at single tokens
    model = add_adapter(load_base(tiny_folder), AdapterSettings(kind="full"), seed=0)
    ranker = of_form(
        Ranker(model, ranker.tokenizer, PROMPT),
        constrained=constrained,
        max_reasoning_tokens=12,
        max_answer_tokens=24,
    )
    examples = [example(0), example(1)]
    settings = WarmUpSettings(steps=40, lists_per_step=2, learning_rate=1e-2)
    loss = warm_up(ranker, examples, settings=settings, work_folder=tmp_path, seed=0)["value"]
    vocabulary = len(ranker.tokenizer)
    # untrained: any token of the vocabulary where the answer is free, any candidate that remains where it is a choice
    free = 6 * np.log(vocabulary) + np.log(24)
    untrained = free / (6 + K) if constrained else np.log(vocabulary)
    assert loss.iloc[0] == pytest.approx(untrained, rel=0.05)
    assert loss.iloc[-1] < 0.2 * loss.iloc[0]
    answers = ranker.rank([one.query for one in examples])
    assert all(answer.text.startswith(f"{EMPTY}<answer>") for answer in answers)
    assert [answer.order for answer in answers] == [tuple(np.argsort(-one.gains)) for one in examples]


def test_fine_tuning_with_reasoning(ranker, tmp_path) -> None:
    ranker = of_form(ranker, max_reasoning_tokens=8)
    _, curves = tuned(ranker, tmp_path)
    prompts = [len(ranker.prompt(example(number).query)) for number in range(6)]
    # six tokens of the empty reasoning, three of each of the two tags around the list
    length = 6 + 3 + K + 3
    size = lists_of_equal_tokens(np.mean(prompts), length, prompts=2, rollouts=3)
    assert values(curves, "cost/answer_tokens") == {step: step * size * length for step in (1, 2, 3)}
    loss = values(curves, "loss")
    assert loss[3] < loss[1]
    assert list(values(curves, "validation/ndcg_at_5")) == [0, 2, 3]


# --- Kills ---


class _KilledError(Exception):
    pass


def test_a_killed_training_ends_with_the_same_weights_and_curves(ranker, tiny_folder, tmp_path, monkeypatch) -> None:
    def fresh() -> Ranker:
        model = add_adapter(load_base(tiny_folder), ADAPTER, seed=0)
        return Ranker(model, ranker.tokenizer, PROMPT, DecodingSettings())

    weights, curves = tuned(ranker, tmp_path / "whole", adapter=ADAPTER.model_dump())
    torch.manual_seed(99)
    again, _ = tuned(fresh(), tmp_path / "again", adapter=ADAPTER.model_dump())
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    compute_loss = ListTrainer.compute_loss

    def dying(self, *arguments, **options):
        if self.state.global_step == 3:
            raise _KilledError
        return compute_loss(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ListTrainer, "compute_loss", dying)
        with pytest.raises(_KilledError):
            tuned(fresh(), tmp_path / "killed", adapter=ADAPTER.model_dump())
    torch.manual_seed(5)
    made = []

    def counting(self, *arguments, **options):
        made.append(self.state.global_step)
        return compute_loss(self, *arguments, **options)

    monkeypatch.setattr(ListTrainer, "compute_loss", counting)
    resumed, curves_resumed = tuned(fresh(), tmp_path / "killed", adapter=ADAPTER.model_dump())
    assert made == [3, 4]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    pd.testing.assert_frame_equal(curves, curves_resumed)


def test_dropout_does_something(ranker, tmp_path) -> None:
    """Otherwise the test above would say nothing of it."""
    trainer = ListTrainer(
        ranker,
        lessons(ranker, [example(0)], [Update(1, K)] * 2, seed=0),
        learning_rate=1e-2,
        work_folder=tmp_path,
        seed=0,
        callbacks=[],
    )
    for name, weight in ranker.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    ranker.model.train()
    batch = trainer._collate([trainer.train_dataset[0]])
    first = trainer.compute_loss(ranker.model, batch)
    assert torch.equal(first, trainer.compute_loss(ranker.model, batch))
    trainer.state.global_step = 1
    assert not torch.equal(first, trainer.compute_loss(ranker.model, batch))
