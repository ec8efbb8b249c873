import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.evaluation import evaluate_rankings, true_gains
from flexrec.evaluation.names import METRICS
from flexrec.ranking.needs import Factor, Need, Term, TopRelevance
from flexrec.ranking.schemas import Gains, InstanceMetrics

D2 = 1 / np.log2(3)

NEEDS = {
    "interest": Need(
        instruction="What the user enjoys",
        terms=(Term(factors=(Factor(signal="engagement"),)),),
        relevant={"rule": "engagement"},
    ),
    "trend": Need(
        instruction="What is watched now",
        terms=(Term(factors=(Factor(signal="trend"),)),),
        relevant=TopRelevance(count=1),
    ),
}


def instance(instance_id: int, user_id: int, candidates: list[int], split: str = "test") -> dict:
    signals = {name: [0.5] * len(candidates) for name in ("similarity", "niche", "popularity", "quality", "recency")}
    return {
        "instance_id": instance_id,
        "user_id": user_id,
        "split": split,
        "candidates": candidates,
        "query": "",
        "trend": [0, 4, 2, 1][: len(candidates)],
        **signals,
    }


LABELLED = pd.DataFrame(
    [
        instance(3, 20, [7, 8, 9], "validation"),
        instance(1, 10, [1, 2, 3]),
        instance(2, 10, [4, 5, 6]),
        instance(4, 30, [1, 2, 3], "train"),
    ]
)
LABELS = pd.DataFrame({"instance_id": [1, 2, 3], "engagement": [[5.0, 1.0, 3.0], [1.0, 1.0, 2.0], [2.0, 5.0, 5.0]]})


def ranking(method: str, need: str, instance_id: int, order: list[int], **counts: int) -> dict:
    candidates = LABELLED.set_index("instance_id")["candidates"]
    return {
        "method": method,
        "need": need,
        "instance_id": instance_id,
        "ranking": order,
        "input_order": candidates.get(instance_id, order),
        **{"invalid": 0, "repeated": 0, "missing": 0, **counts},
    }


SEVEN = pd.DataFrame(
    [
        ranking("a", "interest", 1, [1, 3, 2]),
        ranking("b", "interest", 1, [2, 3, 1], invalid=1, repeated=2, missing=3),
        ranking("a", "interest", 2, [4, 5, 6]),
        ranking("b", "interest", 2, [6, 5, 4]),
        ranking("a", "interest", 3, [7, 8, 9]),
        ranking("b", "interest", 3, [9, 8, 7]),
        ranking("a", "trend", 1, [1, 2, 3]),
    ]
)


def evaluate(rankings: pd.DataFrame, labelled: pd.DataFrame = LABELLED, labels: pd.DataFrame = LABELS) -> pd.DataFrame:
    return evaluate_rankings(rankings, labelled, labels, NEEDS, kind="exponential", threshold=5.0)


