"""Sparse feedback: which interactions training may see, and which users belong to which split.

Both are decided by the order of MD5 digests of texts, which every engine computes alike. An engine's own hash or random
functions differ between engines and versions, so the sample would change with the backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexrec.errors import InputError
from flexrec.ranking.columns import SPLITS, Columns

if TYPE_CHECKING:
    import ibis
    import pandas as pd
    from ibis.backends import BaseBackend


def sparsify(
    interactions: pd.DataFrame | Path,
    *,
    density: float,
    seed: int,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    connection: BaseBackend | None = None,
) -> pd.DataFrame:
    """Mark each user's observed interactions and each user's split.

    Of a user's n interactions `max(1, floor(density * n + 1/2))` are observed: the first in the order of
    md5("seed|event_id|user_id"). Users are dealt to the splits by the order of
    md5("seed|split|user_id"), in exact shares.

    Args:
        interactions: The common table, or the Parquet file that holds it.
        density: Share of each user's interactions that is observed, in (0, 1]; 1 observes everything.
        seed: Of both choices.
        shares: Of the users in train, validation and test; they add up to 1.
        connection: Ibis backend to compute on; DuckDB in memory if None.

    Returns:
        interactions plus `observed` (bool) and `split`, sorted by `event_id`.

    Raises:
        InputError: Density or shares out of range, or too few users for the shares.
    """
    import ibis

    if not 0 < density <= 1:
        raise InputError(f"density must be above 0 and at most 1, got {density}")
    connection = ibis.duckdb.connect() if connection is None else connection
    table = connection.read_parquet(interactions) if isinstance(interactions, Path) else ibis.memtable(interactions)
    # a Parquet file may carry the index of the frame that it was written from
    table = table.select(Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP, Columns.ENGAGEMENT, Columns.EVENT_ID)
    users = table.select(Columns.USER_ID).distinct()
    ends = _split_ends(int(connection.execute(users.count())), shares)

    place = ibis.row_number().over(
        ibis.window(order_by=[_digest(f"{seed}|split", users[Columns.USER_ID]), users[Columns.USER_ID]])
    )
    users = users.mutate(place=place)
    splits = users.select(
        Columns.USER_ID,
        ibis.cases((users["place"] < ends[0], SPLITS[0]), (users["place"] < ends[1], SPLITS[1]), else_=SPLITS[2]).name(
            Columns.SPLIT
        ),
    )

    own = table[Columns.USER_ID]
    place = ibis.row_number().over(
        ibis.window(group_by=own, order_by=[_digest(str(seed), table[Columns.EVENT_ID], own), table[Columns.EVENT_ID]])
    )
    # a literal without a type is a decimal on some engines and a double on others
    share = ibis.literal(density, type="float64")
    size = table.count().over(ibis.window(group_by=own)).cast("float64")
    quota = ibis.greatest((share * size + ibis.literal(0.5, type="float64")).floor(), 1)
    marked = table.mutate(place=place, quota=quota)
    marked = marked.mutate(**{Columns.OBSERVED: marked["place"] < marked["quota"]}).drop("place", "quota")
    joined = marked.join(splits, Columns.USER_ID).order_by(Columns.EVENT_ID)
    return connection.to_pandas(joined)


def _digest(prefix: str, *columns: ibis.Column) -> ibis.Value:
    import ibis

    text = ibis.literal(prefix)
    for column in columns:
        text = text + "|" + column.cast("string")
    return text.hexdigest("md5")


def _split_ends(users: int, shares: Sequence[float]) -> tuple[int, int]:
    """Return the places where validation and test begin; a split with a share above 0 gets at least one user."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or shares[0] <= 0 or not math.isclose(sum(shares), 1.0):
        raise InputError(f"the shares of {', '.join(SPLITS)} must not be negative and add up to 1, got {list(shares)}")
    held_out = [max(1, math.floor(share * users + 0.5)) if share > 0 else 0 for share in shares[1:]]
    train = users - sum(held_out)
    if train < 1:
        raise InputError(f"{users} users are too few for the shares {list(shares)}: no training user is left")
    return train, train + held_out[0]
