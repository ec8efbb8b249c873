"""A random small world for retrieval tests: observations, items and embeddings."""

import numpy as np
import pandas as pd
import pytest

from flexrec.ranking.columns import SPLITS, Columns

TOPICS = ("a", "b", "c", "d")


def make_world(seed, users=20, items=30, per_user=16):
    """Return (observations, items, embeddings); many interactions share a second, engagements are not round."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(item), int(rng.integers(0, 10)) * 40_000 + 10**9)
        for user in range(users)
        for item in rng.choice(items, size=per_user, replace=False)
    ]
    table = pd.DataFrame(rows, columns=[Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP])
    table[Columns.ENGAGEMENT] = rng.uniform(0.0, 5.0, len(table))
    table = table.sort_values(Columns.TIMESTAMP, kind="stable", ignore_index=True)
    table[Columns.EVENT_ID] = np.arange(len(table))
    table[Columns.OBSERVED] = rng.random(len(table)) < 0.4
    table.loc[table.groupby(Columns.USER_ID).head(1).index, Columns.OBSERVED] = True
    table[Columns.SPLIT] = table[Columns.USER_ID].map(lambda user: SPLITS[{0: 1, 1: 2}.get(user % 5, 0)])
    topics = [[name for name in TOPICS if rng.random() < 0.3] for _ in range(items)]
    released = np.where(rng.random(items) < 0.2, np.nan, rng.integers(1950, 2003, items))
    item_table = pd.DataFrame(
        {Columns.ITEM_ID: np.arange(items), Columns.TOPICS: topics, Columns.RELEASED: released.astype(float)}
    )
    vectors = rng.normal(size=(items, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = pd.DataFrame({Columns.ITEM_ID: np.arange(items), Columns.EMBEDDING: list(vectors)})
    return table, item_table, embeddings


@pytest.fixture(scope="session")
def world():
    return make_world


def assert_identical(first, second):
    """Compare two tables bit for bit, list columns and NaN included."""
    assert list(first.columns) == list(second.columns)
    assert len(first) == len(second)
    for name in first.columns:
        for one, other in zip(first[name], second[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.fixture(scope="session")
def identical():
    return assert_identical
