"""Sparsification."""

import pandas as pd

from flexrec.sources.sparsify import sparsify


def observe(interactions: pd.DataFrame, density: float, seed: int) -> pd.DataFrame:
    """Mark a share of each user's interactions as observed, and hold users out."""
    return sparsify(interactions, density=density, seed=seed)
