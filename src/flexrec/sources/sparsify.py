"""Sparse feedback: which interactions training may see, and which users belong to which split.

Both are decided by the order of MD5 digests of texts, which every engine computes alike. An engine's own hash or random
functions differ between engines and versions, so the sample would change with the backend.

The result is kept as marks on the interactions, the observed events and the split of every user, and not as a second
copy of the table: that would be most of the bytes and of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexrec.errors import InputError
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.tabular import as_table, kept

if TYPE_CHECKING:
    import ibis
    import numpy as np
    import pandas as pd

MARGIN = 5.0
"""Digests are uniform, so only the low ones of a user are sorted: those below the share of them at which the quota lies
MARGIN standard deviations under what is to be expected. Should the margin not hold for some user, all are sorted: the
result is the same, whatever the number is."""


@dataclass(frozen=True)
class Marks:
    """What is observed, and who is held out."""

    observed: ibis.Table
    """event_id of every observed interaction."""
    splits: ibis.Table
    """user_id, split: every user once."""


def marked(interactions: ibis.Table, marks: Marks) -> ibis.Table:
    """The table `observations`: interactions plus `observed` (bool) and `split`."""
    event = Columns.EVENT_ID
    seen = marks.observed.select(seen=marks.observed[event])
    joined = interactions.left_join(seen, interactions[event] == seen["seen"])
    joined = joined.mutate(**{Columns.OBSERVED: joined["seen"].notnull()}).drop("seen")
    splits = marks.splits.select(owner=marks.splits[Columns.USER_ID], split=marks.splits[Columns.SPLIT])
    joined = joined.inner_join(splits, joined[Columns.USER_ID] == splits["owner"])
    return joined.select(*interactions.columns, Columns.OBSERVED, Columns.SPLIT)


def observed_training_rows(observations: ibis.Table | pd.DataFrame) -> pd.DataFrame:
    """The observed interactions of training users, in memory, in the order of the events: what training may read."""
    table = as_table(observations)
    kept = table.filter(table[Columns.OBSERVED] & (table[Columns.SPLIT] == SPLITS[0])).to_pandas()
    return kept.sort_values(Columns.EVENT_ID, ignore_index=True)


def sparsify(
    interactions: ibis.Table | pd.DataFrame,
    *,
    density: float,
    seed: int,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    queries: pd.DataFrame | None = None,
) -> Marks:
    """Mark each user's observed interactions and each user's split.

    Of a user's n interactions `max(1, floor(density * n + 1/2))` are observed: the first in the order of
    md5("seed|event_id|user_id"). Users are dealt to the splits by the order of
    md5("seed|split|user_id"), in exact shares; those whose query has a split keep that one, and where any has the
    split `test`, nobody is dealt to it.

    Args:
        interactions: The common table.
        density: Share of each user's interactions that is observed, in (0, 1]; 1 observes everything.
        seed: Of both choices.
        shares: Of the users in train, validation and test; they add up to 1.
        queries: The common table, for the splits that it gives.

    Raises:
        InputError: Density or shares out of range, or too few users for the shares.
    """
    if not 0 < density <= 1:
        raise InputError(f"density must be above 0 and at most 1, got {density}")
    table = as_table(interactions)
    sizes = table.group_by(Columns.USER_ID).aggregate(size=table.count()).to_pandas()
    return Marks(_observed(table, sizes, density, seed), _splits(sizes[[Columns.USER_ID]], queries, shares, seed))


def _observed(table: ibis.Table, sizes: pd.DataFrame, density: float, seed: int) -> ibis.Table:
    """The observed events: per user the first by digest, by a sort of hardly more than those."""
    import ibis
    import numpy as np

    if density == 1:
        return table.select(Columns.EVENT_ID)
    size = sizes["size"].to_numpy(dtype=np.float64)
    quota = np.maximum(np.floor(density * size + 0.5), 1.0).astype(np.int64)
    user, event = table[Columns.USER_ID], table[Columns.EVENT_ID]
    digested = table.select(user, event, digest=_digest(seed, event, user))

    def lowest(below: list[str]) -> ibis.Table:
        quotas = ibis.memtable(sizes[[Columns.USER_ID]].assign(quota=quota, below=below))
        rows = digested.inner_join(quotas, [Columns.USER_ID, digested["digest"] < quotas["below"]])
        window = ibis.window(group_by=rows[Columns.USER_ID], order_by=rows["digest"])
        placed = rows.mutate(place=ibis.row_number().over(window))
        return kept(placed.filter(placed["place"] < placed["quota"]).select(Columns.EVENT_ID))

    chosen = lowest([_text_of(share) for share in _enough(quota, size).tolist()])
    return chosen if int(chosen.count().execute()) == int(quota.sum()) else lowest([_text_of(1.0)] * len(quota))


def _enough(quota: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The share c with c n - MARGIN sqrt(n c (1 - c)) = quota for every user (Wilson's upper bound of quota / n)."""
    import numpy as np

    part, square = quota / size, MARGIN**2
    spread = MARGIN * np.sqrt(part * (1 - part) / size + square / (4 * size**2))
    share: np.ndarray = (part + square / (2 * size) + spread) / (1 + square / size)
    return share


