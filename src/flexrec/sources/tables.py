"""What every dataset shares on its way into the common tables: parsing with errors that name file, row and key."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns

if TYPE_CHECKING:
    import ibis
    import pandas as pd

# 1990-01-01 and 2100-01-01 in epoch seconds: catches milliseconds, zeros and shifted columns
EARLIEST, LATEST = 631_152_000, 4_102_444_800


# beyond it a number that was parsed as a float no longer tells neighbours apart
LARGEST = 2**53


@dataclass(frozen=True)
class Tables:
    """What a source makes of its raw files."""

    interactions: ibis.Table | pd.DataFrame
    """user_id, item_id, timestamp (epoch s), engagement, event_id (rank in (time, file order)); one row per pair."""
    items: pd.DataFrame
    """item_id, source_id, title, text, topics (lists of texts), released (year, NaN where unknown)."""
    queries: pd.DataFrame | None = None
    """user_id, query (a text), split (None: dealt by the seed); None where nobody asks in words."""
    daily_counts: pd.DataFrame | None = None
    """item_id, timestamp (epoch s of the day's begin, UTC), count (>= 0): the platform's own plays; None: no such."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rule in words -> rows that it dropped or repaired."""


def read_delimited(
    data: bytes,
    columns: Sequence[str],
    *,
    file: str,
    separator: bytes,
    encoding: str,
    header: bool,
    kind: Literal["text", "numbers"],
) -> pd.DataFrame:
    """Parse delimited text without quoting into a frame with exactly `columns`.

    Args:
        data: Raw bytes of the file.
        columns: Expected columns in their order; compared with the header where there is one.
        file: Name for messages.
        separator: One or more bytes between the fields.
        encoding: Of the text.
        header: Whether the first line names the columns.
        kind: `text` keeps every field as it is written, `numbers` lets them be numbers (unreadable ones stay text).

    Raises:
        InputError: Another encoding, wrong header, a row with too few or too many fields, or with a control character
            that ends a line or a text.
    """
    import pandas as pd

    def refuse(at: int, problem: str) -> None:
        row = data.count(b"\n", 0, at) + 1
        raise InputError(f"{file}, row {row}: {problem}; fetch the file again")

    data = data.replace(b"\r\n", b"\n")
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        refuse(error.start, f"not {encoding} text ({error.reason})")
    for character, words in ((b"\r", "a carriage return"), (b"\x00", "a NUL character"), (b"\t", "a tab")):
        if character != separator and (at := data.find(character)) >= 0:
            refuse(at, f"{words} inside the row")
    if header:
        first, _, data = data.partition(b"\n")
        names = first.decode(encoding).split(separator.decode(encoding))
        if missing := [name for name in columns if name not in names]:
            raise InputError(f"{file}: column {', '.join(missing)} is missing; the header has {', '.join(names)}")
        if len(set(names)) < len(names):
            raise InputError(f"{file}: a column occurs twice in the header {', '.join(names)}")
    else:
        names = list(columns)
    if not data:
        raise InputError(f"{file}: there are no rows")
    data = data.replace(separator, b"\t")
    cells = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(cells == ord("\n"))
    rows = len(breaks) + (not data.endswith(b"\n"))
    fields = 1 + np.bincount(np.searchsorted(breaks, np.flatnonzero(cells == ord("\t"))), minlength=rows)
    if (bad := np.flatnonzero(fields != len(names))).size:
        raise InputError(
            f"{file}, row {bad[0] + 1 + header}: {fields[bad[0]]} fields, expected {len(names)} ({', '.join(names)})"
        )
    frame = pd.read_csv(
        io.BytesIO(data),
        sep="\t",
        names=names,
        header=None,
        index_col=False,
        encoding=encoding,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
        low_memory=False,
        dtype=str if kind == "text" else None,
        keep_default_na=kind == "numbers",
    )
    return frame[list(columns)]


def interactions_table(
    frame: pd.DataFrame,
    *,
    file: str,
    first_row: int,
    items: Int[np.ndarray, " items"],
    engagement_name: str,
    engagement_range: tuple[float, float],
) -> pd.DataFrame:
    """Check parsed interactions and put them into the common form, sorted by `event_id`.

    Args:
        frame: Columns user_id, item_id, engagement, timestamp in file order, as parsed.
        file: Name for messages.
        first_row: Line number of the first row, for messages.
        items: Every known item id.
        engagement_name: What the dataset calls the engagement, for messages.
        engagement_range: Lowest and highest allowed engagement.

    Returns:
        user_id, item_id, timestamp (epoch seconds), engagement, event_id (rank in (timestamp, file order), from 0).

    Raises:
        InputError: A field that is not a number, an engagement or time out of range, an unknown item, a repeated pair.
    """
    import pandas as pd

    def refuse(bad: np.ndarray, problem: str) -> None:
        if not bad.any():
            return
        at = int(np.flatnonzero(bad)[0])
        row = {name: shown(frame[name].iloc[at]) for name in frame.columns}
        raise InputError(
            f"{file}, row {first_row + at} (user {row[Columns.USER_ID]}, item {row[Columns.ITEM_ID]}): "
            + problem.format(**row)
            + ". Correct or remove the row, or fetch the file again."
        )

    def number(column: str, label: str, *, whole: bool) -> np.ndarray:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy()
        floats = values.astype(np.float64)
        refuse(~np.isfinite(floats), f"{label} {{{column}}} is not a number")
        if whole:
            refuse(floats != np.floor(floats), f"{label} {{{column}}} is not a whole number")
            refuse(np.abs(floats) > LARGEST, f"{label} {{{column}}} is beyond {LARGEST}")
        return values.astype(np.int64) if whole else floats

    users = number(Columns.USER_ID, "user id", whole=True)
    item_ids = number(Columns.ITEM_ID, "item id", whole=True)
    engagement: Float[np.ndarray, " n"] = number(Columns.ENGAGEMENT, engagement_name, whole=False)
    low, high = engagement_range
    refuse((engagement < low) | (engagement > high), f"{engagement_name} {{engagement}} is outside {low:g} to {high:g}")
    timestamps = number(Columns.TIMESTAMP, "timestamp", whole=True)
    refuse((timestamps < EARLIEST) | (timestamps > LATEST), "timestamp {timestamp} is not in epoch seconds")
    refuse(~np.isin(item_ids, items), "item {item_id} is not among the known items")
    pairs = pd.DataFrame({Columns.USER_ID: users, Columns.ITEM_ID: item_ids})
    refuse(pairs.duplicated().to_numpy(), f"the pair occurs before; each user has one {engagement_name} per item")

    order = np.argsort(timestamps, kind="stable")
    return pd.DataFrame(
        {
            Columns.USER_ID: users[order],
            Columns.ITEM_ID: item_ids[order],
            Columns.TIMESTAMP: timestamps[order],
            Columns.ENGAGEMENT: engagement[order],
            Columns.EVENT_ID: np.arange(len(order), dtype=np.int64),
        }
    )


def items_table(
    source_ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    topics: Sequence[Sequence[str]],
    *,
    file: str,
    first_row: int,
    released: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Check parsed items whose ids are whole numbers and put them into the common form.

    Args:
        source_ids: The maker's ids.
        titles: Shown in prompts.
        texts: For the text encoder.
        topics: Per item any number of topics.
        file: Name for messages.
        first_row: Line number of the first row, for messages.
        released: Years, NaN where unknown; None where the dataset has none at all.

    Raises:
        InputError: An id that is not a whole number or occurs twice, or an empty title.
    """
    import pandas as pd

    seen: dict[int, int] = {}
    for row, (source_id, title) in enumerate(zip(source_ids, titles, strict=True), start=first_row):
        if not (source_id.isascii() and source_id.isdigit()):
            raise InputError(f"{file}, row {row}: item id {shown(source_id)!r} is not a whole number")
        if int(source_id) in seen:
            raise InputError(f"{file}, row {row}: item {shown(source_id)} occurs before, in row {seen[int(source_id)]}")
        if not title.strip():
            raise InputError(f"{file}, row {row} (item {shown(source_id)}): the title is empty")
        seen[int(source_id)] = row
    return pd.DataFrame(
        {
            Columns.ITEM_ID: np.fromiter(seen, dtype=np.int64, count=len(seen)),
            Columns.SOURCE_ID: list(source_ids),
            Columns.TITLE: list(titles),
            Columns.TEXT: list(texts),
            Columns.TOPICS: [list(names) for names in topics],
            Columns.RELEASED: np.full(len(seen), np.nan) if released is None else np.asarray(released, dtype=float),
        }
    )


def queries_table(queries: pd.DataFrame | None) -> pd.DataFrame:
    """The table `queries`, without rows where a source has none."""
    import pandas as pd

    if queries is not None:
        return queries
    return pd.DataFrame(
        {
            Columns.USER_ID: np.empty(0, dtype=np.int64),
            Columns.QUERY: pd.Series(dtype=str),
            Columns.SPLIT: pd.Series(dtype=str),
        }
    )


def daily_counts_table(daily_counts: pd.DataFrame | None) -> pd.DataFrame:
    """The table `daily_counts`, without rows where a source has none."""
    import pandas as pd

    if daily_counts is not None:
        return daily_counts
    names = (Columns.ITEM_ID, Columns.TIMESTAMP, Columns.COUNT)
    return pd.DataFrame({name: np.empty(0, dtype=np.int64) for name in names})


def shown(value: object) -> str:
    """A value of a file as a message may show it: one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
