"""A small made-up evaluation: seeded rankers of different quality on the same instances."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flexrec.evaluation import evaluate_rankings, summarise, true_gains
from flexrec.ranking.needs import Factor, Need, Term, TopRelevance

K, USERS, ITEMS = 10, 40, 60
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<a href='https://example.org/'>Free</a>",
    "\u202egnp.exe | **bold** `code`",
    "Ampersand & Sons \"quoted\" 'twice'",
)
METHODS = ("random", "retriever", "popularity", "item_mean", "untrained", "warmed_up", "flexrec", "rec_r1")
# standard deviation of the noise that a ranker sees on the min-max scale of the true gains
NOISE = {
    "random": 50.0,
    "retriever": 8.0,
    "popularity": 1.0,
    "item_mean": 0.5,
    "untrained": 3.0,
    "warmed_up": 0.9,
    "flexrec": 0.25,
    "rec_r1": 0.4,
}


def make_world(users: int = USERS, seed: int = 0) -> SimpleNamespace:
    generator = np.random.default_rng(seed)
    titles = [*HOSTILE, *(f"Film {number} (19{50 + number % 50})" for number in range(len(HOSTILE), ITEMS))]
    items = pd.DataFrame(
        {
            "item_id": np.arange(ITEMS),
            "source_id": [str(number) for number in range(ITEMS)],
            "title": titles,
            "text": titles,
            "topics": [["Drama", "Comedy"][: 1 + number % 2] for number in range(ITEMS)],
        }
    )
    instances, labels = [], []
    for instance in range(users):
        drawn = generator.permutation(ITEMS)
        if instance == 0:
            drawn = np.concatenate([np.arange(len(HOSTILE)), np.setdiff1d(drawn, np.arange(len(HOSTILE)))])
        instances.append(
            {
                "instance_id": instance,
                "user_id": instance // 2,
                "split": "test",
                "query_time": 1_000_000 + instance,
                "query": "",
                "history_items": drawn[K : K + 3].tolist(),
                "history_engagements": generator.integers(1, 6, 3).astype(float).tolist(),
                "candidates": drawn[:K].tolist(),
                "similarity": generator.uniform(0, 1, K).tolist(),
                "niche": generator.integers(0, 2, K).tolist(),
                "trend": generator.poisson(5, K).tolist(),
                "popularity": generator.poisson(40, K).tolist(),
                "quality": generator.uniform(1, 5, K).tolist(),
                "recency": generator.uniform(0, 1, K).tolist(),
                "observed_engagement": [float("nan")] * K,
            }
        )
        labels.append({"instance_id": instance, "engagement": generator.integers(1, 6, K).astype(float).tolist()})
    needs = {
        "interest": Need(
            instruction="What the user enjoys",
            terms=(Term(factors=(Factor(signal="engagement"),)),),
            relevant={"rule": "engagement"},
        ),
        "trend": Need(
            instruction="What is watched now",
            terms=(
                Term(weight=0.5, factors=(Factor(signal="similarity", normalise="minmax"),)),
                Term(weight=0.5, factors=(Factor(signal="trend", normalise="minmax"),)),
            ),
            relevant=TopRelevance(count=4),
        ),
    }
    labelled, true_labels = pd.DataFrame(instances), pd.DataFrame(labels)
    gains = true_gains(labelled, true_labels, needs, "exponential")
    rankings = []
    for method, noise in NOISE.items():
        for need, instance, values in gains[["need", "instance_id", "gains"]].itertuples(index=False):
            candidates = np.asarray(instances[instance]["candidates"])
            scores = np.asarray(values) / max(values) + noise * generator.normal(size=K)
            rankings.append(
                {
                    "method": method,
                    "need": need,
                    "instance_id": instance,
                    "ranking": candidates[np.argsort(-scores)].tolist(),
                    "input_order": candidates.tolist(),
                    "invalid": int(method == "untrained" and generator.uniform() < 0.2),
                    "repeated": 0,
                    "missing": 0,
                }
            )
    rankings = pd.DataFrame(rankings)
    metrics = evaluate_rankings(rankings, labelled, true_labels, needs, kind="exponential", threshold=5.0)
    summary = summarise(
        metrics,
        references={
            "warmed_up": ("untrained",),
            "flexrec": ("untrained", "warmed_up", "popularity", "item_mean"),
            "rec_r1": ("untrained", "warmed_up"),
        },
        resamples=400,
        permutations=10000,
        seed=3,
    )
    return SimpleNamespace(
        items=items,
        labelled=labelled,
        gains=gains,
        rankings=rankings,
        metrics=metrics,
        summary=summary,
        curves=make_curves(generator),
        predictions=make_predictions(generator),
    )


def make_curves(generator: np.random.Generator, steps: int = 20, ranks: int = K) -> pd.DataFrame:
    rows = []
    for method, gain in (("flexrec", 0.3), ("rec_r1", 0.15)):
        for step in range(1, steps + 1):
            done = step / steps
            values = {
                "reward": 0.6 + gain * done + 0.02 * generator.normal(),
                "kl": 0.2 * done**2 + 0.005 * generator.uniform(),
                "entropy": 2.0 - done + 0.05 * generator.normal(),
                "gradient_norm": 1.0 + 0.3 * generator.uniform(),
                "answer/invalid_rate": 0.1 * (1 - done) * generator.uniform(),
                "weight/low": 0.5 + 0.1 * generator.uniform(),
                "weight/median": 0.9 + 0.1 * generator.uniform(),
                "weight/high": 1.6 + 0.3 * generator.uniform(),
            }
            if step % 5 == 0:
                for need in ("interest", "trend"):
                    values[f"validation/ndcg_at_5/{need}"] = 0.6 + gain * done + 0.05 * (need == "trend")
                values["validation/ndcg_at_5"] = 0.625 + gain * done
            for rank in range(1, ranks + 1):
                spread = 2.0 * 0.6**rank * (1 + 0.2 * generator.uniform()) if rank < ranks else 0.0
                values[f"advantage/std_at_rank_{rank:02d}"] = spread
            rows += [(method, step, name, value) for name, value in values.items()]
    return pd.DataFrame(rows, columns=["method", "step", "metric", "value"])


def make_predictions(generator: np.random.Generator) -> pd.DataFrame:
    count = 500
    mean = generator.uniform(2, 25, count)
    gain = np.clip(mean + generator.normal(0, 4, count), 1, 31)
    parts = [("with_statistics", mean, gain), ("without_statistics", mean.mean() + 0.5 * (mean - mean.mean()), gain)]
    return pd.concat(
        [pd.DataFrame({"variant": name, "mean": one, "gain": true}) for name, one, true in parts],
        ignore_index=True,
    )


@pytest.fixture(scope="session")
def world() -> SimpleNamespace:
    return make_world()


@pytest.fixture(scope="session")
def reliability() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant": ["with_statistics"] * 3 + ["without_statistics"] * 3,
            "predicted_std": [2.0, 4.0, 6.0, 3.0, 5.0, 7.0],
            "rmse": [2.2, 3.9, 6.5, 4.0, 6.0, 9.0],
        }
    )
