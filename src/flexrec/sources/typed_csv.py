"""Large CSV files read by the engine itself with stated types, and rows that the engine cannot read found and named."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flexrec.errors import InputError

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend

Kind = Literal["whole", "number"]
# 32 bits hold the ids of every dataset here and halve the work of grouping and sorting by them
_TYPES = {"whole": "INTEGER", "number": "DOUBLE"}
LARGEST_WHOLE = 2**31 - 1


def header_of(path: Path) -> list[str]:
    """The names in the first line of a CSV file.

    Raises:
        InputError: No such file, an empty one, or a first line that is not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as stream:
        first = stream.readline(1 << 16)
    try:
        names = next(csv.reader([first.decode("utf-8-sig").rstrip("\r\n")]), [])
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, row 1: not UTF-8 text ({error.reason}); fetch the file again") from error
    if not names:
        raise InputError(f"{path}: the file is empty; fetch it again")
    return names


def read_typed_csv(connection: BaseBackend, path: Path, kinds: Mapping[str, Kind]) -> ibis.Table:
    """Read columns of a comma-separated UTF-8 file with a header lazily, with explicit types and never a guessed one.

    An empty field is null. What the engine cannot read it reports when the table is computed; `refuse_first` then finds
    the row.

    Args:
        connection: DuckDB or Spark.
        path: The file.
        kinds: The columns to read: `whole` becomes int32, `number` float64.

    Raises:
        InputError: No such file or a column that is missing; the message has the header.
    """
    names = header_of(path)
    if absent := [name for name in kinds if name not in names]:
        raise InputError(
            f"{path}: column {', '.join(absent)} is missing; the header has {', '.join(names)}. Fetch the file again."
        )
    if connection.name == "pyspark":
        schema = ", ".join(f"`{name}` {_TYPES[kinds[name]] if name in kinds else 'STRING'}" for name in names)
        table = connection.read_csv(str(path), schema=schema, inferSchema=False, header=True, mode="FAILFAST")
    else:
        types = {name: _TYPES[kinds[name]] if name in kinds else "VARCHAR" for name in names}
        table = connection.read_csv(path, columns=types, delim=",", quote='"', header=True)
    return table.select(*kinds)


def refuse_first(
    path: Path,
    kinds: Mapping[str, Kind],
    key: Mapping[str, str],
    rule: Callable[[dict[str, float | None]], str | None],
    *,
    otherwise: str,
) -> None:
    """Read a file that is known to be bad row by row, and refuse its first bad one by number and key.

    Slow and plain on purpose: it runs only to explain a failure, and tells the same on every engine.

    Args:
        path: The file.
        kinds: The columns that were read.
        key: Word for messages to column, of the columns that name a row.
        rule: What is wrong with a row of readable numbers (None where empty), or None.
        otherwise: What to say if every row is sound by itself.

    Raises:
        InputError: Always.
    """
    advice = "Correct or remove the row, or fetch the file again."
    with path.open("r", encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            names = next(reader)
            for row in reader:
                values: dict[str, float | None] = {}
                problem = f"{len(row)} fields, expected {len(names)}" if len(row) != len(names) else None
                cells = dict(zip(names, row, strict=False))
                for name, kind in kinds.items():
                    if problem is None:
                        values[name], problem = _number(cells[name], name, kind)
                if problem := problem or rule(values):
                    who = ", ".join(f"{word} {cells.get(name, '?')}" for word, name in key.items())
                    raise InputError(f"{path}, row {reader.line_num} ({who}): {problem}. {advice}")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, after row {reader.line_num}: not UTF-8 text ({error.reason}). {advice}"
            ) from error
        except csv.Error as error:
            raise InputError(f"{path}, row {reader.line_num}: {error}. {advice}") from error
    raise InputError(f"{path}: {otherwise}. {advice}")


def _number(cell: str, name: str, kind: Kind) -> tuple[float | None, str | None]:
    if not cell:
        return None, None
    try:
        value = float(cell)
    except ValueError:
        return None, f"{name} {_short(cell)} is not a number"
    if kind == "whole" and not (math.isfinite(value) and value == int(value)):
        return None, f"{name} {_short(cell)} is not a whole number"
    if kind == "whole" and abs(value) > LARGEST_WHOLE:
        return None, f"{name} {_short(cell)} is beyond {LARGEST_WHOLE}"
    return value, None


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else text[:57] + "..."
