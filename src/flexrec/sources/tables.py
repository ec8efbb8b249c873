"""What every dataset shares on its way into the common tables: parsing with errors that name file, row and key."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns

if TYPE_CHECKING:
    import pandas as pd

# 1990-01-01 and 2100-01-01 in epoch seconds: catches milliseconds, zeros and shifted columns
EARLIEST, LATEST = 631_152_000, 4_102_444_800


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
        InputError: Wrong header, or a row with too few or too many fields.
    """
    import pandas as pd

    if header:
        first, _, data = data.partition(b"\n")
        names = first.rstrip(b"\r").decode(encoding).split(separator.decode(encoding))
        if missing := [name for name in columns if name not in names]:
            raise InputError(f"{file}: column {', '.join(missing)} is missing; the header has {', '.join(names)}")
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
        row = {name: frame[name].iloc[at] for name in frame.columns}
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
) -> pd.DataFrame:
    """Check parsed items whose ids are whole numbers and put them into the common form.

    Raises:
        InputError: An id that is not a whole number or occurs twice, or an empty title.
    """
    import pandas as pd

    seen: dict[int, int] = {}
    for row, (source_id, title) in enumerate(zip(source_ids, titles, strict=True), start=first_row):
        if not (source_id.isascii() and source_id.isdigit()):
            raise InputError(f"{file}, row {row}: item id {source_id!r} is not a whole number")
        if int(source_id) in seen:
            raise InputError(f"{file}, row {row}: item {source_id} occurs before, in row {seen[int(source_id)]}")
        if not title.strip():
            raise InputError(f"{file}, row {row} (item {source_id}): the title is empty")
        seen[int(source_id)] = row
    return pd.DataFrame(
        {
            Columns.ITEM_ID: np.fromiter(seen, dtype=np.int64, count=len(seen)),
            Columns.SOURCE_ID: list(source_ids),
            Columns.TITLE: list(titles),
            Columns.TEXT: list(texts),
            Columns.TOPICS: [list(names) for names in topics],
        }
    )
