r"""A world in which everything is known.

A request is a user with K candidates out of a pool of items. Per candidate there are five signals, each of mean 0 and
variance 1: similarity (of the item to the user's taste), niche, trend, quality, and similarity times niche. A need
weighs them; relevance $\ell = \sqrt{1-h}\,c + \sqrt{h}\,\varepsilon$ has a composed part $c$ of variance 1 and a share
$h$ that no feature shows. It becomes a rating and, as on MovieLens, a gain:

$$g = \frac{2^{r} - 1}{31}, \qquad r = 5\,\sigma(\text{slope} \cdot \ell + \text{shift}) \in (0, 5)$$

What the policy sees are the products of taste and item per dimension (whose sum is the similarity), niche, trend and
quality: it has to find the composition by itself. What it is trained with is `flexrec.planted.settings
.FeedbackSettings`. Random numbers have a stream per purpose, so that two worlds that differ in the critic's noise
alone share their users, items, gains and the standardised errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float

from flexrec.planted.settings import FeedbackSettings, WorldSettings
from flexrec.ranking.metrics import kendall_tau

SIGNALS = ("similarity", "niche", "trend", "quality", "niche_fit")

# what a stream of random numbers is for
_REQUESTS, _ERRORS, _OBSERVED = range(3)


@dataclass(frozen=True)
class World:
    """The requests of R seeds, training requests before held-out ones.

    Attributes:
        features: What the policy sees of every candidate, of mean 0 and variance 1.
        views: Groups of features, by name; 1 where a feature belongs to the group.
        descriptions: What the policy is told of every need: its weights, of length 1.
        gains: True gains by need, in (0, 1).
        means: Completed gains by need: the true ones where observed, else the critic's, not below 0.
        variances: The variances that the critic states; 0 where observed.
        train: How many of the requests may be trained on.
    """

    features: Float[np.ndarray, "R N K F"]
    views: dict[str, Float[np.ndarray, " F"]]
    descriptions: Float[np.ndarray, "M E"]
    gains: Float[np.ndarray, "R N M K"]
    means: Float[np.ndarray, "R N M K"]
    variances: Float[np.ndarray, "R N K"]
    train: int


@dataclass(frozen=True)
class _Requests:
    """What one seed makes."""

    features: Float[np.ndarray, "N K F"]
    gains: Float[np.ndarray, "N M K"]
    means: Float[np.ndarray, "N M K"]
    variances: Float[np.ndarray, "N K"]


def fabricate(settings: WorldSettings, feedback: FeedbackSettings, seeds: Sequence[int]) -> World:
    """Make the worlds of several seeds; that of a seed does not depend on the others.

    Args:
        settings: Sizes, needs, and how relevance becomes a gain.
        feedback: The critic.
        seeds: At least one.
    """
    parts = [_requests(settings, feedback, seed) for seed in seeds]
    stacked = {field.name: np.stack([getattr(part, field.name) for part in parts]) for field in fields(_Requests)}
    weights = np.array([need.weights for need in settings.needs])
    return World(
        **stacked,
        views=feature_groups(settings.tastes),
        descriptions=weights / np.linalg.norm(weights, axis=1, keepdims=True),
        train=settings.train,
    )


def feature_groups(tastes: int) -> dict[str, Float[np.ndarray, " F"]]:
    """The groups of features: taste (with niche), trend, quality."""
    taste = np.array([1.0] * (tastes + 1) + [0.0, 0.0])
    trend, quality = np.eye(tastes + 3)[-2:]
    return {"taste": taste, "trend": trend, "quality": quality}


def _requests(settings: WorldSettings, feedback: FeedbackSettings, seed: int) -> _Requests:
    rng = np.random.default_rng([seed, _REQUESTS])
    N, K, D = settings.train + settings.test, settings.candidates, settings.tastes
    items = rng.standard_normal((settings.items, D + 2))
    tastes = rng.standard_normal((N, 1, D))
    candidates = np.argsort(rng.random((N, settings.items)), axis=1)[:, :K]
    share = settings.niche_share
    niche = ((rng.random((N, K)) < share) - share) / np.sqrt(share * (1 - share))
    unseen = rng.standard_normal((N, len(settings.needs), K))

    products = tastes * items[candidates, :D]
    trend, quality = items[candidates, D], items[candidates, D + 1]
    similarity = products.sum(axis=-1) / np.sqrt(D)
    signals = np.stack([similarity, niche, trend, quality, similarity * niche], axis=1)
    weights = np.array([need.weights for need in settings.needs])
    composed = np.einsum("me,nek->nmk", weights / np.linalg.norm(weights, axis=1, keepdims=True), signals)
    relevance = np.sqrt(1 - settings.hidden) * composed + np.sqrt(settings.hidden) * unseen
    ratings = 5.0 / (1.0 + np.exp(-(settings.slope * relevance + settings.shift)))
    gains = (np.exp2(ratings) - 1.0) / 31.0

    observed = np.random.default_rng([seed, _OBSERVED]).random((N, K)) < feedback.observed
    means, stated = _complete(gains, trend, observed, feedback, np.random.default_rng([seed, _ERRORS]))
    features = np.concatenate([products, np.stack([niche, trend, quality], axis=-1)], axis=-1)
    return _Requests(features, gains, means, stated)


def _complete(
    gains: Float[np.ndarray, "N M K"],
    trend: Float[np.ndarray, "N K"],
    observed: Bool[np.ndarray, "N K"],
    feedback: FeedbackSettings,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "N M K"], Float[np.ndarray, "N K"]]:
    """Completed gains and the variances that the critic states."""
    N, M, K = gains.shape
    of_request, of_item, elsewhere = (
        rng.standard_normal((N, 1)),
        rng.standard_normal((N, K)),
        rng.standard_normal((N, K)),
    )
    errors = rng.standard_normal((N, M, K))
    of_item = np.sqrt(1 - feedback.rare) * of_item - np.sqrt(feedback.rare) * trend
    unsure = np.sqrt(feedback.between) * of_request + np.sqrt(1 - feedback.between) * of_item

    def variance(zeta: np.ndarray) -> np.ndarray:
        return feedback.noise**2 * np.exp(feedback.spread * zeta - feedback.spread**2 / 2)

    deviations = np.sqrt(variance(unsure))[:, None] * (errors + feedback.bias)
    means = np.where(observed[:, None], gains, np.maximum(gains + deviations, 0.0))
    zeta = {"true": unsure, "unrelated": elsewhere, "inverted": -unsure}[feedback.stated]
    return means, np.where(observed, 0.0, variance(zeta))


def ideal_taus(world: World, needs: Sequence[str]) -> dict[tuple[str, str], Float[np.ndarray, " R"]]:
    """How alike the ideal lists of two needs are: Kendall's tau, the mean over the held-out requests of each seed.

    Args:
        world: Its true gains are read.
        needs: Names of all its needs, in their order.
    """
    orders = [np.argsort(-world.gains[:, world.train :, place], axis=-1) for place in range(len(needs))]
    return {
        (a, b): kendall_tau(orders[i], orders[j]).mean(-1)
        for i, a in enumerate(needs)
        for j, b in enumerate(needs)
        if i != j
    }
