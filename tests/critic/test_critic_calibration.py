"""Numbers about a critic."""

import numpy as np
import pytest
from scipy import stats

from flexrec.critic.calibration import calibration, reliability
from flexrec.errors import InputError

MEAN, VARIANCE, TARGET = np.array([1.0, 2.0, 4.0]), np.array([1.0, 4.0, 1.0]), np.array([2.0, 2.0, 1.0])


def test_by_hand() -> None:
    numbers = calibration(MEAN, VARIANCE, TARGET)
    assert numbers["n"] == 3
    assert numbers["mse"] == pytest.approx((1 + 0 + 9) / 3)
    assert numbers["mae"] == pytest.approx((1 + 0 + 3) / 3)


def test_against_scipy() -> None:
    rng = np.random.default_rng(0)
    mean, variance, target = rng.normal(size=50), rng.uniform(0.5, 2, size=50), rng.normal(size=50)
    numbers = calibration(mean, variance, target)
    assert numbers["nll"] == pytest.approx(-stats.norm(mean, np.sqrt(variance)).logpdf(target).mean())
    assert numbers["pearson_mean"] == pytest.approx(stats.pearsonr(mean, target).statistic)
    assert numbers["pearson_variance"] == pytest.approx(stats.pearsonr(variance, (target - mean) ** 2).statistic)


@pytest.mark.parametrize("wobble", [0.0, 1e-8])
def test_constant_predictions_have_no_correlation(wobble: float) -> None:
    constant = 5.0 + wobble * np.array([0.0, 1.0, 0.0])
    numbers = calibration(constant, constant, TARGET)
    assert numbers["pearson_mean"] is None
    assert numbers["pearson_variance"] is None
    assert numbers["mse"] == pytest.approx((9 + 9 + 16) / 3)


def test_one_example() -> None:
    numbers = calibration(np.array([1.0]), np.array([1.0]), np.array([1.0]))
    assert numbers["pearson_mean"] is None
    assert numbers["nll"] == pytest.approx(0.5 * np.log(2 * np.pi))


def test_reliability_by_hand() -> None:
    # sorted by variance: 1 and 1 (errors 1 and 3), then 4 (error 0)
    table = reliability(MEAN, VARIANCE, TARGET, bins=2)
    assert table["bin"].tolist() == [0, 1]
    assert table["n"].tolist() == [2, 1]
    assert table["predicted_std"].tolist() == pytest.approx([1.0, 2.0])
    assert table["rmse"].tolist() == pytest.approx([np.sqrt(5), 0.0])


def test_calibrated_predictions_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    deviation = rng.uniform(0.5, 3, size=40_000)
    table = reliability(np.zeros(40_000), deviation**2, deviation * rng.normal(size=40_000))
    assert len(table) == 10
    np.testing.assert_allclose(table["rmse"], table["predicted_std"], rtol=0.05)


def test_fewer_examples_than_bins() -> None:
    assert reliability(MEAN, VARIANCE, TARGET)["n"].tolist() == [1, 1, 1]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no held-out examples"):
        calibration(np.empty(0), np.empty(0), np.empty(0))
    with pytest.raises(InputError, match="differ in shape"):
        calibration(MEAN, VARIANCE[:2], TARGET)
    with pytest.raises(InputError, match="at least one bin"):
        reliability(MEAN, VARIANCE, TARGET, bins=0)
