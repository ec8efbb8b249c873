import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.retrieval.star import StarScoringSettings, StarSettings, star_query, star_scores, star_weights, top_k


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_query_by_hand():
    # oldest e_x, most recent e_y: q ~ 0.7^2 * (1, 0) + 0.7^1 * (0, 1) = (0.49, 0.7), norm 0.854459
    query = star_query(np.eye(2, dtype=np.float32), StarSettings(decay=0.7))
    np.testing.assert_allclose(query, [0.49 / 0.854459, 0.7 / 0.854459], rtol=1e-5)
    # engagements 5 and 1: (5 * 0.49, 1 * 0.7) = (2.45, 0.7), norm 2.548038
    weighted = star_query(np.eye(2, dtype=np.float32), StarSettings(engagement_weights=True), np.array([5.0, 1.0]))
    np.testing.assert_allclose(weighted, [2.45 / 2.548038, 0.7 / 2.548038], rtol=1e-5)


def test_query_that_vanishes_is_zero():
    assert not star_query(np.zeros((0, 3), dtype=np.float32), StarSettings()).any()
    none = star_query(np.eye(2, dtype=np.float32), StarSettings(engagement_weights=True), np.zeros(2))
    assert none.tolist() == [0.0, 0.0]


def test_weights_need_engagements():
    with pytest.raises(InputError, match="engagement_weights"):
        star_query(np.eye(2, dtype=np.float32), StarSettings(engagement_weights=True))


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.1])
def test_decay_bounds(decay):
    with pytest.raises(ValidationError):
        StarSettings(decay=decay)


def test_scores_by_hand():
    # two history items, the older with rating 5, the recent with 1; decay 0.5: weights 5 * 0.25 and 1 * 0.5
    settings = StarScoringSettings(decay=0.5)
    weights = star_weights(2, settings, np.array([5.0, 1.0]))
    np.testing.assert_allclose(weights, [1.25, 0.5])
    semantic, collaborative = np.array([[0.2, 0.8], [1.0, 0.0]]), np.array([[0.4, 0.0], [0.0, 0.6]])
    # half and half: (0.3, 0.4) and (0.5, 0.3); (0.375 + 0.2) / 1.75 and (0.625 + 0.15) / 1.75
    np.testing.assert_allclose(star_scores(semantic, collaborative, weights, 0.5), [0.575 / 1.75, 0.775 / 1.75])
    np.testing.assert_allclose(star_scores(semantic, collaborative, weights, 1.0), [0.5 / 1.75, 0.3 / 1.75])
    assert star_scores(semantic, collaborative, np.zeros(2), 0.5).tolist() == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_without_the_collaborative_part_order_like_the_query(seed):
    rng = np.random.default_rng(seed)
    history, items = unit(rng.normal(size=(4, 6))), unit(rng.normal(size=(12, 6)))
    how, ratings = StarSettings(engagement_weights=True), rng.uniform(0.5, 5, 4)
    scores = star_scores(items @ history.T, rng.random((12, 4)), star_weights(4, how, ratings), 0.0)
    cosines = items @ star_query(history, how, ratings)
    # the same up to the length of the summed history
    np.testing.assert_allclose(scores / np.abs(scores).max(), cosines / np.abs(cosines).max(), atol=1e-5)
    assert (np.abs(scores) <= 1 + 1e-6).all()


def test_top_k_by_other_scores():
    items = np.eye(3, dtype=np.float32)
    indices, scores = top_k(items[:1], items, [np.array([2, 1])], 2, score=lambda row, pool: pool / 4 + row)
    assert indices.tolist() == [[2, 1]]
    assert scores.tolist() == [[0.5, 0.25]]


def test_top_k_by_hand():
    items = np.eye(4, dtype=np.float32)
    queries = unit([[4, 3, 2, 1], [1, 1, 1, 1]])
    indices, scores = top_k(queries, items, [np.array([3, 1, 2]), np.array([3, 2, 0])], k=2)
    # the first query prefers item 0, which is not allowed to it; the second ties, so the lower numbers win
    assert indices.tolist() == [[1, 2], [0, 2]]
    # norms sqrt(16+9+4+1) = 5.477226 and 2
    np.testing.assert_allclose(scores, [[3 / 5.477226, 2 / 5.477226], [0.5, 0.5]], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8), m=st.integers(3, 40), k=st.integers(1, 3))
def test_top_k_against_brute_force(seed, n, m, k):
    rng = np.random.default_rng(seed)
    queries, items = unit(rng.normal(size=(n, 6))), unit(rng.normal(size=(m, 6)))
    allowed = [rng.permutation(m)[: rng.integers(k, m + 1)] for _ in range(n)]
    indices, scores = top_k(queries, items, allowed, k)
    for row in range(n):
        similarity = {int(item): float(items[item].astype(float) @ queries[row].astype(float)) for item in allowed[row]}
        best = sorted(similarity, key=lambda item: -similarity[item])[:k]
        assert indices[row].tolist() == best
        np.testing.assert_allclose(scores[row], [similarity[item] for item in best], atol=1e-6)


def test_a_result_does_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    queries, items = unit(rng.normal(size=(7, 384))), unit(rng.normal(size=(200, 384)))
    allowed = [np.sort(rng.permutation(200)[:50]) for _ in range(7)]
    together = top_k(queries, items, allowed, 10)
    for row in range(7):
        alone = top_k(queries[row : row + 1], items, [allowed[row]], 10)
        np.testing.assert_array_equal(together[0][row], alone[0][0])
        np.testing.assert_array_equal(together[1][row], alone[1][0])


def test_pool_smaller_than_k():
    with pytest.raises(InputError, match="query 1: its pool has 1 items, fewer than the 2"):
        top_k(unit(np.ones((2, 2))), unit(np.ones((3, 2))), [np.array([0, 1]), np.array([2])], 2)


def test_what_was_disliked_weighs_nothing():
    how = StarSettings(engagement_weights=True, decay=0.5)
    assert star_weights(3, how, np.array([2.0, -1.0, 4.0])).tolist() == [0.25, 0.0, 2.0]
