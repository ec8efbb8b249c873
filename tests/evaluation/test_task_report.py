import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from flexrec.evaluation.task_report import describe_task, expected_random_ndcg, task_text
from flexrec.ranking.task import TaskSettings

D2, D3 = 1 / np.log2(3), 0.5


def test_expected_random_ndcg_by_hand() -> None:
    # mean gain 2; two places: 2 (1 + d2), ideal 4 + 2 d2
    assert expected_random_ndcg(np.array([0.0, 4.0, 2.0]), 2) == pytest.approx(2 * (1 + D2) / (4 + 2 * D2))
    # beyond K there are no places
    assert expected_random_ndcg(np.array([0.0, 4.0, 2.0]), 30) == pytest.approx(2 * (1 + D2 + D3) / (4 + 2 * D2))
    assert expected_random_ndcg(np.array([[0.0, 0.0], [3.0, 3.0]]), 5).tolist() == [0.0, 1.0]


@given(
    st.lists(st.floats(0.0, 31.0), min_size=2, max_size=5).filter(lambda gains: max(gains) > 1e-3), st.integers(1, 5)
)
def test_expected_random_ndcg_is_the_mean_over_all_orders(gains, k) -> None:
    orders = list(itertools.permutations(gains))
    scores = np.arange(len(gains), 0, -1)
    mean = np.mean([ndcg_score([order], [scores], k=k) for order in orders])
    assert expected_random_ndcg(np.array(gains), k) == pytest.approx(mean)


DAY = 86_400
OBSERVATIONS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3],
        "item_id": [10, 20, 10, 30, 20],
        "timestamp": [9 * DAY, 9 * DAY, int(8.5 * DAY), 4 * DAY, 11 * DAY],
        "engagement": 1.0,
        "event_id": [3, 2, 1, 0, 4],
        "observed": [True, False, True, False, False],
        "split": ["test", "test", "train", "train", "train"],
    }
)


def labelled() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "instance_id": [0, 1, 2],
            "user_id": [1, 2, 1],
            "split": ["test", "train", "test"],
            "query_time": [9 * DAY, 10 * DAY, 10 * DAY],
            "candidates": [[10, 20, 30], [10, 20, 30], [30, 20, 10]],
            "similarity": [[0.1, 0.9, 0.5], [0.0, 0.0, 0.0], [0.2, 0.2, 0.3]],
        }
    )


