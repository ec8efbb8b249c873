"""Anybody's own data: a table of interactions and a table of items, as CSV or Parquet files. See docs/own_data.md."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, field_validator, model_validator

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources.engine import reading
from flexrec.sources.fetch import sha256_of
from flexrec.sources.tables import EARLIEST, LATEST, Tables

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ibis.backends import BaseBackend

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".parquet")
YEARS = (1000.0, 2200.0)
_MILLISECONDS = 1_000
_OPEN_QUOTE = "the id holds a line break, and so perhaps other rows: is a quotation mark not closed?"


class OwnData(Settings):
    """Where the two tables are and what their columns mean; nothing about them is guessed."""

    folder: str = Field(default="own", description="Folder of the tables, below the raw folder unless absolute.")
    interactions: str = Field(default="interactions.csv", description="File of the interactions, below `folder`.")
    items: str = Field(default="items.csv", description="File of the items, below `folder`.")
    timestamp_unit: Literal["seconds", "milliseconds", "iso", "none"] = Field(
        description="Of the times: epoch seconds, epoch milliseconds, ISO 8601 text (without an offset: UTC), or none, "
        "where the order of the rows stands for the order in time."
    )
    user_column: str = Field(default="user_id", description="Column of the interactions: who.")
    item_column: str = Field(default="item_id", description="Column of the interactions and of the items: what.")
    engagement_column: str = Field(default="engagement", description="Column of the interactions: how much, a number.")
    timestamp_column: str = Field(default="timestamp", description="Column of the interactions: when.")
    title_column: str = Field(default="title", description="Column of the items: the short name that prompts show.")
    text_column: str = Field(
        default="", description="Column of the items: the text that is embedded; none: title and topics."
    )
    topics_column: str = Field(default="", description="Column of the items: its topics in one text; none: no topics.")
    released_column: str = Field(default="", description="Column of the items: the year of release; none: unknown.")
    topics_separator: str = Field(default="|", min_length=1, description="Between the topics of an item.")
    ids: Literal["text", "whole"] = Field(
        default="text", description="Ids are any text, and numbered in its order; or whole numbers, kept as they are."
    )
    engagement_lowest: float = Field(default=0.0, allow_inf_nan=False, description="Less than this is refused.")
    engagement_highest: float = Field(default=1e6, allow_inf_nan=False, description="More than this is refused.")
    repeats: Literal["refuse", "first", "last", "sum"] = Field(
        default="refuse",
        description="What becomes of several interactions of a user with an item: refused, the earliest or the latest "
        "kept, or the engagements added at the time of the earliest.",
    )
    unknown_items: Literal["refuse", "drop"] = Field(
        default="refuse", description="What becomes of interactions with items that the items' table does not have."
    )
    separator: str = Field(default=",", min_length=1, max_length=1, description="Between the fields of a CSV file.")
    encoding: str = Field(default="utf-8", description="Of a CSV file.")
    sha256: str = Field(
        default="",
        pattern="^([0-9a-f]{64})?$",
        description="Digest over both files; other content is refused. Filled in where it is empty, so that new "
        "content is read again.",
    )

    @field_validator("interactions", "items")
    @classmethod
    def _readable(cls, name: str) -> str:
        if not name.lower().endswith(SUFFIXES):
            raise ValueError(f"the file {name!r} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        return name

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError as error:
            raise ValueError(f"unknown encoding {encoding!r}; utf-8 and latin-1 are common ones") from error
        return encoding

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.engagement_lowest >= self.engagement_highest:
            raise ValueError("engagement_lowest must be below engagement_highest")
        return self

    def fetch(self, raw_folder: Path) -> Path:
        """Return the folder of the two tables.

        Raises:
            InputError: A file is not there, or `sha256` is given and is not theirs.
        """
        folder = raw_folder / self.folder
        for option, name in (("interactions", self.interactions), ("items", self.items)):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder / name}: no such file; put your table there, or set `folder` and `{option}` in the "
                    "source_options of the dataset"
                )
        if self.sha256 and (actual := self.digest(raw_folder)) != self.sha256:
            raise InputError(
                f"{folder}: the SHA-256 over {self.interactions} and {self.items} is {actual}, expected {self.sha256}; "
                "put the right files there, or take `sha256` out of the source_options"
            )
        return folder

    def digest(self, raw_folder: Path) -> str:
        """SHA-256 over the digests of the two files; empty where one is not there."""
        paths = [raw_folder / self.folder / name for name in (self.interactions, self.items)]
        if not all(path.is_file() for path in paths):
            return ""
        return hashlib.sha256("\n".join(map(_sha256, paths)).encode()).hexdigest()

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Read the two tables of a folder; the connection is not needed.

        Raises:
            InputError: A file, column or value that cannot be used; the message names file, row and key. The header of
                a CSV file is row 1.
        """
        items, codes = self._items(raw / self.items)
        interactions, dropped = self._interactions(raw / self.interactions, codes)
        return Tables(interactions, items, dropped={rule: count for rule, count in dropped.items() if count})

    # ---- items ----

    def _items(self, path: Path) -> tuple[pd.DataFrame, pd.Series]:
        """The items, and their ids as numbers by the ids as text."""
        import pandas as pd

        optional = [self.text_column, self.topics_column, self.released_column]
        table = self._table(path, [self.item_column, self.title_column, *(name for name in optional if name)])
        refuse = _Refusal(path, self._first_row(path), {"item": table[self.item_column]})
        ids = table[self.item_column]
        refuse(ids.str.strip() == "", "the item has no id")
        refuse(ids.str.contains("\n"), _OPEN_QUOTE)
        refuse(ids.duplicated().to_numpy(), "the item occurs before; give every item one row")
        numbers = self._numbered(ids, ids, refuse)

        titles = _lines(table[self.title_column])
        refuse(titles == "", "the title is empty; give the item a title")
        topics: list[list[str]] = [[] for _ in range(len(table))]
        if self.topics_column:
            cells = table[self.topics_column].map(lambda cell: cell.split(self.topics_separator))
            topics = [[topic for name in names if (topic := " ".join(name.split()))] for names in cells]
        made = pd.Series(
            [f"{title}. {', '.join(names)}" if names else title for title, names in zip(titles, topics, strict=True)],
            dtype=object,
        )
        texts = _lines(table[self.text_column]) if self.text_column else made
        released = np.full(len(table), math.nan)
        if self.released_column:
            years = table[self.released_column].str.strip()
            released = pd.to_numeric(years, errors="coerce").to_numpy(dtype=np.float64, na_value=math.nan)
            known = (years != "").to_numpy()
            refuse(known & ~((released >= YEARS[0]) & (released <= YEARS[1])), "released {} is not a year", years)
        order = np.argsort(numbers, kind="stable")
        items = pd.DataFrame(
            {
                Columns.ITEM_ID: numbers,
                Columns.SOURCE_ID: ids.tolist(),
                Columns.TITLE: titles.tolist(),
                Columns.TEXT: texts.where(texts != "", made).tolist(),
                Columns.TOPICS: topics,
                Columns.RELEASED: released,
            }
        )
        return items.iloc[order].reset_index(drop=True), pd.Series(numbers, index=ids)

    # ---- interactions ----

    def _interactions(self, path: Path, codes: pd.Series) -> tuple[pd.DataFrame, dict[str, int]]:
        import pandas as pd

        timed = self.timestamp_unit != "none"
        columns = [self.user_column, self.item_column, self.engagement_column]
        table = self._table(path, [*columns, self.timestamp_column] if timed else columns)
        users, item_ids = table[self.user_column], table[self.item_column]
        refuse = _Refusal(path, self._first_row(path), {"user": users, "item": item_ids})
        refuse(users.str.strip() == "", "the user has no id")
        refuse(item_ids.str.strip() == "", "the item has no id")
        refuse(users.str.contains("\n") | item_ids.str.contains("\n"), _OPEN_QUOTE)
        places = codes.index.get_indexer(pd.Index(item_ids))
        unknown = places < 0
        if self.unknown_items == "refuse":
            refuse(unknown, f"the item is not in {self.items}; add it there, or set unknown_items: drop")

        given = table[self.engagement_column]
        engagement = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=math.nan)
        refuse(~np.isfinite(engagement), "{} is not a number", given, self.engagement_column)
        low, high = self.engagement_lowest, self.engagement_highest
        outside = (engagement < low) | (engagement > high)
        refuse(
            outside,
            f"{{}} is outside {low:g} to {high:g} (engagement_lowest, engagement_highest)",
            given,
            self.engagement_column,
        )
        times = self._times(table[self.timestamp_column], refuse) if timed else np.arange(len(table))

        frame = pd.DataFrame(
            {
                Columns.USER_ID: self._numbered(users, pd.Series(sorted(users.unique())), refuse),
                Columns.ITEM_ID: codes.to_numpy()[places],
                Columns.TIMESTAMP: times.astype(np.int64),
                Columns.ENGAGEMENT: engagement,
            }
        )
        pairs = [Columns.USER_ID, Columns.ITEM_ID]
        if self.repeats == "refuse":
            again = frame.duplicated(pairs).to_numpy() & ~unknown
            refuse(again, "the pair occurs before; remove the row, or set repeats: first, last or sum")
        frame = frame[~unknown]
        if frame.empty:
            raise InputError(f"{path}: no interaction is left; every item of it is missing in {self.items}")
        # stable: rows of one time keep their order in the file
        frame = frame.sort_values(Columns.TIMESTAMP, kind="stable", ignore_index=True)
        rows = len(frame)
        if self.repeats == "sum":
            frame[Columns.ENGAGEMENT] = frame.groupby(pairs)[Columns.ENGAGEMENT].transform("sum")
        frame = frame.drop_duplicates(pairs, keep="last" if self.repeats == "last" else "first", ignore_index=True)
        frame[Columns.EVENT_ID] = np.arange(len(frame), dtype=np.int64)
        dropped = {
            f"interactions with items that {self.items} does not have, dropped": int(unknown.sum()),
            f"repeated interactions of a user with an item, resolved by repeats: {self.repeats}": rows - len(frame),
        }
        return frame, dropped

    def _times(self, given: pd.Series, refuse: _Refusal) -> Int[np.ndarray, " n"]:
        """Epoch seconds; parts of a second are cut off."""
        import pandas as pd

        if self.timestamp_unit == "iso":
            # pandas takes `now` and `today` for times, too
            dated = given.where(given.str.match(r"[0-9]"), "")
            moments = pd.to_datetime(dated, format="ISO8601", utc=True, errors="coerce")
            refuse(
                moments.isna().to_numpy(),
                "{} is not a time in ISO 8601 (timestamp_unit: iso)",
                given,
                self.timestamp_column,
            )
            seconds = (moments.dt.as_unit("s").astype("int64")).to_numpy()
        else:
            numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=math.nan)
            refuse(~np.isfinite(numbers), "{} is not a number", given, self.timestamp_column)
            unit = _MILLISECONDS if self.timestamp_unit == "milliseconds" else 1
            seconds = np.floor(numbers / unit)
        refuse(
            (seconds < EARLIEST) | (seconds > LATEST),
            f"{{}} is not a time between 1990 and 2100 in {self.timestamp_unit}; check timestamp_unit",
            given,
            self.timestamp_column,
        )
        return seconds

    # ---- both ----

    def _numbered(self, ids: pd.Series, known: pd.Series, refuse: _Refusal) -> Int[np.ndarray, " n"]:
        """Ids as numbers: their place in the order of all ids as text, or what they say."""
        import pandas as pd

        if self.ids == "text":
            return pd.Index(sorted(known)).get_indexer(pd.Index(ids)).astype(np.int64)
        whole = ids.str.fullmatch(r"[0-9]{1,18}").to_numpy(dtype=bool)
        refuse(~whole, "{} is not a whole number of at most 18 digits; set ids: text", ids, "id")
        return ids.astype(np.int64).to_numpy()

    def _first_row(self, path: Path) -> int:
        return 1 if path.suffix.lower() == ".parquet" else 2

    def _table(self, path: Path, columns: list[str]) -> pd.DataFrame:
        """The named columns as text, rows in the order of the file; what is missing is empty."""
        import pandas as pd

        with reading(path, "correct the file, or the separator and encoding in the source_options"):
            table = self._parquet(path) if path.suffix.lower() == ".parquet" else self._csv(path)
            names = table.column_names
            for name in columns:
                if names.count(name) != 1:
                    problem = "occurs twice" if name in names else "is missing"
                    raise InputError(
                        f"{path}: column {name} {problem}; the columns are {', '.join(names)}. Rename it, or name "
                        "yours in the source_options of the dataset"
                    )
            if not len(table):
                raise InputError(f"{path}: there are no rows")
            if unused := [name for name in names if name not in columns]:
                logger.info("%s: columns that are not used: %s", path.name, ", ".join(unused))
            return pd.DataFrame({name: self._text(table.column(name), name, path) for name in columns})

    def _csv(self, path: Path) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv

        separator = "\t" if path.suffix.lower() == ".tsv" else self.separator
        with csv.open_csv(
            path,
            csv.ReadOptions(encoding=self.encoding),
            csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        ) as stream:
            names = stream.schema.names
        table = csv.read_csv(
            path,
            csv.ReadOptions(encoding=self.encoding),
            csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            # text first and last: whether a field is a number is decided here, with its row in the message
            csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False),
        )
        # a quote that nothing closes takes the rest of the file into one field
        last = [column[-1].as_py() for column in table.columns] if len(table) else []
        if any("\n" in cell for cell in last) and path.read_bytes().count(b'"') % 2:
            raise InputError(f"{path}: a quotation mark is not closed, behind row {len(table)}; correct the file")
        return table

    def _parquet(self, path: Path) -> pa.Table:
        import pyarrow.parquet as pq

        return pq.read_table(path)

    def _text(self, column: pa.ChunkedArray, name: str, path: Path) -> pd.Series:
        import pandas as pd
        import pyarrow as pa

        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            cells = [self.topics_separator.join(str(part) for part in cell or ()) for cell in column.to_pylist()]
            return pd.Series(cells, dtype=object)
        if name in (self.item_column, self.user_column) and pa.types.is_floating(kind):
            raise InputError(f"{path}: column {name}: ids are text or whole numbers, the type is {kind}")
        cells = column.cast(pa.string()).to_pylist()
        return pd.Series(["" if cell is None else cell for cell in cells], dtype=object)


