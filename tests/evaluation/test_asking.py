import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.evaluation.answers import Answers
from flexrec.evaluation.asking import (
    arranged,
    arrangements,
    ask,
    candidate_columns,
    choose_instances,
    random_rankings,
    rearrange,
)
from flexrec.policy.models import load_base
from flexrec.policy.ranker import Answer, Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting import PromptSettings, parse_answer
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import PromptInstances, Rankings

NEEDS = {
    name: Need.model_validate(
        {"instruction": f"By {name}.", "terms": [{"factors": [{"signal": name}]}], "relevant": {"rule": "top"}}
    )
    for name in ("trend", "recency")
}
SIGNALS = ("similarity", "trend", "popularity", "quality", "recency", "predicted")


def labelled(*sizes: int, split: str = "test", checked: bool = True) -> pd.DataFrame:
    """Instance i with `sizes[i]` candidates 10, 11, ...; every signal tells the candidates apart."""
    rows = []
    for number, size in enumerate(sizes):
        values = np.random.default_rng(number).permutation(size).astype(float)
        rows.append(
            {
                "instance_id": number,
                "user_id": number // 2,
                "split": split,
                "query_time": 1000,
                "history_items": [1, 2],
                "history_engagements": [4.0, 5.0],
                "candidates": list(range(10, 10 + size)),
                "query": "",
                **{name: (values + place).tolist() for place, name in enumerate(SIGNALS)},
                "niche": [place % 2 for place in range(size)],
                "observed_engagement": [float("nan")] * size,
            }
        )
    table = pd.DataFrame(rows)
    return PromptInstances.validate(table) if checked else table


ITEMS = pd.DataFrame(
    {"item_id": range(40), "title": [f"Film {number}" for number in range(40)], "topics": [[] for _ in range(40)]}
)


def gains_of(table: pd.DataFrame, *needs: str) -> pd.DataFrame:
    parts = [table[["instance_id"]].assign(need=need, gains=table[need].to_numpy()) for need in needs]
    return pd.concat(parts, ignore_index=True)


class Scripted:
    """Ranks by a function of the candidates, and writes down what it was shown."""

    def __init__(self, order) -> None:
        self.order, self.shown = order, []

    def rank(self, queries, *, description: str) -> list[Answer]:
        self.shown += [[one.item_id for one in query.instance.candidates] for query in queries]
        return [Answer(self.order(query), (), text=query.need.instruction) for query in queries]


def copies(query) -> tuple[int, ...]:
    return tuple(range(len(query.instance.candidates)))


# --- Which instances ---


def test_a_seeded_part_of_the_test_split() -> None:
    table = pd.concat([labelled(*[3] * 10), labelled(3, 3, split="train")], ignore_index=True)
    table["instance_id"] = range(12)
    chosen = choose_instances(table, count=4, seed=0)
    assert len(chosen) == 4
    assert chosen["instance_id"].is_monotonic_increasing
    assert set(chosen["split"]) == {"test"}
    pd.testing.assert_frame_equal(choose_instances(table, count=4, seed=0), chosen)
    others = {tuple(choose_instances(table, count=4, seed=seed)["instance_id"]) for seed in range(20)}
    assert len(others) > 10
    assert choose_instances(table, count=99, seed=1)["instance_id"].tolist() == list(range(10))


def test_no_test_instance_is_refused() -> None:
    with pytest.raises(InputError, match="no test instance"):
        choose_instances(labelled(3, split="validation"), count=1, seed=0)


# --- Other orders of the same candidates ---


def test_the_aligned_columns_are_those_that_the_schema_holds_to_one_length() -> None:
    table = labelled(4)
    aligned = set()
    lists = [name for name, kind in table.dtypes.items() if str(kind) == "object"]
    for name in lists:
        shorter = table.assign(**{name: pd.Series([table.loc[0, name][:-1]], dtype=object)})
        with pytest.raises(InputError, match="must have the same length") as refused:
            PromptInstances.validate(shorter)
        if "candidates" in str(refused.value):
            aligned.add(name)
    assert set(candidate_columns()) == aligned
    assert len(aligned) == 9


def test_instances_without_predictions_are_rearranged_too() -> None:
    table = labelled(3)
    orders = {0: np.array([2, 0, 1])}
    pd.testing.assert_frame_equal(
        rearrange(table.drop(columns="predicted"), orders), rearrange(table, orders).drop(columns="predicted")
    )


@settings(max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 2**31))
def test_permuting_back_gives_the_same_table(sizes: list[int], seed: int) -> None:
    table = labelled(*sizes, checked=False)
    generator = np.random.default_rng(seed)
    orders = {number: generator.permutation(size) for number, size in enumerate(sizes)}
    there = rearrange(table, orders)
    back = rearrange(there, {number: np.argsort(order) for number, order in orders.items()})
    assert (
        back.map(lambda cell: np.asarray(cell).tolist())
        .map(repr)
        .equals(table.map(lambda cell: np.asarray(cell).tolist()).map(repr))
    )
    if seed % 20 == 0:
        PromptInstances.validate(there)
    # a row's candidates keep what belongs to them, and nothing else changes
    for number, order in orders.items():
        assert there.loc[number, "candidates"].tolist() == [10 + place for place in order]
        for name in ("trend", "predicted"):
            assert there.loc[number, name].tolist() == [table.loc[number, name][place] for place in order]
    untouched = [name for name in table.columns if name not in candidate_columns()]
    pd.testing.assert_frame_equal(there[untouched], table[untouched])


