import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flexrec.errors import InputError
from flexrec.ranking.gains import dcg, discounts, engagement_gain, ideal_dcg

GAINS = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=st.floats(0, 1e6))


def test_exponential_gain_of_ratings_is_exact():
    # 2^1 - 1, ..., 2^5 - 1
    assert engagement_gain(np.array([1, 2, 3, 4, 5]), "exponential").tolist() == [1.0, 3.0, 7.0, 15.0, 31.0]


def test_exponential_gain_of_half_a_star():
    assert engagement_gain(np.array([0.5]), "exponential")[0] == pytest.approx(math.sqrt(2) - 1, rel=1e-15)


def test_linear_gain_is_the_engagement_and_a_copy():
    engagement = np.array([[0.0, 1.5], [144.0, 0.25]])
    gains = engagement_gain(engagement, "linear")
    assert gains.tolist() == engagement.tolist()
    gains[0, 0] = 9.0
    assert engagement[0, 0] == 0.0


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_unobserved_stays_unobserved(kind):
    gains = engagement_gain(np.array([np.nan, 0.0]), kind)
    assert np.isnan(gains[0])
    assert gains[1] == 0.0


def test_unknown_kind_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'cubic'.*linear, exponential"):
        engagement_gain(np.array([1.0]), "cubic")


@pytest.mark.parametrize(("value", "kind"), [(np.inf, "linear"), (1100.0, "exponential"), (-np.inf, "linear")])
def test_infinite_gains_are_refused(value, kind):
    with pytest.raises(InputError, match="no finite"):
        engagement_gain(np.array([1.0, value]), kind)


def test_discounts():
    # 1/log2(2), 1/log2(3), 1/log2(4)
    assert discounts(3).tolist() == [1.0, 1 / math.log2(3), 0.5]
    with pytest.raises(InputError, match="at least one position"):
        discounts(0)


def test_dcg_by_hand():
    # 4*1 + 0/log2(3) + 2*0.5 = 5;  @1: 4;  second row 1 + 1/log2(3) + 0.5
    ranked = np.array([[4.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    assert dcg(ranked).tolist() == [5.0, pytest.approx(1.5 + 1 / math.log2(3))]
    assert dcg(ranked, 1).tolist() == [4.0, 1.0]
    assert dcg(ranked, 30).tolist() == dcg(ranked).tolist()


def test_ideal_dcg_by_hand():
    # sorted 4, 2, 0: 4 + 2/log2(3)
    assert ideal_dcg(np.array([0.0, 2.0, 4.0])) == pytest.approx(4 + 2 / math.log2(3), rel=1e-15)
    assert ideal_dcg(np.array([0.0, 2.0, 4.0]), 1) == 4.0
    assert ideal_dcg(np.zeros((2, 3))).tolist() == [0.0, 0.0]


@given(gains=GAINS, k=st.integers(1, 9), seed=st.integers(0, 99))
def test_no_order_exceeds_the_ideal(gains, k, seed):
    order = np.random.default_rng(seed).permutation(gains.shape[-1])
    assert (dcg(gains[:, order], k) <= ideal_dcg(gains, k) * (1 + 1e-12)).all()
    assert ideal_dcg(gains[:, order], k).tolist() == ideal_dcg(gains, k).tolist()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_gains_are_refused_with_their_place(bad):
    with pytest.raises(InputError, match=r"index \(1, 0\)"):
        dcg(np.array([[1.0, 2.0], [bad, 0.0]]))


def test_bad_shapes_and_cutoffs_are_refused():
    with pytest.raises(InputError, match="not 0"):
        dcg(np.array([1.0]), 0)
    with pytest.raises(InputError, match="at least one candidate"):
        ideal_dcg(np.zeros((3, 0)))
    with pytest.raises(InputError, match="candidate axis"):
        dcg(np.float64(1.0))