GAINS = pd.DataFrame(
    {
        "instance_id": [0, 2, 5, 0, 2],
        "need": ["a", "a", "a", "b", "b"],
        "gains": [[4.0, 0.0, 2.0], [0.0, 1.0, 0.0], [9.0, 9.0, 9.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
    }
)


# ratings 2, 0 and 1 give gains 3, 0 and 1
LABELS = pd.DataFrame({"instance_id": [0, 2], "engagement": [[2.0, 0.0, 1.0], [1.0, 1.0, 1.0]]})


def task(**changes) -> TaskSettings:
    known = {
        "source": "x",
        "gain": "exponential",
        "relevant_engagement": 2,
        "engagement_midpoint": 1.0,
        "trend_window_days": 1.0,
        "candidates": 3,
        "history": 1,
        "instances": {"train": 1, "validation": 1, "test": 2},
        "instances_per_user": 1,
    }
    return TaskSettings.model_validate(known | changes)


def test_a_small_task_by_hand() -> None:
    report = describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task(trend_window_days=2.0))
    assert (report["interactions"], report["users"], report["observed_share"]) == (5, 3, 0.4)
    assert report["instances"] == {"test": 2, "train": 1}
    assert report["candidates_per_instance"] == 3.0
    # instance 0 (user 1, day 9): item 10 half a day before by user 2, item 30 five days before; its own does not count.
    # instance 1 (user 2, day 10): items 10 and 20 a day before by user 1; 30 its own.
    # instance 2 (user 1, day 10): item 10 one and a half days before by user 2, item 30 six days before.
    assert report["trend_coverage"] == {
        "1 days": pytest.approx((1 + 2 + 0) / 9),
        "2 days": pytest.approx((1 + 2 + 1) / 9),
        "7 days": pytest.approx((2 + 2 + 2) / 9),
    }
    scores = report["test_scores"]
    assert list(scores) == ["engagement", "a", "b"]
    # gains 3, 0, 1: a random place gets 4/3; the other instance has equal gains, where every order is ideal
    engagement = (4 / 3 * (1 + D2 + D3) / (3 + D2) + 1) / 2
    assert scores["engagement"]["random_ndcg_at_5"] == pytest.approx(engagement)
    # by similarity: instance 0 gives gains 0, 2, 4; instance 2 gives 0 (item 10), then 0, 1 (the tie as it stands)
    ideal = 4 + 2 * D2
    assert scores["a"]["retriever_ndcg_at_5"] == pytest.approx(((2 * D2 + 4 * D3) / ideal + D3) / 2)
    random = (2 * (1 + D2 + D3) / ideal + (1 + D2 + D3) / 3) / 2
    assert scores["a"]["random_ndcg_at_5"] == pytest.approx(random)
    assert scores["a"]["random_ndcg_at_30"] == scores["a"]["random_ndcg_at_5"]
    # an instance without any gain scores 0, as everywhere
    assert scores["b"]["retriever_ndcg_at_10"] == pytest.approx(0.5)
    assert scores["b"]["random_ndcg_at_10"] == pytest.approx(0.5)


def test_engagement_below_nothing_gains_nothing() -> None:
    # linear gains 2, 0, 1 and 1, 1, 1; a dislike is cut at 0 as the needs cut it
    labels = LABELS.assign(engagement=[[2.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    report = describe_task(labelled(), labels, OBSERVATIONS, GAINS, task(gain="linear"))
    expected = (1 + D2 + D3) / (2 + D2)
    assert report["test_scores"]["engagement"]["random_ndcg_at_5"] == pytest.approx((expected + 1) / 2)


def test_validation_instances_do_not_count() -> None:
    table = labelled().assign(split=["validation", "train", "test"])
    report = describe_task(table, LABELS, OBSERVATIONS, GAINS, task(trend_window_days=7.0))
    assert report["test_scores"]["a"]["retriever_ndcg_at_5"] == pytest.approx(D3)
    assert list(report["trend_coverage"]) == ["1 days", "7 days"]


def test_it_is_plain_json() -> None:
    import json

    report = describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task(trend_window_days=2.0))
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    ("dataset", "context", "need", "rows"),
    [
        (
            "ml-1m",
            "history",
            "interest",
            [
                "star  0.500 0.562 0.797",
                "untrained, GPT-4o  0.508 0.564 0.800",
                "untrained, Qwen2.5-3B  0.497 0.553 0.794",
            ],
        ),
        ("ml-1m", "history", "explore", ["untrained, Qwen2.5-3B  0.729   -     -"]),
        ("ml-1m", "history", "trend", ["untrained, Qwen2.5-3B  0.581   -     -"]),
        ("kuairec", "history", "explore", ["untrained, Qwen2.5-3B  0.706   -     -"]),
        ("kuairec", "history", "trend", ["untrained, Qwen2.5-3B  0.540   -     -"]),
        (
            "esci",
            "query",
            "search",
            ["star  0.412   -     -", "untrained, GPT-4o  0.502   -     -", "untrained, Qwen2.5-3B  0.449   -     -"],
        ),
    ],
)  # fmt: skip
def test_the_papers_rows_stand_beside_ours(dataset, context, need, rows) -> None:
    gains = GAINS.replace({"need": {"a": need}})
    chosen = task(paper_dataset=dataset, context=context)
    lines = task_text(describe_task(labelled(), LABELS, OBSERVATIONS, gains, chosen)).splitlines()
    at = next(place for place, line in enumerate(lines) if line.split()[:1] == [need])
    below = [line.removeprefix("    the paper: ") for line in lines[at + 1 : at + 1 + len(rows)]]
    assert [" ".join(line.split()) for line in below] == [" ".join(row.split()) for row in rows]
    # none by a need that the paper does not know; three by the labels, unless the need is asked for that is about them
    every = [line for line in lines if line.startswith("    the paper: ")]
    assert len(every) == len(rows) + (0 if need in ("interest", "search") else 3)


def test_a_dataset_that_the_paper_does_not_have_is_beside_nothing() -> None:
    text = task_text(describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task()))
    assert "5 interactions of 3 users, 40.0% of them observed" in text
    assert "paper" not in text


def test_what_was_dropped_is_told() -> None:
    dropped = {"rows without a time, dropped": 1234, "repeated rows, dropped": 0}
    report = describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task(), dropped=dropped)
    assert report["dropped"] == dropped
    assert "rows without a time, dropped: 1,234" in task_text(report)
    assert "repeated rows" not in task_text(report)


def test_users_without_a_request_are_told() -> None:
    retrieved = {"train": {"users dropped": 1200}, "validation": {"users dropped": 0}, "test": {"users dropped": 3}}
    report = describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task(), retrieved=retrieved)
    assert "users dropped, whose pools are smaller than K: 1,200 train, 3 test" in task_text(report)
    assert "users dropped" not in task_text(describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task()))


def test_the_platforms_own_counts_are_the_coverage() -> None:
    # 10 was played on the day that ends with day 9, 30 on the one that ends with day 7
    daily = pd.DataFrame({"item_id": [10, 30, 20], "timestamp": [8 * DAY, 6 * DAY, 9 * DAY], "count": [7, 1, 0]})
    report = describe_task(labelled(), LABELS, OBSERVATIONS, GAINS, task(trend_window_days=3.0), daily_counts=daily)
    # within a day: item 10 at day 9 (instance 0); within three days: 10 in all, 30 at day 9; within a week: 10 and 30
    assert report["trend_coverage"] == {
        "1 days": pytest.approx(1 / 9),
        "3 days": pytest.approx(4 / 9),
        "7 days": pytest.approx(6 / 9),
    }
