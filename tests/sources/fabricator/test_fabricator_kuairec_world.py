import numpy as np
import pytest

from flexrec.sources.fabricator.kuairec_world import pair_moments


def test_the_moments_by_hand():
    # spread 0: L = e^0 = 1; E F = 1 + .003 * 3 / 1.5 = 1.006; E F^2 = 1 + .003 (6 / 1.5 + 9 * 2 / (1.5 * .5)) = 1.084
    mean, variance = pair_moments(np.array([0.0]), np.array([0.0]))
    assert mean[0] == pytest.approx(0.995 * 1.006)
    assert variance[0] == pytest.approx(0.995 * 1.084 - (0.995 * 1.006) ** 2)
    # spread s multiplies the mean by e^(s^2/2)
    wide, _ = pair_moments(np.array([0.0]), np.array([1.0]))
    assert wide[0] == pytest.approx(mean[0] * np.exp(0.5))
