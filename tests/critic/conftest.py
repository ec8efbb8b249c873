"""A small world: 40 users, 25 items in 6 dimensions, MovieLens-like ratings, a third of them observed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from flexrec.critic.settings import CriticSettings

SEED = 7


@dataclass(frozen=True)
class World:
    observations: pd.DataFrame
    item_embeddings: pd.DataFrame
    labelled_instances: pd.DataFrame


def make_world(users: int = 40, items: int = 25, size: int = 6, seed: int = SEED) -> World:
    rng = np.random.default_rng(seed)
    item_ids = 100 + np.arange(items) * 3
    vectors = rng.normal(size=(items, size))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = []
    for user in range(users):
        seen = rng.permutation(items)[:18]
        times = np.sort(rng.integers(1000, 1012, size=18))
        ratings = rng.integers(1, 6, size=18).astype(float)
        rows += [
            (user + 500, item_ids[item], time, rating) for item, time, rating in zip(seen, times, ratings, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "engagement"])
    table = table.sort_values("timestamp", kind="stable", ignore_index=True)
    table["event_id"] = np.arange(len(table))
    table["observed"] = rng.random(len(table)) < 0.34
    split = np.array(["train"] * (users - 8) + ["validation"] * 4 + ["test"] * 4)
    table["split"] = split[table["user_id"] - 500]
    instances = []
    for user in range(users):
        own = table[table["user_id"] == user + 500]
        past = own[own["observed"] & (own["timestamp"] < 1006)].tail(3)
        pool = own[~own["item_id"].isin(past["item_id"])].sample(6, random_state=user)
        train = split[user] == "train"
        instances.append(
            {
                "instance_id": user,
                "user_id": user + 500,
                "split": split[user],
                "query_time": 1006,
                "history_items": past["item_id"].tolist(),
                "history_engagements": past["engagement"].tolist(),
                "candidates": pool["item_id"].tolist(),
                "similarity": rng.random(6).tolist(),
                "niche": rng.integers(0, 2, 6).tolist(),
                "trend": rng.integers(0, 9, 6).tolist(),
                "popularity": rng.integers(0, 9, 6).tolist(),
                "quality": rng.uniform(1, 5, 6).tolist(),
                "recency": [0.0, 1.0, 0.5, 0.25, 0.2, 0.1],
                "observed_engagement": [
                    rating if seen and train else float("nan")
                    for rating, seen in zip(pool["engagement"], pool["observed"], strict=True)
                ],
            }
        )
    embeddings = pd.DataFrame({"item_id": item_ids, "embedding": list(vectors)})
    return World(table, embeddings, pd.DataFrame(instances))


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def small() -> CriticSettings:
    """A network that trains in a fraction of a second."""
    return CriticSettings(history_length=3, hidden_size=16, interaction_size=8, epochs=4, batch_size=32)


def without_hidden_labels(observations: pd.DataFrame, garbage: float) -> pd.DataFrame:
    """Overwrite every engagement that training must not see: unobserved ones, and all of held-out users."""
    hidden = ~observations["observed"] | (observations["split"] != "train")
    return observations.assign(engagement=observations["engagement"].mask(hidden, garbage))


@pytest.fixture(params=[float("nan"), -1e6], ids=["nan", "garbage"])
def blinded(request: pytest.FixtureRequest, world: World) -> pd.DataFrame:
    return without_hidden_labels(world.observations, request.param)
