import numpy as np
import pandas as pd
import pytest

from flexrec.evaluation.llm import llm_rankings
from flexrec.policy.ranker import Answer
from flexrec.ranking.metrics import kendall_tau
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import Rankings

NEEDS = {
    name: Need.model_validate(
        {"instruction": name, "terms": [{"factors": [{"signal": "trend"}]}], "relevant": {"rule": "top"}}
    )
    for name in ("trend", "other")
}
ITEMS = pd.DataFrame({"item_id": [10, 20, 30, 40], "title": list("abcd"), "topics": [[], [], ["x"], []]})
SIGNALS = ("similarity", "niche", "trend", "popularity", "quality", "recency")


def labelled(*ids: int) -> pd.DataFrame:
    rows = [
        {
            "instance_id": number,
            "user_id": 7,
            "query_time": 1000,
            "query": "",
            "history_items": [40],
            "history_engagements": [4.0],
            "candidates": [30, 10, 20],
            **{name: [0.0, 1.0, 2.0] for name in SIGNALS},
        }
        for number in ids
    ]
    return pd.DataFrame(rows)


class Scripted:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), []

    def rank(self, queries, *, description: str) -> list[Answer]:
        self.asked += [(description, query.need.instruction, query.instance.instance_id) for query in queries]
        return [self.answers.pop(0) for _ in queries]


def rankings(ranker: Scripted, *ids: int, needs=("trend",), seed: int = 0) -> pd.DataFrame:
    chosen = {name: NEEDS[name] for name in needs}
    table = llm_rankings(ranker, labelled(*ids), ITEMS, chosen, method="warmed_up", seed=seed)
    return Rankings.validate(table)


def test_whole_answers_by_hand() -> None:
    table = rankings(Scripted(Answer((2, 0, 1), ()), Answer((0, 1, 2), ())), 5, 9)
    assert table["instance_id"].tolist() == [5, 9]
    # candidates 30, 10, 20 in the prompt: index 2 is item 20
    assert table["ranking"].tolist() == [[20, 30, 10], [30, 10, 20]]
    assert table["input_order"].tolist() == [[30, 10, 20]] * 2
    assert set(table["method"]) == {"warmed_up"}
    assert table[["invalid", "repeated", "missing"]].to_numpy().max() == 0


def test_what_an_answer_leaves_out_comes_last_and_is_counted() -> None:
    table = rankings(Scripted(Answer((1,), (), invalid=4, repeated=3, missing=2)), 5)
    (row,) = table.to_dict("records")
    assert row["ranking"][0] == 10
    assert sorted(row["ranking"]) == [10, 20, 30]
    assert (row["invalid"], row["repeated"], row["missing"]) == (4, 3, 2)


def test_the_rest_is_in_random_order_by_instance_and_seed() -> None:
    def orders(*ids: int, seed: int = 0) -> list[tuple[int, ...]]:
        silent = Scripted(*[Answer((), (), missing=3)] * len(ids))
        return [tuple(row) for row in rankings(silent, *ids, seed=seed)["ranking"]]

    many = orders(*range(600))
    counts = pd.Series(many).value_counts()
    # six orders, 100 of each expected; the standard deviation is 9.1
    assert len(counts) == 6
    assert counts.between(60, 140).all()
    # an instance keeps its order whatever else is ranked
    assert orders(17, 4) == [many[17], many[4]]
    assert orders(*range(20), seed=1) != many[:20]


def test_a_silent_model_does_not_get_the_retrievers_order() -> None:
    """What comes of an answer without any identifier has nothing to do with the order before the shuffle."""
    K, count = 10, 400
    # as `label_signals` shuffles: candidate n is the retriever's n-th
    shown = [np.random.default_rng([0, number]).permutation(K).tolist() for number in range(count)]
    table = pd.concat([labelled(number) for number in range(count)], ignore_index=True)
    table["candidates"] = shown
    for name in SIGNALS:
        table[name] = [[0.0] * K] * count
    items = pd.DataFrame({"item_id": [*range(K), 40], "title": ["a"] * (K + 1), "topics": [[]] * (K + 1)})
    silent = Scripted(*[Answer((), (), missing=K)] * count)
    made = llm_rankings(silent, table, items, {"trend": NEEDS["trend"]}, method="warmed_up", seed=0)
    taus = kendall_tau(np.stack(made["ranking"]), np.tile(np.arange(K), (count, 1)))
    # of random orders the standard deviation is .25, that of the mean .012; twice the same shuffle has .09
    assert abs(taus.mean()) < 0.05


def test_every_need_asks_anew() -> None:
    ranker = Scripted(*[Answer(tuple(np.roll(range(3), shift).tolist()), ()) for shift in range(4)])
    table = rankings(ranker, 1, 2, needs=("trend", "other"))
    assert list(zip(table["need"], table["instance_id"], strict=True)) == [
        ("trend", 1),
        ("trend", 2),
        ("other", 1),
        ("other", 2),
    ]
    assert ranker.asked == [
        ("warmed_up ranks for trend", "trend", 1),
        ("warmed_up ranks for trend", "trend", 2),
        ("warmed_up ranks for other", "other", 1),
        ("warmed_up ranks for other", "other", 2),
    ]


def test_an_impossible_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at most once"):
        rankings(Scripted(Answer((1, 1), ())), 5)
