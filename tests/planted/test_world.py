import numpy as np
import pytest
from pydantic import ValidationError

from flexrec.planted.settings import FeedbackSettings, PlantedNeed
from flexrec.planted.world import fabricate, feature_groups, ideal_taus


def noisy(**changes) -> FeedbackSettings:
    return FeedbackSettings(**{"observed": 0.2, "noise": 0.1, "spread": 1.5, **changes})


def test_gains_follow_from_what_the_policy_sees(world_of):
    """With nothing hidden, by the formula of the module, from the features alone."""
    needs = (PlantedNeed(name="a", similarity=1.0, quality=-2.0), PlantedNeed(name="b", niche=1.0, niche_fit=3.0))
    world = fabricate(world_of(hidden=0.0, slope=1.5, shift=-0.5, tastes=3, needs=needs), noisy(), [4, 9])
    products, (niche, _trend, quality) = world.features[..., :3], np.moveaxis(world.features[..., 3:], -1, 0)
    similarity = products.sum(-1) / np.sqrt(3)
    # weights of length 1: sqrt(1 + 4) and sqrt(1 + 9)
    relevance = [(similarity - 2 * quality) / np.sqrt(5), (niche + 3 * similarity * niche) / np.sqrt(10)]
    for place, values in enumerate(relevance):
        rating = 5 / (1 + np.exp(0.5 - 1.5 * values))
        np.testing.assert_allclose(world.gains[:, :, place], (2**rating - 1) / 31, rtol=1e-12)
    np.testing.assert_allclose(world.descriptions[0], np.array([1, 0, 0, -2, 0]) / np.sqrt(5))


def test_the_signals_have_mean_0_and_variance_1(world_of):
    world = fabricate(world_of(train=2000, items=500), FeedbackSettings(), [0])
    features = world.features.reshape(-1, world.features.shape[-1])
    np.testing.assert_allclose(features.mean(0), 0, atol=0.12)
    np.testing.assert_allclose(features.std(0), 1, atol=0.12)
    assert features.shape[1] == len(next(iter(feature_groups(12).values())))
    # every feature belongs to one group
    np.testing.assert_array_equal(sum(feature_groups(4).values()), 1)


def test_the_world_of_a_seed_does_not_depend_on_the_others(world_of):
    together, alone = (fabricate(world_of(), noisy(), seeds) for seeds in ([3, 5], [5]))
    for name in ("features", "gains", "means", "variances"):
        np.testing.assert_array_equal(getattr(together, name)[1], getattr(alone, name)[0])
        assert not np.array_equal(getattr(together, name)[0], getattr(together, name)[1])


def test_noise_changes_the_size_of_the_errors_and_nothing_else(world_of):
    one, two = (fabricate(world_of(), noisy(noise=noise), [7]) for noise in (0.05, 0.1))
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_array_equal(one.gains, two.gains)
    np.testing.assert_allclose(two.variances, 4 * one.variances)
    above = (one.means > 0) & (two.means > 0)
    np.testing.assert_allclose((two.means - two.gains)[above], 2 * (one.means - one.gains)[above], atol=1e-12)
    assert (one.means >= 0).all()


def test_what_is_observed_is_exact(world_of):
    world = fabricate(world_of(train=500), noisy(observed=0.2), [1])
    observed = world.variances == 0
    assert observed.mean() == pytest.approx(0.2, abs=0.03)
    for place in range(2):
        np.testing.assert_array_equal(world.means[:, :, place][observed], world.gains[:, :, place][observed])
    assert (world.means[:, :, 0][~observed] != world.gains[:, :, 0][~observed]).all()
    exact = fabricate(world_of(), FeedbackSettings(observed=0.0), [1])
    np.testing.assert_array_equal(exact.means, exact.gains)
    assert not exact.variances.any()


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_mean_variance_is_the_noise_squared(world_of, spread):
    world = fabricate(world_of(train=5000), noisy(noise=0.2, spread=spread, observed=0.0), [2])
    assert world.variances.mean() == pytest.approx(0.04, rel=0.05)
    assert (np.ptp(world.variances) > 0.01) == (spread > 0)


@pytest.mark.parametrize(
    ("stated", "low", "high"), [("true", 0.3, 1), ("unrelated", -0.05, 0.05), ("inverted", -1, -0.1)]
)
def test_what_the_critic_states(world_of, stated, low, high):
    """Rank correlation of stated variance and squared error where nothing is cut off at 0."""
    world = fabricate(world_of(train=3000, shift=3.0), noisy(noise=0.02, stated=stated, observed=0.0), [2])
    errors = ((world.means - world.gains)[:, :, 0] ** 2).ravel()
    ranks = [np.argsort(np.argsort(values)) for values in (world.variances.ravel(), errors)]
    assert low <= np.corrcoef(*ranks)[0, 1] <= high


def test_where_the_spread_lies(world_of):
    def logs(**changes) -> tuple[np.ndarray, np.ndarray]:
        world = fabricate(world_of(train=500), noisy(observed=0.0, **changes), [3])
        return np.log(world.variances[0]), world.features[0, ..., -2]

    by_request, _ = logs(between=1.0)
    np.testing.assert_allclose(np.ptp(by_request, axis=1), 0, atol=1e-9)
    assert by_request[:, 0].std() > 1
    by_item, trend = logs(rare=1.0)
    # log variance = constant - spread * trend
    np.testing.assert_allclose(np.diff(by_item), -1.5 * np.diff(trend), atol=1e-9)


def test_an_optimistic_critic_errs_upwards(world_of):
    calm, keen = (fabricate(world_of(train=500), noisy(noise=0.01, bias=bias), [3]) for bias in (0.0, 1.0))
    gap = (keen.means - calm.means)[:, :, 0]
    above = (calm.means[:, :, 0] > 0) & (keen.means[:, :, 0] > 0)
    np.testing.assert_allclose(gap[above], np.sqrt(calm.variances)[above], atol=1e-12)


def test_ideal_lists_of_opposite_needs(world_of):
    needs = tuple(PlantedNeed(name=name, trend=weight) for name, weight in (("up", 1.0), ("down", -1.0), ("more", 2.0)))
    world = fabricate(world_of(hidden=0.0, needs=needs), FeedbackSettings(), [1, 2])
    taus = ideal_taus(world, ["up", "down", "more"])
    np.testing.assert_array_equal(taus["up", "down"], -1)
    np.testing.assert_array_equal(taus["more", "up"], 1)
    assert len(taus) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": 5}, "6 candidates cannot be drawn from 5 items"),
        ({"needs": [{"name": "a", "trend": 1}, {"name": "a", "niche": 1}]}, "different names, got a, a"),
        ({"needs": [{"name": "a"}]}, "the need 'a' weighs nothing"),
    ],
)
def test_worlds_that_cannot_be(world_of, changes, message):
    with pytest.raises(ValidationError, match=message):
        world_of(**changes)