def test_seven_rows_by_hand():
    table = evaluate(SEVEN)
    # gains 2^r - 1: instance 1 has 31 1 7, instance 2 has 1 1 3, instance 3 has 3 31 31; trend counts 0 4 2
    ndcg = [
        1.0,
        (1 + 7 * D2 + 31 / 2) / (31 + 7 * D2 + 1 / 2),
        (1 + 1 * D2 + 3 / 2) / (3 + 1 * D2 + 1 / 2),
        1.0,
        (3 + 31 * D2 + 31 / 2) / (31 + 31 * D2 + 3 / 2),
        1.0,
        (0 + 4 * D2 + 2 / 2) / (4 + 2 * D2 + 0),
    ]
    for name in ("ndcg_at_5", "ndcg_at_10", "ndcg_at_30"):
        np.testing.assert_allclose(table[name], ndcg, rtol=0, atol=1e-12)
    # relevant: rating 5 is item 1; none; items 8 and 9. Trend: item 2. Lists are shorter than 5, so P@5 is over 3
    assert table["recall_at_5"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(table["precision_at_5"], np.array([1, 1, 0, 0, 2, 2, 1]) / 3, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table["mrr_at_5"], [1, 1 / 3, 0, 0, 1 / 2, 1, 1 / 2], rtol=0, atol=1e-12)
    # 1 3 2 swaps one of three pairs of 1 2 3, 2 3 1 two, a reversal three
    np.testing.assert_allclose(table["kendall_tau"], [1 / 3, -1 / 3, 1, -1, 1, -1, 1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        table.loc[1, ["invalid_rate", "repeated_rate", "missing_rate"]].tolist(), [1 / 3, 2 / 3, 1]
    )
    assert table["user_id"].tolist() == [10, 10, 10, 10, 20, 20, 10]
    assert table["method"].tolist() == SEVEN["method"].tolist()
    assert list(table) == ["method", "need", "instance_id", "user_id", *METRICS]
    InstanceMetrics.validate(table)


def test_accepts_what_parquet_gives_back():
    arrays = SEVEN.assign(ranking=SEVEN["ranking"].map(np.asarray), input_order=SEVEN["input_order"].map(np.asarray))
    labelled = LABELLED.assign(candidates=LABELLED["candidates"].map(np.asarray))
    labels = LABELS.assign(engagement=LABELS["engagement"].map(np.asarray))
    pd.testing.assert_frame_equal(evaluate(arrays.set_axis(range(90, 97)), labelled, labels), evaluate(SEVEN))


def test_lists_of_different_lengths():
    labelled = pd.concat([LABELLED, pd.DataFrame([instance(5, 50, [11, 12])])])
    labels = pd.concat([LABELS, pd.DataFrame({"instance_id": [5], "engagement": [[1.0, 2.0]]})])
    longer = pd.concat([SEVEN, pd.DataFrame([ranking("a", "interest", 5, [11, 12])])], ignore_index=True)
    table = evaluate(longer, labelled, labels)
    pd.testing.assert_frame_equal(table.iloc[:7], evaluate(SEVEN))
    # gains 1 and 3 in the wrong order
    assert table["ndcg_at_5"].iloc[7] == pytest.approx((1 + 3 * D2) / (3 + D2), abs=1e-12)


def test_true_gains_by_need():
    table = true_gains(LABELLED, LABELS, NEEDS, "exponential")
    assert table[["need", "instance_id"]].to_numpy().tolist() == [
        [need, number] for need in ("interest", "trend") for number in (1, 2, 3)
    ]
    assert [row.tolist() for row in table["gains"]] == [[31, 1, 7], [1, 1, 3], [3, 31, 31], *[[0, 4, 2]] * 3]
    linear = true_gains(LABELLED, LABELS, NEEDS, "linear")
    assert linear["gains"].iloc[0].tolist() == [5, 1, 3]
    Gains.validate(table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ranking("m", "interest", 1, [1, 2]), "'m', need 'interest', instance 1: the ranking.*absent \\[3\\]"),
        (ranking("m", "interest", 1, [1, 2, 2]), "instance 1: the ranking is not a permutation"),
        (ranking("m", "interest", 1, [1, 2, 9]), "unknown \\[9\\], absent \\[3\\]"),
        (ranking("m", "interest", 1, [1, 2, 3]) | {"input_order": [1, 2, 4]}, "instance 1: the input order"),
        (ranking("m", "ntrest", 1, [1, 2, 3]), "'m', need 'ntrest', instance 1: unknown need.*interest, trend"),
        (ranking("m", "interest", 77, [1, 2, 3]), "'m', need 'interest', instance 77: no true labels"),
        (ranking("m", "interest", 4, [1, 2, 3]), "instance 4: no true labels"),
        (ranking("a", "interest", 1, [1, 2, 3]), "'a' ranks instance 1 twice for need 'interest'"),
    ],
)
def test_refuses_rankings_that_cannot_be_scored(row, message):
    with pytest.raises(InputError, match=message):
        evaluate(pd.concat([SEVEN, pd.DataFrame([row])]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"instance_id": [4], "engagement": [[1.0, 2.0, 3.0]]}, "instance 4 is a training instance"),
        ({"instance_id": [8], "engagement": [[1.0, 2.0, 3.0]]}, "instance 8 is not in labelled_instances"),
        ({"instance_id": [1], "engagement": [[1.0, 2.0]]}, "instance 1 has 2 labels for 3 candidates"),
    ],
)
def test_refuses_labels_that_do_not_fit(labels, message):
    with pytest.raises(InputError, match=message):
        true_gains(LABELLED, pd.DataFrame(labels), NEEDS, "linear")
