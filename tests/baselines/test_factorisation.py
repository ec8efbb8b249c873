"""Biased matrix factorisation: by hand, against least squares, and on a planted matrix."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from flexrec.baselines.factorisation import mf_scores
from flexrec.baselines.scores import Scores
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.factorisation import fit_factorisation, ridge_step
from flexrec.critic.settings import FactorisationSettings
from flexrec.errors import InputError

A, B, UNKNOWN = 10, 20, 30
INSTANCES = pd.DataFrame(
    {
        "instance_id": [0, 1],
        "user_id": [8, 9],
        "candidates": [[A, B, UNKNOWN], [UNKNOWN, A]],
        "history_items": [[B], []],
        "history_engagements": [[6.0], []],
    }
)
# user, item, engagement, observed, split
OBSERVATIONS = pd.DataFrame(
    [
        (1, A, 1.0, True, "train"),
        (1, B, 3.0, True, "train"),
        (2, A, 5.0, True, "train"),
        (2, B, 4.0, False, "train"),
        (9, A, 4.0, True, "test"),
    ],
    columns=["user_id", "item_id", "engagement", "observed", "split"],
).assign(event_id=range(5), timestamp=range(5))
BIASES = FactorisationSettings(factors=0, bias_penalty=1.0, iterations=1)


def scores(instances: pd.DataFrame, observations: pd.DataFrame, seed: int = 0, **changed: float) -> Scores:
    fitted = FittedSettings(mf=BIASES.model_copy(update=changed))
    return mf_scores(instances, observations=observations, gain="linear", fitted=fitted, seed=seed)


def random_data(rng: np.random.Generator, rows: int, columns: int, count: int) -> tuple[np.ndarray, ...]:
    return rng.integers(0, rows, count), rng.integers(0, columns, count), rng.normal(size=count)


def matrices(u: np.ndarray, i: np.ndarray, r: np.ndarray, shape: tuple[int, int]) -> tuple[sparse.csr_array, ...]:
    return sparse.csr_array((np.ones(len(u)), (u, i)), shape=shape), sparse.csr_array((r, (u, i)), shape=shape)


def test_biases_by_hand() -> None:
    # gains 1, 3, 5: mean 3, residuals -2, 0, 2 (the scale cancels). Users: (-2 + 0) / (2 + 1) = -2/3, 2 / (1 + 1) = 1.
    # Items: A ((-2 + 2/3) + (2 - 1)) / (2 + 1) = -1/9, B (0 + 2/3) / (1 + 1) = 1/3.
    # user 8 gave B a 6: (6 - 3 - 1/3) / (1 + 1) = 4/3
    first, second = scores(INSTANCES, OBSERVATIONS)
    assert first == pytest.approx([3 + 4 / 3 - 1 / 9, 3 + 4 / 3 + 1 / 3, 3 + 4 / 3])
    assert second == pytest.approx([3, 3 - 1 / 9])


def test_long_ids_are_kept_apart() -> None:
    """Ids beyond 2^53, which as floats would all be one."""
    far = 10**17 + 1
    instances = INSTANCES.assign(
        candidates=[[far + item for item in items] for items in INSTANCES["candidates"]],
        history_items=[[far + item for item in items] for items in INSTANCES["history_items"]],
    )
    expected = scores(INSTANCES, OBSERVATIONS)
    found = scores(instances, OBSERVATIONS.assign(item_id=OBSERVATIONS["item_id"] + far))
    assert [list(row) for row in found] == [list(row) for row in expected]


@pytest.mark.parametrize("at_once", [1 << 24, 40])
def test_a_step_is_a_ridge_regression(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("flexrec.critic.factorisation.MATRIX_NUMBERS", at_once)  # 40: two rows of 4 x 4
    rng = np.random.default_rng(0)
    u, i, r = random_data(rng, 7, 5, 40)  # pairs repeat; user 7 has none
    bias, vectors = rng.normal(size=5), rng.normal(size=(5, 3))
    how = FactorisationSettings(bias_penalty=0.7, factor_penalty=2.5)
    found_bias, found = ridge_step(*matrices(u, i, r, (8, 5)), bias, vectors, how)
    for user in range(8):
        own = u == user
        # penalties are observations of 0 with the root of the penalty as their feature
        features = np.column_stack([np.ones(own.sum()), vectors[i[own]]])
        left = np.vstack([features, np.diag(np.sqrt([0.7, 2.5, 2.5, 2.5]))])
        right = np.concatenate([r[own] - bias[i[own]], np.zeros(4)])
        expected = np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose([found_bias[user], *found[user]], expected, atol=1e-12)
    assert found_bias[7] == 0
    assert (found[7] == 0).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 3), st.floats(0.01, 20), st.floats(0.01, 20))
def test_no_step_makes_it_worse(seed: int, factors: int, of_bias: float, of_factors: float) -> None:
    rng = np.random.default_rng(seed)
    u, i, r = random_data(rng, 6, 4, 25)
    how = FactorisationSettings(factors=factors, bias_penalty=of_bias, factor_penalty=of_factors)
    by_user, by_item = matrices(u, i, r, (6, 4)), matrices(i, u, r, (4, 6))
    users = (np.zeros(6), np.zeros((6, factors)))
    items = (np.zeros(4), rng.normal(size=(4, factors)))

    def objective() -> float:
        error = r - users[0][u] - items[0][i] - np.einsum("nf,nf->n", users[1][u], items[1][i])
        norms = [(of_bias * bias**2).sum() + of_factors * (vectors**2).sum() for bias, vectors in (users, items)]
        return float((error**2).sum() + sum(norms))

    values = [objective()]
    for _ in range(4):
        users = ridge_step(*by_user, *items, how)
        values.append(objective())
        items = ridge_step(*by_item, *users, how)
        values.append(objective())
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))


def test_a_planted_matrix_is_recovered() -> None:
    rng = np.random.default_rng(1)
    users, items, rank = 60, 40, 2
    truth = 3.0 + rng.normal(size=(users, 1)) + rng.normal(size=items)
    truth += rng.normal(size=(users, rank)) @ rng.normal(size=(rank, items))
    shown = rng.random(truth.shape) < 0.6
    u, i = np.nonzero(shown)
    how = FactorisationSettings(factors=rank, bias_penalty=0.05, factor_penalty=0.05, iterations=40)
    model = fit_factorisation(u + 100, i + 500, truth[shown], how, seed=0)
    # every user is folded in by what is known of it
    bias, vectors = model.fold_in(u, i + 500, truth[shown], count=users)
    predicted = model.mean + model.scale * (bias[:, None] + model.bias[:-1] + vectors @ model.vectors[:-1].T)
    assert np.abs(predicted - truth)[~shown].mean() < 0.05 * truth.std()
    # biases alone are far off
    alone = fit_factorisation(u, i, truth[shown], how.model_copy(update={"factors": 0}), seed=0)
    of_users, none = alone.fold_in(u, i, truth[shown], count=users)
    assert none.shape == (users, 0)
    plain = alone.mean + alone.scale * (of_users[:, None] + alone.bias[:-1])
    assert np.abs(plain - truth)[~shown].mean() > 0.3 * truth.std()


def test_equal_gains() -> None:
    same = OBSERVATIONS.assign(engagement=2.0)
    found = scores(INSTANCES.assign(history_engagements=[[2.0], []]), same, factors=4)
    assert np.concatenate(found).tolist() == [2.0] * 5


def test_what_it_may_not_read() -> None:
    expected = scores(INSTANCES, OBSERVATIONS, factors=2)
    hidden = ~OBSERVATIONS["observed"] | (OBSERVATIONS["split"] != "train")
    garbage = OBSERVATIONS.assign(engagement=OBSERVATIONS["engagement"].mask(hidden, 1e6))
    # the asking user's own observations, as where a training user is asked
    own = OBSERVATIONS.tail(1).assign(user_id=8, split="train", engagement=99.0, event_id=99)
    for table in (garbage, OBSERVATIONS[~hidden], pd.concat([OBSERVATIONS, own])):
        for mine, theirs in zip(scores(INSTANCES, table, factors=2), expected, strict=True):
            assert mine.tolist() == theirs.tolist()
    # the history is read
    other = INSTANCES.assign(history_engagements=[[1.0], []])
    assert scores(other, OBSERVATIONS)[0].tolist() != scores(INSTANCES, OBSERVATIONS)[0].tolist()


def test_reruns_and_subsets_agree() -> None:
    rng = np.random.default_rng(3)
    u, i, r = random_data(rng, 20, 9, 80)
    observations = pd.DataFrame(
        {"user_id": u, "item_id": i, "engagement": r, "observed": True, "split": "train", "event_id": range(80)}
    )
    instances = INSTANCES.assign(
        user_id=[100, 101],
        candidates=[[1, 2, 3], [4, 5]],
        history_items=[[6, 7], [8]],
        history_engagements=[[1.0, -1.0], [2.0]],
    )
    whole = scores(instances, observations, factors=3)
    assert [s.tolist() for s in whole] == [s.tolist() for s in scores(instances, observations, factors=3)]
    np.testing.assert_allclose(scores(instances.tail(1), observations, factors=3)[0], whole[1], rtol=1e-12)
    assert whole[0].tolist() != scores(instances, observations, factors=3, seed=1)[0].tolist()


def test_nobody_left_to_learn_from() -> None:
    with pytest.raises(InputError, match="every training user with an observed interaction is asked about"):
        scores(INSTANCES.assign(user_id=[1, 2]), OBSERVATIONS)
