"""A small world of films, requests about them, and a search over them."""

import numpy as np
import pandas as pd
import pytest

from flexrec.ranking.task import TaskSettings
from flexrec.rewriting.retrievers import Bm25Retriever
from flexrec.rewriting.settings import Bm25Settings

FILMS = [
    (1, "Alien (1979)", ["Horror", "Sci-Fi"], 1979.0),
    (2, "Blade Runner (1982)", ["Film-Noir", "Sci-Fi"], 1982.0),
    (3, "Star Wars (1977)", ["Action", "Sci-Fi"], 1977.0),
    (4, "Grease (1978)", ["Comedy", "Musical"], 1978.0),
    (5, "Halloween (1978)", ["Horror"], 1978.0),
    (6, "The Fly (1986)", ["Horror", "Sci-Fi"], 1986.0),
    (7, "Nameless", [], float("nan")),
    (8, "Undated", ["Horror", "Sci-Fi"], float("nan")),
]


@pytest.fixture
def items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": [film[0] for film in FILMS],
            "source_id": [str(film[0]) for film in FILMS],
            "title": [film[1] for film in FILMS],
            "text": [f"{film[1]}. {', '.join(film[2])}" for film in FILMS],
            "topics": [film[2] for film in FILMS],
            "released": [film[3] for film in FILMS],
        }
    )


@pytest.fixture
def bm25(items) -> Bm25Retriever:
    return Bm25Retriever(items["item_id"].to_numpy(), items["text"].tolist(), Bm25Settings())


@pytest.fixture
def task() -> TaskSettings:
    return TaskSettings.model_validate(
        {
            "source": "ml-100k",
            "gain": "exponential",
            "relevant_engagement": 5,
            "engagement_midpoint": 3.0,
            "trend_window_days": 7,
            "candidates": 3,
            "history": 2,
            "instances": {"train": 9, "validation": 9, "test": 9},
            "instances_per_user": 1,
        }
    )


@pytest.fixture
def observations() -> pd.DataFrame:
    """Six users, two per split; of every user the films 1 to 6, and what they think of them."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(6):
        split = ("train", "validation", "test")[user // 2]
        for place, item in enumerate(rng.permutation(np.arange(1, 9)).tolist()):
            rows.append((user, item, 1000 + place, float(rng.integers(1, 6)), len(rows), place < 6, split))
    names = ["user_id", "item_id", "timestamp", "engagement", "event_id", "observed", "split"]
    return pd.DataFrame(rows, columns=names)
