"""Biased matrix factorisation by alternating least squares; no torch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from flexrec.critic.settings import FactorisationSettings


@dataclass(frozen=True, eq=False)
class Factorisation:
    """What was learnt of the items; the last row of `bias` and `vectors` is zero and stands for all others."""

    item_ids: Int[np.ndarray, " m"]
    """Ascending."""
    bias: Float[np.ndarray, " m1"]
    vectors: Float[np.ndarray, "m1 f"]
    mean: float
    """Of the gains."""
    scale: float
    """Standard deviation of the gains; biases and vectors are in its unit."""
    settings: FactorisationSettings

    def rows(self, items: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Row of each item; the last one for an item that was not seen."""
        places = np.minimum(np.searchsorted(self.item_ids, items), len(self.item_ids) - 1)
        return np.where(self.item_ids[places] == items, places, len(self.item_ids))

    def fold_in(
        self, owners: Int[np.ndarray, " n"], items: Int[np.ndarray, " n"], gains: Float[np.ndarray, " n"], *, count: int
    ) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, "count f"]]:
        """Biases and vectors of users who were not seen, from what is known of them: `ridge_step`.

        Args:
            owners: Who is meant, numbered from 0.
            items: An item of the owner's history.
            gains: Its gain.
            count: Number of users; one without history gets zeros.
        """
        shape = (count, len(self.bias))
        columns = self.rows(items)
        counts = sparse.csr_array((np.ones(len(columns)), (owners, columns)), shape=shape)
        sums = sparse.csr_array(((gains - self.mean) / self.scale, (owners, columns)), shape=shape)
        return ridge_step(counts, sums, self.bias, self.vectors, self.settings)

    def predict(
        self,
        bias: Float[np.ndarray, " count"],
        vectors: Float[np.ndarray, "count f"],
        owners: Int[np.ndarray, " n"],
        items: Int[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        """Gains of pairs of a user that `fold_in` made, by number, and an item."""
        rows = self.rows(items)
        personal = np.einsum("nf,nf->n", self.vectors[rows], vectors[owners])
        return np.asarray(self.mean + self.scale * (bias[owners] + self.bias[rows] + personal))


def fit_factorisation(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    gains: Float[np.ndarray, " n"],
    settings: FactorisationSettings,
    *,
    seed: int,
) -> Factorisation:
    r"""Fit biases and vectors of users and items to standardised gains.

    .. math:: \min \sum_{ui} (r_{ui} - b_u - b_i - p_u^\top q_i)^2
        + \lambda_b \Bigl(\sum_u b_u^2 + \sum_i b_i^2\Bigr) + \lambda_f \Bigl(\sum_u |p_u|^2 + \sum_i |q_i|^2\Bigr)

    where `r` is the gain, less the mean and over the standard deviation of all gains. Users and items take turns; each
    turn is exact, so the sum never grows.

    Source: Koren, Bell and Volinsky (2009), "Matrix factorization techniques for recommender systems", equation 5 and
    its section on alternating least squares.

    Args:
        users: Any integers, as are `items`; a pair may occur repeatedly.
        items: Item of each observation.
        gains: Finite; at least one.
        settings: Sizes and penalties.
        seed: Of the items' first vectors, >= 0.
    """
    _, rows = np.unique(users, return_inverse=True)
    item_ids, columns = np.unique(items, return_inverse=True)
    # equal gains have no deviation
    mean, scale = float(gains.mean()), float(gains.std()) or 1.0
    counts = sparse.csr_array((np.ones(len(rows)), (rows, columns)))
    sums = sparse.csr_array(((gains - mean) / scale, (rows, columns)), shape=counts.shape)
    counts_of_items, sums_of_items = sparse.csr_array(counts.T), sparse.csr_array(sums.T)
    bias = np.zeros(len(item_ids))
    vectors = np.random.default_rng(seed).normal(0.0, settings.initial_deviation, (len(item_ids), settings.factors))
    for _turn in range(settings.iterations):
        of_users = ridge_step(counts, sums, bias, vectors, settings)
        bias, vectors = ridge_step(counts_of_items, sums_of_items, *of_users, settings)
    return Factorisation(
        item_ids, np.append(bias, 0.0), np.vstack([vectors, np.zeros(settings.factors)]), mean, scale, settings
    )


MATRIX_NUMBERS = 1 << 24
"""At most so many numbers of the matrices of a step are in memory at once: 128 MiB."""


def ridge_step(
    counts: sparse.csr_array,
    sums: sparse.csr_array,
    bias: Float[np.ndarray, " m"],
    vectors: Float[np.ndarray, "m f"],
    settings: FactorisationSettings,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n f"]]:
    r"""The best biases and vectors of all rows, given those of the columns.

    .. math:: (b_u, p_u) = \Bigl(\sum_i x_i x_i^\top + \Lambda\Bigr)^{-1} \sum_i x_i (r_{ui} - b_i), \qquad
        x_i = (1, q_i), \quad \Lambda = \mathrm{diag}(\lambda_b, \lambda_f, \ldots, \lambda_f)

    Args:
        counts: `n m`, number of observations per row and column.
        sums: `n m`, their sum.
        bias: Of the columns.
        vectors: Of the columns.
        settings: The penalties.

    Returns:
        Biases and vectors of the rows; zeros for a row without observations.
    """
    features = np.column_stack([np.ones(len(bias)), vectors])
    width = features.shape[1]
    products = (features[:, :, None] * features[:, None, :]).reshape(len(bias), width**2)
    penalty = np.diag([settings.bias_penalty] + [settings.factor_penalty] * (width - 1))
    right = sums @ features - counts @ (bias[:, None] * features)
    solved = np.empty((counts.shape[0], width))
    # the matrices of all rows at once would be gigabytes
    rows = max(1, MATRIX_NUMBERS // width**2)
    for start in range(0, counts.shape[0], rows):
        part = slice(start, start + rows)
        left = (counts[part] @ products).reshape(-1, width, width) + penalty
        solved[part] = np.linalg.solve(left, right[part][:, :, None])[:, :, 0]
    return solved[:, 0], solved[:, 1:]
