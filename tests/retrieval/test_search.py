"""Search among many items, against a plain loop over all pairs."""

import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from flexrec.errors import InputError
from flexrec.retrieval.search import (
    CellIndex,
    ExactSearch,
    FaissSearch,
    SearchSettings,
    recall,
    search_all,
    search_pools,
)
from flexrec.retrieval.star import top_k


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def clustered(count, size, seed, clusters=30):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(clusters, size)))
    return unit(centres[rng.integers(0, clusters, count)] + 0.4 * rng.normal(size=(count, size)) / size**0.5)


@pytest.fixture(scope="module")
def items():
    return clustered(4000, 24, seed=0)


@pytest.fixture(scope="module")
def queries():
    return clustered(40, 24, seed=0)[::-1]


@pytest.fixture(scope="module")
def exact(items, queries):
    return search_all(queries, items, 10, ExactSearch())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), m=st.integers(3, 60), k=st.integers(1, 3))
def test_exactly_what_a_loop_finds(seed, n, m, k):
    rng = np.random.default_rng(seed)
    queries, items = unit(rng.normal(size=(n, 6))), unit(rng.normal(size=(m, 6)))
    items[rng.integers(0, m)] = items[0]  # an equal pair, in the order of the row numbers
    indices, cosines = search_all(queries, items, k, ExactSearch())
    for row in range(n):
        similarity = [
            np.float32(sum(float(a) * float(b) for a, b in zip(item, queries[row], strict=True))) for item in items
        ]
        best = sorted(range(m), key=lambda item: (-similarity[item], item))[:k]
        assert indices[row].tolist() == best
        np.testing.assert_allclose(cosines[row], [similarity[item] for item in best], atol=1e-6)


def test_blocks_and_company_change_nothing(items, queries, exact):
    # 1 MiB holds the cosines of 65 queries with 4,000 items
    many = np.concatenate([clustered(100, 24, seed=9), queries])
    for found, right in zip(search_all(many, items, 10, ExactSearch(block_mib=1)), exact, strict=True):
        np.testing.assert_array_equal(found[100:], right)
    alone = [search_all(queries[row : row + 1], items, 10, ExactSearch()) for row in range(len(queries))]
    np.testing.assert_array_equal(np.concatenate([indices for indices, _ in alone]), exact[0])
    np.testing.assert_array_equal(np.concatenate([cosines for _, cosines in alone]), exact[1])


def test_every_cell_is_the_exact_search(items, queries, exact):
    all_cells = FaissSearch(cells=20, probes=20)
    for found, right in zip(search_all(queries, items, 10, all_cells), exact, strict=True):
        np.testing.assert_array_equal(found, right)


def test_more_probes_find_more(items, queries, exact):
    shares = [recall(search_all(queries, items, 10, FaissSearch(probes=p))[0], exact[0]) for p in (1, 4, 100)]
    assert shares == sorted(shares)
    assert 0.3 < shares[0] < 1
    assert shares[-1] == 1


def test_an_index_is_the_same_again(items, queries):
    how = FaissSearch(probes=2)
    first, second = search_all(queries, items, 10, how), search_all(queries, items, 10, how)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cosines_are_right_and_sorted(items, queries):
    indices, cosines = search_all(queries, items, 10, FaissSearch(probes=3))
    np.testing.assert_allclose(cosines, np.einsum("nkd,nd->nk", items[indices], queries), atol=1e-6)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_cells_with_too_few_items_are_no_loss(items, queries, exact, caplog):
    # 100 cells hold 40 items each: one of them cannot give 60
    with caplog.at_level(logging.INFO):
        indices, _ = search_all(queries, items, 200, FaissSearch(cells=100, probes=1))
    assert "queries looked into cells with fewer than 200 items: exactly" in caplog.text
    assert all(len(set(row)) == 200 for row in indices.tolist())


def test_pools_through_the_index(items, queries):
    rng = np.random.default_rng(3)
    allowed = [rng.permutation(4000)[: (3000, 50, 4000)[row % 3]] for row in range(len(queries))]
    exact = top_k(queries, items, allowed, 10)
    # all cells: what a pool allows is found, and nothing else
    through = search_pools(queries, items, allowed, 10, FaissSearch(cells=20, probes=20, exact_up_to=1000))
    np.testing.assert_array_equal(through[0], exact[0])
    np.testing.assert_allclose(through[1], exact[1], atol=1e-6)
    few = search_pools(queries, items, allowed, 10, FaissSearch(cells=50, probes=2, exact_up_to=1000))
    for row, pool in enumerate(allowed):
        assert set(few[0][row]) <= set(pool)
    np.testing.assert_array_equal(few[0][1::3], exact[0][1::3])  # small pools stay exact
    assert 0.3 < recall(few[0], exact[0]) <= 1


def test_pools_are_searched_exactly_by_default(items, queries, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    allowed = [np.arange(row, 200) for row in range(len(queries))]
    exact = top_k(queries, items, allowed, 5)
    for how in (ExactSearch(), FaissSearch()):
        for found, right in zip(search_pools(queries, items, allowed, 5, how), exact, strict=True):
            np.testing.assert_array_equal(found, right)
    other = search_pools(
        queries, items, allowed, 5, FaissSearch(exact_up_to=0), score=lambda row, pool: -pool.astype(float) / 200
    )
    assert other[0][3].tolist() == [3, 4, 5, 6, 7]


def test_recall_by_hand():
    # one of two, both of two
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 5], [4, 3]])) == 0.75


def test_bad_input(items, queries, monkeypatch):
    with pytest.raises(InputError, match="there are 3 items, fewer than the 4"):
        search_all(queries, items[:3], 4, ExactSearch())
    with pytest.raises(ValidationError, match="probes"):
        TypeAdapter(SearchSettings).validate_python({"kind": "faiss", "probes": 0})
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[faiss\]'"):
        CellIndex(items, FaissSearch())
