"""What every method without a language model promises, on small planted problems; the trained ones: `tests/rl`.

Items have a quality, and users like what is good: whatever learns from ratings must order unseen users' candidates by
it. For sequences, item n is followed by item n + 1.
"""

import logging
import re

import numpy as np
import pandas as pd
import pytest

from flexrec.baselines import BASELINES, baseline_rankings
from flexrec.baselines.settings import Bert4RecSettings, FittedSettings, LambdaMartSettings
from flexrec.ranking.metrics import ndcg
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import Rankings

K, ITEMS, USERS = 6, 30, 60
NEED = Need.model_validate(
    {"instruction": "Rank.", "terms": [{"factors": [{"signal": "engagement"}]}], "relevant": {"rule": "engagement"}}
)
LEARN = ("popularity", "item_mean", "critic", "mf", "lambdamart", "bert4rec")
"""Those that can solve their planted problem."""
BLIND = ("random", "retriever", "trend")
"""Those that do not read what it is made of. STAR is neither: who likes what the history's fans like may like this."""
FITTED = FittedSettings(
    lambdamart=LambdaMartSettings(trees=20, min_rows=2), bert4rec=Bert4RecSettings(epochs=40, batch_size=32)
)
QUALITY = np.random.default_rng(7).permutation(ITEMS) / ITEMS


def instances(first_user: int, count: int, split: str) -> pd.DataFrame:
    """Lists of candidates; the history ends with the item before the first candidate."""
    rng = np.random.default_rng(first_user)
    rows = []
    for number in range(count):
        start = int(rng.integers(3, ITEMS - 1))
        others = rng.permutation([item for item in range(ITEMS) if abs(item - start) > 3])[: K - 1]
        order = rng.permutation([start, *others.tolist()])
        rows.append(
            {
                "instance_id": 1000 * first_user + number,
                "user_id": first_user + number,
                "split": split,
                "query_time": 10_000,
                "history_items": [start - 2, start - 1],
                "history_engagements": [3.0, 3.0],
                "candidates": order.tolist(),
                "query": "",
                "similarity": [0.5] * K,
                "niche": [0] * K,
                "trend": [1] * K,
                "popularity": [1] * K,
                "quality": [3.0] * K,
                "recency": [0.5] * K,
                "observed_engagement": [
                    1 + 4 * QUALITY[item] if split == "train" else float("nan") for item in order.tolist()
                ],
            }
        )
    return pd.DataFrame(rows)


def observations() -> pd.DataFrame:
    """Every training user has gone through items in their order, a good one more often, and rated them."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(USERS):
        start = int(rng.integers(0, ITEMS - 8))
        for place, item in enumerate(range(start, start + 8)):
            rows.append((2000 + user, item, 1 + 4 * QUALITY[item] + rng.normal(0, 0.1), place))
        rows += [
            (2000 + user, item, 1 + 4 * QUALITY[item], 100) for item in np.flatnonzero(rng.random(ITEMS) < QUALITY)
        ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "engagement", "timestamp"])
    table = table.drop_duplicates(["user_id", "item_id"], ignore_index=True)
    return table.assign(event_id=range(len(table)), observed=True, split="train")


def sequences() -> pd.DataFrame:
    """The same without the ratings of good items: only what follows what."""
    table = observations()
    return table[table["timestamp"] < 100].assign(event_id=lambda rows: range(len(rows)))


ASKED, TRAINING = instances(0, 40, "test"), instances(500, 80, "train")


def predictions() -> pd.DataFrame:
    """A critic that has seen the quality through fog."""
    both = pd.concat([ASKED, TRAINING], ignore_index=True)
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "instance_id": both["instance_id"],
            "mean": [[1 + 4 * QUALITY[item] + rng.normal(0, 0.3) for item in shown] for shown in both["candidates"]],
            "variance": [[1.0] * K] * len(both),
        }
    )


def rank(method: str, *, seed: int = 0) -> pd.DataFrame:
    return baseline_rankings(
        ASKED,
        sequences() if method == "bert4rec" else observations(),
        predictions(),
        pd.DataFrame({"item_id": range(ITEMS), "embedding": list(np.eye(ITEMS, dtype=np.float32))}),
        {"interest": NEED},
        methods=[method],
        gain="linear",
        seed=seed,
        training_instances=TRAINING,
        fitted=FITTED,
    )


def quality_of(method: str, rankings: pd.DataFrame) -> float:
    """Mean NDCG@5 by what is planted: the item that follows, or the quality of all."""
    scores = []
    for ranking, last in zip(rankings["ranking"], ASKED["history_items"], strict=True):
        items = np.asarray(ranking)
        gains = (items == last[-1] + 1).astype(float) if method == "bert4rec" else QUALITY[items]
        scores.append(float(ndcg(gains, 5)))
    return float(np.mean(scores))


@pytest.fixture(scope="module", params=list(BASELINES))
def made(request, caplog_of_module) -> tuple[str, pd.DataFrame, str]:
    """A method, its rankings, and what the log said."""
    caplog_of_module.clear()
    rankings = rank(request.param)
    return request.param, rankings, "\n".join(caplog_of_module)


@pytest.fixture(scope="module")
def caplog_of_module():
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("flexrec.baselines")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


class TestEveryBaseline:
    """Every entry of `BASELINES`."""

    def test_is_better_than_chance_at_what_it_learns_from(self, made):
        method, rankings, _ = made
        chance = np.mean([quality_of(method, rank("random", seed=seed)) for seed in range(5)])
        # chance is .8 by quality and .5 by what follows; five draws of 40 lists are within .02
        if method in LEARN:
            assert quality_of(method, rankings) > chance + 0.1
        elif method in BLIND:
            assert abs(quality_of(method, rankings) - chance) < 0.1

    def test_is_deterministic(self, made):
        method, rankings, _ = made
        pd.testing.assert_frame_equal(rank(method), rankings, check_exact=True)

    def test_ranks_every_candidate_once(self, made):
        _, rankings, _ = made
        Rankings.validate(rankings)
        assert rankings["instance_id"].tolist() == ASKED["instance_id"].tolist()
        assert rankings["input_order"].tolist() == ASKED["candidates"].tolist()
        assert [sorted(row) for row in rankings["ranking"]] == [sorted(row) for row in ASKED["candidates"]]

    def test_is_saved_and_loaded_as_it_is(self, made, tmp_path):
        _, rankings, _ = made
        rankings.to_parquet(tmp_path / "rankings.parquet")
        loaded = Rankings.validate(pd.read_parquet(tmp_path / "rankings.parquet"))
        for name in rankings:
            same = [np.array_equal(cell, other) for cell, other in zip(loaded[name], rankings[name], strict=True)]
            assert all(same), name

    def test_reports_what_it_costs(self, made):
        method, _, said = made
        (found,) = re.findall(rf"baseline {method}, interest: fitted and scored (\d+) lists in (\d+\.\d\d) s", said)
        assert int(found[0]) == len(ASKED)
        assert float(found[1]) < 60