@pytest.mark.parametrize("order", [None, [0, 1], [0, 1, 1], [1, 2, 3]])
def test_an_order_that_is_no_permutation_is_refused(order) -> None:
    orders = {} if order is None else {0: np.array(order)}
    with pytest.raises(InputError, match=r"instance 0: an order of its 3 candidates is a permutation of 0 to 2"):
        rearrange(labelled(3), orders)


def test_the_orders_by_hand() -> None:
    gains = np.array([1.0, 3.0, 1.0, 2.0])
    # equal gains keep the order of the prompt
    assert arranged("ideal", gains, instance_id=5, seed=0).tolist() == [1, 3, 0, 2]
    assert arranged("reversed", gains, instance_id=5, seed=0).tolist() == [2, 0, 3, 1]
    drawn = [tuple(arranged(f"random_{number}", gains, instance_id=5, seed=0)) for number in range(1, 30)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    assert len(set(drawn)) > 10
    # the gains play no part, seed and instance do
    assert tuple(arranged("random_1", -gains, instance_id=5, seed=0)) == drawn[0]
    changed = {tuple(arranged("random_1", gains, instance_id=i, seed=s)) for i in range(6) for s in range(6)}
    assert len(changed) > 10
    assert arrangements(2) == ("ideal", "reversed", "random_1", "random_2")
    for unknown in ("best", "random", "random_x"):
        with pytest.raises(InputError, match=f"arrangement '{unknown}' is unknown"):
            arranged(unknown, gains, instance_id=5, seed=0)


# --- Asking ---


def test_every_need_as_shown_and_the_own_need_in_every_order() -> None:
    table = labelled(4, 5)
    ranker = Scripted(copies)
    answers = ask(
        ranker,
        table,
        ITEMS,
        gains_of(table, "trend"),
        NEEDS,
        rearranged_needs=["trend"],
        random_orders=1,
        method="flexrec",
        seed=0,
    )
    Answers.validate(answers)
    counted = answers.groupby(["need", "arrangement"], sort=False).size().to_dict()
    assert counted == {
        ("trend", "shown"): 2,
        ("recency", "shown"): 2,
        ("trend", "ideal"): 2,
        ("trend", "reversed"): 2,
        ("trend", "random_1"): 2,
    }
    # what was shown is what the table says, and the text belongs to its row
    assert answers["input_order"].tolist() == ranker.shown == answers["ranking"].tolist()
    assert (answers["text"] == "By " + answers["need"] + ".").all()
    trend = {
        number: dict(zip(table.loc[number, "candidates"], table.loc[number, "trend"], strict=True)) for number in (0, 1)
    }
    for arrangement, step in (("ideal", -1), ("reversed", 1)):
        for _, row in answers[answers["arrangement"] == arrangement].iterrows():
            values = [trend[row["instance_id"]][item] for item in row["input_order"]]
            assert values == sorted(values, reverse=step == -1)


def test_a_need_without_gains_cannot_be_rearranged() -> None:
    table = labelled(4)
    options = {"rearranged_needs": ["recency"], "random_orders": 0, "method": "m", "seed": 0}
    with pytest.raises(InputError, match="gains: instance 0 has none for the need 'recency'"):
        ask(Scripted(copies), table, ITEMS, gains_of(table, "trend"), NEEDS, **options)


@pytest.mark.parametrize("reasoning", [False, True])
def test_a_model_s_text_says_what_its_ranking_is(tiny_folder, smollm2_tokenizer, reasoning) -> None:
    layout = PromptSettings(
        line="{title}, {signals}: {id}", signals={"trend": "count"}, history_line="{title}", reasoning=reasoning
    )
    ranker = Ranker(load_base(tiny_folder), smollm2_tokenizer, layout, DecodingSettings(max_reasoning_tokens=6))
    table = labelled(4, 4, 4)
    options = {"rearranged_needs": [], "random_orders": 0, "method": "m", "seed": 0}
    answers = Answers.validate(ask(ranker, table, ITEMS, gains_of(table, "trend"), NEEDS, **options))
    assert len(answers) == 6
    for _, row in answers.iterrows():
        read = parse_answer(row["text"], 4, layout)
        assert [row["input_order"][place] for place in read.order] == list(row["ranking"])
        assert (read.invalid, read.repeated, read.missing) == (0, 0, 0)
        assert ("</think>" in row["text"] and row["text"].endswith("</answer>")) == reasoning


def test_random_rankings_are_rankings_for_every_need() -> None:
    table = labelled(*[6] * 400)
    rankings = Rankings.validate(random_rankings(table, ["trend", "recency"], seed=0))
    assert rankings.groupby("need").size().to_dict() == {"recency": 400, "trend": 400}
    first = rankings["ranking"].map(lambda ranking: int(ranking[0]))[:400].value_counts()
    # 66.7 expected each, with a standard deviation of 7.5
    assert len(first) == 6
    assert first.between(36, 97).all()