def _text_of(share: float) -> str:
    """The text below which that share of all hexadecimal digests lies."""
    return f"{math.floor(share * 16**8):08x}" if share < 1 else "g"


def _splits(users: pd.DataFrame, queries: pd.DataFrame | None, shares: Sequence[float], seed: int) -> ibis.Table:
    """Every user's split; the number of users is small, whatever the number of interactions."""
    import ibis
    import numpy as np
    import pandas as pd

    given = users.iloc[:0].assign(split="")
    if queries is not None and len(queries):
        known = queries.loc[queries[Columns.SPLIT].notna(), [Columns.USER_ID, Columns.SPLIT]]
        given = known[known[Columns.USER_ID].isin(users[Columns.USER_ID])]
    rest = users.loc[~users[Columns.USER_ID].isin(given[Columns.USER_ID]), Columns.USER_ID].to_numpy()
    if SPLITS[2] in set(given[Columns.SPLIT]):
        held_out = shares[0] + shares[1]
        shares = (shares[0] / held_out, shares[1] / held_out, 0.0)
    ends = _split_ends(len(rest), shares) if len(rest) or not len(given) else (0, 0)
    digests = [_md5(f"{seed}|split|{user}") for user in rest.tolist()]
    order = np.lexsort((rest, np.asarray(digests)))
    names = np.repeat(SPLITS, (ends[0], ends[1] - ends[0], len(rest) - ends[1]))
    dealt = pd.DataFrame({Columns.USER_ID: rest[order], Columns.SPLIT: names})
    both = pd.concat([given, dealt]) if len(given) else dealt
    return ibis.memtable(both.sort_values(Columns.USER_ID, ignore_index=True).astype({Columns.SPLIT: object}))


def _md5(text: str) -> str:
    import hashlib

    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _digest(seed: int, *columns: ibis.Column) -> ibis.Value:
    import ibis

    # one call that joins, instead of a chain of concatenations with a text in between each
    texts = [ibis.literal(str(seed)), *(column.cast("string") for column in columns)]
    return ibis.literal("|").join(texts).hexdigest("md5")


def _split_ends(users: int, shares: Sequence[float]) -> tuple[int, int]:
    """Return the places where validation and test begin; a split with a share above 0 gets at least one user."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or shares[0] <= 0 or not math.isclose(sum(shares), 1.0):
        raise InputError(f"the shares of {', '.join(SPLITS)} must not be negative and add up to 1, got {list(shares)}")
    held_out = [max(1, math.floor(share * users + 0.5)) if share > 0 else 0 for share in shares[1:]]
    train = users - sum(held_out)
    if train < 1:
        raise InputError(f"{users} users are too few for the shares {list(shares)}: no training user is left")
    return train, train + held_out[0]
