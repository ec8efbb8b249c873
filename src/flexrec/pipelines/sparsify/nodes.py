"""Sparsification."""

import pandas as pd

from flexrec.sources.sparsify import Marks, sparsify
from flexrec.tabular import Table


def observe(interactions: Table, queries: pd.DataFrame, density: float, seed: int) -> Marks:
    """Mark a share of each user's interactions as observed, and hold users out."""
    return sparsify(interactions, density=density, seed=seed, queries=queries)