def _sha256(path: Path) -> str:
    found = path.stat()
    return _sha256_as_of(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _sha256_as_of(path: Path, modified: int, size: int) -> str:
    """One process asks for the digest of the same file often."""
    return sha256_of(path)


class _Refusal:
    """Says which row of a file breaks a rule."""

    def __init__(self, path: Path, first_row: int, keys: dict[str, pd.Series]) -> None:
        self._path, self._first_row, self._keys = path, first_row, keys

    def __call__(
        self, bad: Bool[np.ndarray, " n"] | pd.Series, problem: str, values: pd.Series | None = None, column: str = ""
    ) -> None:
        """Refuse the first row where `bad`; `{}` in the problem stands for the row's value.

        Raises:
            InputError: There is such a row.
        """
        wrong = np.flatnonzero(np.asarray(bad, dtype=bool))
        if not wrong.size:
            return
        at = int(wrong[0])
        key = ", ".join(f"{name} {_shown(cells.iloc[at])}" for name, cells in self._keys.items())
        value = "" if values is None else _shown(values.iloc[at])
        named = f"{column} " if column else ""
        more = f" ({wrong.size} rows are like this)" if wrong.size > 1 else ""
        told = problem.replace("{}", value)
        raise InputError(f"{self._path}, row {self._first_row + at} ({key}): {named}{told}{more}")


def _shown(value: str) -> str:
    text = " ".join(value.split())
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _lines(cells: pd.Series) -> pd.Series:
    return cells.map(lambda cell: " ".join(cell.split()))
