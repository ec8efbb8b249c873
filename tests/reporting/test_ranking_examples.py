import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.reporting.examples import select_examples

CHANGES = [0.1, -0.5, 0.4, 0.0]
INSTANCES = pd.DataFrame(
    {
        "instance_id": range(4),
        "user_id": range(4),
        "split": "test",
        "query_time": 100,
        "query": "",
        "history_items": [[9, 8]] * 4,
        "history_engagements": [[1.0, 5.0]] * 4,
        "candidates": [[1, 2, 3]] * 4,
        **{
            name: [[0.1, 0.2, 0.3]] * 4 for name in ("similarity", "niche", "trend", "popularity", "quality", "recency")
        },
    }
)
ITEMS = pd.DataFrame({"item_id": range(10), "title": [f"T{n}" for n in range(10)], "topics": [["Drama"]] * 10})
GAINS = pd.DataFrame({"instance_id": range(4), "need": "trend", "gains": [[5.0, 0.0, 2.0]] * 4})
METRICS = pd.DataFrame(
    [
        {"method": method, "need": "trend", "instance_id": instance, "ndcg_at_5": 0.5 + change * (method == "after")}
        for instance, change in enumerate(CHANGES)
        for method in ("before", "after")
    ]
)
RANKINGS = METRICS.assign(ranking=[[3, 2, 1], [1, 3, 2]] * 4)


def select(count: int, metrics: pd.DataFrame = METRICS, methods: tuple[str, ...] = ("before", "after")) -> list:
    return select_examples(RANKINGS, metrics, INSTANCES, ITEMS, GAINS, need="trend", methods=methods, count=count)


def test_from_the_largest_gain_to_the_largest_loss():
    # changes sorted: instance 2 (0.4), 0 (0.1), 3 (0), 1 (-0.5)
    assert [one.instance_id for one in select(4)] == [2, 0, 3, 1]
    assert [one.instance_id for one in select(2)] == [2, 1]
    assert [one.instance_id for one in select(1)] == [2]
    assert [one.instance_id for one in select(9)] == [2, 0, 3, 1]
    assert select(0) == []


def test_an_example_holds_prompt_orders_and_gains():
    (example,) = select(1)
    assert example.history == (("T9", 1.0), ("T8", 5.0))
    assert [(one.item_id, one.title, one.topics, one.gain) for one in example.candidates] == [
        (1, "T1", ("Drama",), 5.0),
        (2, "T2", ("Drama",), 0.0),
        (3, "T3", ("Drama",), 2.0),
    ]
    assert example.candidates[1].signals["trend"] == 0.2
    assert example.orders == {"before": (3, 2, 1), "after": (1, 3, 2)}
    assert example.ndcg_at_5 == {"before": 0.5, "after": 0.9}


def test_only_instances_that_every_method_ranked():
    incomplete = METRICS[(METRICS["instance_id"] != 2) | (METRICS["method"] != "before")]
    assert [one.instance_id for one in select(9, incomplete)] == [0, 3, 1]
    assert select(4, methods=("before", "never")) == []


@pytest.mark.parametrize(("count", "methods"), [(4, ("after",)), (-1, ("before", "after"))])
def test_refuses_what_cannot_be_compared(count, methods):
    with pytest.raises(InputError, match="at least two methods"):
        select(count, methods=methods)
