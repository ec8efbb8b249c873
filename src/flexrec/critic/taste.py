"""What a matrix factorisation predicts from a history, as a feature of the critic; no torch.

The critic's own view of a user is a mean of the texts of a few recent items; whom else these items were liked by, and
what they liked, is not in it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexrec.critic.factorisation import fit_factorisation
from flexrec.critic.settings import FactorisationSettings
from flexrec.errors import InputError

FOLDS = 5
"""Parts of the training users; a user's predictions come from a factorisation of the other parts."""


@dataclass(frozen=True, eq=False)
class Histories:
    """What is known of a user before each request, most recent first; -1 where there is no item."""

    items: Int[np.ndarray, "n H"]
    """Rows of the item embeddings."""
    gains: Float[np.ndarray, "n H"]
    """Not read where there is no item."""


@dataclass(frozen=True, eq=False)
class Observed:
    """The observed interactions of training users."""

    users: Int[np.ndarray, " m"]
    items: Int[np.ndarray, " m"]
    """Rows of the item embeddings."""
    gains: Float[np.ndarray, " m"]


def taste(
    users: Int[np.ndarray, " n"],
    histories: Histories,
    request: Int[np.ndarray, " p"],
    candidates: Int[np.ndarray, " p"],
    observed: Observed,
    settings: FactorisationSettings,
) -> Float[np.ndarray, " p"]:
    """Gain that a biased matrix factorisation predicts for candidates, the user folded in by the history.

    A training user's prediction comes from items that were factorised without that user, so that a training example
    never reads its own label: the users with observations are dealt to `FOLDS` parts in turn, by their order. Whoever
    is none of them is predicted from all.

    Args:
        users: User of each request.
        histories: Of each request.
        request: Request of each candidate, an index into the two above.
        candidates: Rows of the item embeddings.
        observed: What the items are known by; at least two users.
        settings: Of the factorisation.

    Returns:
        Float64, on the scale of the gain; the mean gain where neither history nor item is known.

    Raises:
        InputError: A single user has been observed.
    """
    known = np.unique(observed.users)
    if len(known) < 2:
        raise InputError("critic.taste needs observed interactions of two training users at least; leave it out")
    folds = min(FOLDS, len(known))
    place = np.minimum(np.searchsorted(known, users), len(known) - 1)
    part = np.where(known[place] == users, place % folds, -1)
    own_part = np.searchsorted(known, observed.users) % folds
    predicted = np.empty(len(candidates))
    for fold in np.unique(part):
        others = own_part != fold
        model = fit_factorisation(
            observed.users[others], observed.items[others], observed.gains[others], settings, seed=0
        )
        mine = np.flatnonzero(part == fold)
        items, gains = histories.items[mine], histories.gains[mine]
        there = items >= 0
        bias, vectors = model.fold_in(
            np.repeat(np.arange(len(mine)), there.sum(axis=1)), items[there], gains[there], count=len(mine)
        )
        asked = np.flatnonzero(part[request] == fold)
        owner = np.searchsorted(mine, request[asked])
        predicted[asked] = model.predict(bias, vectors, owner, candidates[asked])
    return predicted
