"""Rankings of the baselines."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.baselines import BASELINES, baseline_rankings, rank_by_score, rankings
from flexrec.baselines.scores import Scores
from flexrec.baselines.settings import Bert4RecSettings, FittedSettings, LambdaMartSettings
from flexrec.errors import InputError
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import Rankings

K = 5
NEEDS = {
    name: Need.model_validate(
        {
            "instruction": "Rank.",
            "terms": [{"factors": [{"signal": signal}]}],
            "relevant": {"rule": "top", "count": 2},
        }
    )
    for name, signal in (("interest", "engagement"), ("trend", "trend"))
}


def table(count: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "instance_id": np.arange(count) + 100,
            "user_id": np.arange(count),
            "split": "test",
            "candidates": [rng.permutation(40)[:K].tolist() for _ in range(count)],
            "similarity": [rng.random(K).tolist() for _ in range(count)],
            "niche": [[0] * K] * count,
            "trend": [[2, 2, 0, 2, 2]] * count,
            "popularity": [[0] * K] * count,
            "quality": [[3.0] * K] * count,
            "recency": [[0.0] * K] * count,
            "history_items": [[1, 2], []] * (count // 2),
            "history_engagements": [[1.0, 4.0], []] * (count // 2),
        }
    )


OBSERVATIONS = pd.DataFrame(
    {"user_id": 900, "item_id": range(40), "engagement": 1.0 + np.arange(40) % 5, "observed": True, "split": "train"}
).assign(event_id=range(40), timestamp=0)


EMBEDDINGS = pd.DataFrame({"item_id": range(40), "embedding": list(np.eye(40, dtype=np.float32))})


TRAINING = table(20).assign(
    instance_id=range(500, 520),
    user_id=range(500, 520),
    split="train",
    observed_engagement=[[float("nan"), *[3.0] * 4]] * 20,
)
FITTED = FittedSettings(lambdamart=LambdaMartSettings(trees=3, min_rows=2), bert4rec=Bert4RecSettings(epochs=1))


def predictions(instances: pd.DataFrame) -> pd.DataFrame:
    means = [[float(item) for item in candidates] for candidates in instances["candidates"]]
    return pd.DataFrame(
        {"instance_id": instances["instance_id"], "mean": means, "variance": [[1.0] * K] * len(instances)}
    )


def rank(instances: pd.DataFrame, methods: list[str], seed: int = 1) -> pd.DataFrame:
    return baseline_rankings(
        instances,
        OBSERVATIONS,
        predictions(pd.concat([instances, TRAINING])),
        EMBEDDINGS,
        NEEDS,
        methods=methods,
        gain="exponential",
        seed=seed,
        training_instances=TRAINING,
        fitted=FITTED,
    )


def test_every_baseline_gives_a_valid_table() -> None:
    instances = table()
    rankings = rank(instances, list(BASELINES))
    Rankings.validate(rankings)
    assert len(rankings) == len(BASELINES) * len(NEEDS) * len(instances)
    assert rankings["method"].drop_duplicates().tolist() == list(BASELINES)
    untrained = {"random", "retriever", "popularity", "item_mean", "trend", "star", "critic"}
    assert set(BASELINES) == untrained | {"mf", "lambdamart", "bert4rec"}
    assert (rankings[["invalid", "repeated", "missing"]] == 0).all(axis=None)
    for _, row in rankings.iterrows():
        assert sorted(row["ranking"]) == sorted(row["input_order"])
    one = rankings.query("method == 'critic' and need == 'interest'")
    assert one["input_order"].tolist() == instances["candidates"].tolist()


def test_best_score_first() -> None:
    instances = table()
    rankings = rank(instances, ["critic", "item_mean", "retriever"])
    for (method, _), rows in rankings.groupby(["method", "need"]):
        for place, ranking in enumerate(rows["ranking"]):
            candidates = instances["candidates"][place]
            if method == "critic":
                assert ranking == sorted(candidates, reverse=True)
            elif method == "item_mean":
                assert [item % 5 for item in ranking] == sorted((item % 5 for item in candidates), reverse=True)
            else:
                similarity = dict(zip(candidates, instances["similarity"][place], strict=True))
                assert ranking == sorted(candidates, key=similarity.__getitem__, reverse=True)


def test_reruns_and_subsets_agree() -> None:
    instances = table()
    methods = ["random", "popularity", "trend"]
    full = rank(instances, methods)
    pd.testing.assert_frame_equal(full, rank(instances, methods))
    some = rank(instances.iloc[[7, 3]], methods)
    merged = some.merge(full, on=["method", "need", "instance_id"], suffixes=("", "_full"))
    assert len(merged) == len(some)
    assert merged["ranking"].tolist() == merged["ranking_full"].tolist()
    assert full["ranking"].tolist() != rank(instances, methods, seed=2)["ranking"].tolist()


def test_what_does_not_read_the_need_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}

    def counted(name: str, score: Callable[..., Scores]) -> Callable[..., Scores]:
        def scorer(*given: object, **named: object) -> Scores:
            calls[name] = calls.get(name, 0) + 1
            return score(*given, **named)

        return scorer

    monkeypatch.setattr(rankings, "BASELINES", {name: counted(name, score) for name, score in BASELINES.items()})
    found = rank(table(4), list(BASELINES))
    assert calls == {name: 1 if name in ("mf", "bert4rec") else len(NEEDS) for name in BASELINES}
    for name in ("mf", "bert4rec"):
        interest, trend = (found.query(f"method == '{name}' and need == '{need}'")["ranking"] for need in NEEDS)
        assert interest.tolist() == trend.tolist()


def test_ties_are_broken_at_random_not_by_input_order() -> None:
    # all but the third of five candidates tie for the first place: over many instances each leads equally often
    rankings = rank(table(2000), ["trend"]).query("need == 'trend'")
    first = [row.input_order.index(row.ranking[0]) for row in rankings.itertuples()]
    last = [row.input_order.index(row.ranking[-1]) for row in rankings.itertuples()]
    assert set(last) == {2}
    # binomial with p = 1/4: the share has a deviation of 0.01
    shares = np.bincount(first, minlength=5) / 2000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0, 0.25, 0.25], atol=0.04)


def test_random_and_the_breaking_of_ties_are_independent() -> None:
    rankings = rank(table(200), ["random", "popularity"]).query("need == 'trend'")
    random, tied = (rankings.query(f"method == '{name}'")["ranking"].tolist() for name in ("random", "popularity"))
    # 120 orders of five: two or so of 200 agree by chance
    assert sum(a == b for a, b in zip(random, tied, strict=True)) < 10
    assert sum(a == b[::-1] for a, b in zip(random, tied, strict=True)) < 10


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.integers(0, 99))
def test_rank_by_score_sorts(scores: list[float], seed: int) -> None:
    order = rank_by_score(np.array(scores), np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(scores)))
    assert [scores[place] for place in order] == sorted(scores, reverse=True)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="'bert' is unknown; choose among random, retriever"):
        rank(table(), ["random", "bert"])
    with pytest.raises(InputError, match="no instance to rank"):
        rank(table().head(0), ["random"])
    broken = table(2)
    broken["similarity"] = [[0.0] * K, [0.0, float("nan"), 0.0, 0.0, 0.0]]
    with pytest.raises(InputError, match="baseline retriever, need interest, instance 101: the score of candidate 1"):
        rank(broken, ["retriever"])
