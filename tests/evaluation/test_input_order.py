import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.evaluation.asking import ask
from flexrec.evaluation.input_order import input_order_metrics, input_order_summary
from flexrec.policy.ranker import Answer
from flexrec.ranking.needs import Need

NEED = Need.model_validate(
    {"instruction": "x", "terms": [{"factors": [{"signal": "trend"}]}], "relevant": {"rule": "top"}}
)
K = 6


def scores(method: str = "m", **arrangements: list[float]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "method": method,
                    "need": "trend",
                    "arrangement": name,
                    "instance_id": range(len(values)),
                    "user_id": range(len(values)),
                    "ndcg_at_5": values,
                    "kendall_tau": [0.1 * place for place in range(len(values))],
                }
            )
            for name, values in arrangements.items()
        ],
        ignore_index=True,
    )


def test_changes_by_hand() -> None:
    table = scores(shown=[0.5, 0.4], random_1=[0.7, 0.4], ideal=[1.0, 0.4], reversed=[0.3, 0.2])
    summary = input_order_summary(table, seed=0).set_index("arrangement")
    assert list(summary.index) == ["random", "ideal", "reversed"]
    # random orders: (.5 + .7) / 2 = .6 and .4
    assert summary["mean"].tolist() == pytest.approx([0.5, 0.7, 0.25])
    # paired: 1 - .6 and 0; .3 - .6 and .2 - .4
    assert summary["change"].tolist()[1:] == pytest.approx([0.2, -0.25])
    assert summary.loc["reversed", ["change_low", "change_high"]].tolist() == pytest.approx([-0.3, -0.2])
    assert summary.loc["random", ["change", "p", "p_holm"]].isna().all()
    # of the four sign patterns all reach |.4|; two reach |-.5|
    assert summary["p"].tolist()[1:] == [1.0, 0.5]
    assert summary["p_holm"].tolist()[1:] == [1.0, 1.0]
    # largest minus smallest of an instance's random orders: .2 and 0
    assert summary.loc["random", "spread"] == pytest.approx(0.1)
    assert summary["tau"].tolist() == pytest.approx([0.05] * 3)
    assert (summary[["n", "users"]] == 2).all(axis=None)


def test_the_prompts_own_order_is_enough() -> None:
    summary = input_order_summary(scores(shown=[0.5], ideal=[0.9], reversed=[0.1]), seed=0)
    assert summary["change"].tolist()[1:] == pytest.approx([0.4, -0.4])
    # one user has no interval, one order no spread
    assert summary[["low", "high", "change_low", "spread"]].isna().all(axis=None)


def test_an_instance_that_was_not_asked_in_every_order_is_refused() -> None:
    table = scores(shown=[0.5, 0.4], ideal=[1.0, 0.4], reversed=[0.3, 0.2])
    for lacking in (table.iloc[:-1], table[table["arrangement"] != "ideal"]):
        with pytest.raises(InputError, match="'m' was not asked about every instance in every order for need 'trend'"):
            input_order_summary(lacking, seed=0)


class Scripted:
    def __init__(self, order) -> None:
        self.order = order

    def rank(self, queries, *, description: str) -> list[Answer]:
        return [Answer(self.order(query.instance.candidates), ()) for query in queries]


def copies(candidates) -> tuple[int, ...]:
    return tuple(range(len(candidates)))


def knows(candidates) -> tuple[int, ...]:
    return tuple(np.argsort([-one.signals["trend"] for one in candidates]).tolist())


def test_a_copier_and_one_that_knows() -> None:
    """Through the whole chain: a model that copies its input has tau 1 everywhere, one that knows does not change."""
    generator = np.random.default_rng(0)
    signals = {
        name: [generator.permutation(K).astype(float).tolist() for _ in range(8)]
        for name in ("similarity", "trend", "popularity", "quality", "recency")
    }
    labelled = pd.DataFrame(
        {
            "instance_id": range(8),
            "user_id": range(8),
            "split": "test",
            "query_time": 1000,
            "query": "",
            "history_items": [[]] * 8,
            "history_engagements": [[]] * 8,
            "candidates": [list(range(K))] * 8,
            **signals,
            "niche": [[0] * K] * 8,
            "observed_engagement": [[float("nan")] * K] * 8,
        }
    )
    items = pd.DataFrame({"item_id": range(K), "title": ["t"] * K, "topics": [[]] * K})
    labels = pd.DataFrame({"instance_id": range(8), "engagement": [[1.0] * K] * 8})
    gains = labelled[["instance_id"]].assign(need="trend", gains=signals["trend"])
    answers = pd.concat(
        [
            ask(
                Scripted(order),
                labelled,
                items,
                gains,
                {"trend": NEED, "other": NEED},
                rearranged_needs=["trend"],
                random_orders=2,
                method=order.__name__,
                seed=0,
            )
            for order in (copies, knows)
        ],
        ignore_index=True,
    )
    metrics = input_order_metrics(answers, labelled, labels, {"trend": NEED}, kind="linear", threshold=1.0)
    # the prompt's own order and four others, of the one need
    assert metrics.groupby(["method", "arrangement"]).size().eq(8).all()
    assert len(metrics) == 2 * 5 * 8
    assert set(metrics["need"]) == {"trend"}
    rows = input_order_summary(metrics, resamples=200, permutations=200, seed=0).set_index(["method", "arrangement"])
    assert rows.loc["copies", "tau"].tolist() == [1, 1, 1]
    assert rows.loc[("copies", "ideal"), "mean"] == 1
    assert rows.loc[("copies", "reversed"), "change"] < 0 < rows.loc[("copies", "ideal"), "change"]
    assert rows.loc[("copies", "random"), "spread"] > 0
    assert rows.loc["knows", "mean"].tolist() == [1, 1, 1]
    assert rows.loc["knows", "change"].tolist()[1:] == [0, 0]
    assert rows.loc["knows", "tau"].tolist()[1:] == [1, -1]
    assert abs(rows.loc[("knows", "random"), "tau"]) < 0.5
    assert rows.loc[("knows", "random"), "spread"] == 0
