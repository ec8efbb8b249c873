"""The engine behind the large tables: DuckDB in this process, or Spark.

Everything that differs between engines is here: the connection, how a table is written and read as Parquet, and how
rows are numbered and repeated ones left out. All else is Ibis expressions that both engines compute alike.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, RootModel

from flexrec.config import Settings
from flexrec.errors import InputError

if TYPE_CHECKING:
    import ibis
    import pandas as pd
    from ibis import Table
    from ibis.backends import BaseBackend
else:
    Table = Any
    """`ibis.Table`, named without importing ibis, which takes a while."""

DAY = 86_400

SLICE = 1 << 24
"""Keys that are looked at in memory at a time, 8 bytes each."""


class DuckDBSettings(Settings):
    """DuckDB in this process, in memory."""

    kind: Literal["duckdb"]
    memory_gb: float = Field(3.0, gt=0, description="Beyond this, intermediate results go to the spill folder")
    threads: int | None = Field(None, ge=1, description="By default one per core")
    spill_folder: str | None = Field(None, description="By default the system's folder for temporary files")


class SparkSettings(Settings):
    """A Spark session: local, or on a cluster."""

    kind: Literal["spark"]
    master: str = Field("local[*]", min_length=1, description="`local[*]`, or the address of a cluster")
    config: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Spark's own settings")


class Engine(RootModel[Annotated[DuckDBSettings | SparkSettings, Field(discriminator="kind")]]):
    """Which engine computes the large tables."""


def connect(engine: Engine) -> BaseBackend:
    """The connection to an engine; the same settings give the same one for as long as the process lives.

    Raises:
        InputError: Spark is asked for and it, or Java, is not installed.
    """
    # a connection does not survive a fork
    return _connect(engine.model_dump_json(), os.getpid())


@functools.cache
def _connect(engine: str, process: int) -> BaseBackend:
    settings = Engine.model_validate_json(engine).root
    return _spark(settings) if isinstance(settings, SparkSettings) else _duckdb(settings)


def _duckdb(settings: DuckDBSettings) -> BaseBackend:
    import tempfile

    import ibis

    options: dict[str, Any] = {"memory_limit": f"{round(settings.memory_gb * 1000)}MB"}
    options["temp_directory"] = settings.spill_folder or str(Path(tempfile.gettempdir()) / f"flexrec-{os.getpid()}")
    if settings.threads is not None:
        options["threads"] = settings.threads
    return ibis.duckdb.connect(**options)


def _spark(settings: SparkSettings) -> BaseBackend:
    import ibis

    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError("Spark is not installed here: pip install -e '.[spark]'") from error
    builder = SparkSession.builder.master(settings.master).appName("flexrec")
    for name, value in settings.config.items():
        builder = builder.config(name, str(value).lower() if isinstance(value, bool) else value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise InputError(f"Spark does not start ({error}); it needs Java 17 or newer, found by JAVA_HOME") from error
    return ibis.pyspark.connect(session)


# --- Tables and frames ------------------------------------------------------------------------------------------------


def as_table(data: ibis.Table | pd.DataFrame) -> ibis.Table:
    """A frame as a table; a table as it is."""
    import ibis
    import pandas as pd

    return ibis.memtable(data.reset_index(drop=True)) if isinstance(data, pd.DataFrame) else data


def kept(table: ibis.Table, *, in_order: bool = True) -> ibis.Table:
    """Compute a table once, for several uses; DuckDB lets go of it with the last of them, Spark with the session.

    Args:
        table: Any table.
        in_order: Whether DuckDB keeps the rows in the order in which it reads them, which takes a sixth longer for a
            large CSV file. An order that the table asks for is kept anyway; Spark promises no other.
    """
    import ibis
    from ibis.util import gen_name

    connection = ibis.get_backend(table)
    if connection.name == "duckdb":
        if in_order:
            return table.cache()
        connection.raw_sql("SET preserve_insertion_order = false")
        try:
            return table.cache()
        finally:
            connection.raw_sql("SET preserve_insertion_order = true")
    name = gen_name("kept")
    # frames in the expression are made known to Spark by ibis' own queries only
    connection._run_pre_execute_hooks(table)
    connection._session.sql(connection.compile(table)).persist().createOrReplaceTempView(name)
    return connection.table(name)


def ranked(table: ibis.Table, by: Sequence[str], name: str, connection: BaseBackend) -> ibis.Table:
    """Number the rows from 0 in an order without ties.

    One window over all rows would go through a single worker of Spark, and through a slower operator of DuckDB. So
    DuckDB sorts and counts along, and elsewhere the rows are numbered within each day and shifted by the days before.

    Args:
        table: Any table; the first column of `by` is a time in seconds.
        by: Columns that give every row a place of its own.
        name: Of the new column.
        connection: Where the table lives.
    """
    import ibis

    if connection.name == "duckdb":
        return table.order_by(list(by)).mutate(**{name: ibis.row_number()})
    bucketed = table.mutate(bucket=(table[by[0]] / DAY).floor().cast("int64"))
    sizes = bucketed.group_by("bucket").aggregate(size=bucketed.count())
    before = ibis.window(order_by=sizes["bucket"], preceding=(None, 1))
    starts = sizes.select("bucket", start=ibis.coalesce(sizes["size"].sum().over(before), 0))
    joined = bucketed.join(starts, "bucket")
    place = ibis.row_number().over(ibis.window(group_by=joined["bucket"], order_by=[joined[column] for column in by]))
    return joined.mutate(**{name: (joined["start"] + place).cast("int64")}).drop("bucket", "start")


def first_ranked(
    rows: ibis.Table,
    where: ibis.Value,
    time: str,
    key: tuple[str, str],
    value: str,
    name: str,
    connection: BaseBackend,
) -> ibis.Table:
    """The first row of every key in the order (time, key, value), numbered from 0 in that order; computed once.

    Few keys are repeated, and a window over all rows costs DuckDB as much as reading a file. So it looks for these keys
    first and for their later rows alone. Both columns of a key are packed into one number: fewer bytes to search and to
    sort. The sort is by all columns, since a column that is no key is fetched row by row; the numbers are the places in
    the table that comes of it, which are cheaper than to count along.

    Args:
        rows: What `kept` made, at least one row, with the four columns named here.
        where: Which of them count.
        time: In seconds.
        key: Two columns of int32.
        value: Settles which row of a key at a time comes first.
        name: Of the new column.
        connection: Where the table lives.
    """
    import ibis

    def occurrence(table: ibis.Table, columns: Sequence[str]) -> ibis.Value:
        window = ibis.window(group_by=[table[column] for column in columns], order_by=[table[time], table[value]])
        return ibis.row_number().over(window)

    if connection.name != "duckdb":
        counted = rows.filter(where)
        placed = counted.mutate(occurrence=occurrence(counted, key))
        order = [time, *key, value]
        return kept(ranked(placed.filter(placed["occurrence"] == 0).drop("occurrence"), order, name, connection))
    code, columns = _packed(rows, key)
    coded = rows.select(time, value, code=code, row=rows.rowid()).filter(where)
    among = coded.semi_join(ibis.memtable(_repeated(coded["code"])), "code")
    placed = among.mutate(occurrence=occurrence(among, ["code"]))
    later = placed.filter(placed["occurrence"] > 0).select("row")
    order = [time, "code", value]
    first = kept(coded.anti_join(later, "row").select(*order).order_by(order))
    return first.select(time, *columns(first["code"]), value, first.rowid().name(name))


def _packed(
    rows: ibis.Table, key: tuple[str, str]
) -> tuple[ibis.Value, Callable[[ibis.Value], tuple[ibis.Value, ibis.Value]]]:
    """Two columns of int32 as one number in the same order, and how to get them back.

    It has 32 bits where they are enough, which numpy sorts several times as fast as 64.
    """
    first, second = (rows[column] for column in key)
    ends = rows.aggregate(least=first.min(), most=first.max(), low=second.min(), high=second.max())
    least, most, low, high = (int(end) for end in ends.to_pandas().iloc[0])
    bits = (high - low).bit_length()
    code = first.cast("int64") * 2**bits + (second.cast("int64") - low)
    if least * 2**bits >= -(2**31) and (most + 1) * 2**bits <= 2**31:
        code = code.cast("int32")

    def unpacked(code: ibis.Value) -> tuple[ibis.Value, ibis.Value]:
        code = code.cast("int64")
        return tuple(
            part.cast("int32").name(column)
            for part, column in zip((code >> bits, (code & (2**bits - 1)) + low), key, strict=True)
        )

    return code, unpacked


def _repeated(code: ibis.Value) -> pd.DataFrame:
    """The values that occur more than once; numpy sorts several times as fast as the engine groups."""
    import numpy as np
    import pandas as pd

    slices = int(code.count().execute()) // SLICE + 1
    found = []
    for at in range(slices):
        part = code if slices == 1 else code.as_table().filter((code % slices).abs() == at)["code"]
        values = np.sort(part.to_pyarrow().to_numpy())
        found.append(np.unique(values[1:][values[1:] == values[:-1]]))
    return pd.DataFrame({"code": np.concatenate(found)})


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(table: ibis.Table, path: Path, connection: BaseBackend) -> None:
    """Write a table: one file on DuckDB, a folder of part files on Spark. Not atomic by itself.

    The names in a folder are those of the parts' places, so that the same rows in the same order give the same names.
    """
    if connection.name == "duckdb":
        connection.to_parquet(table, path)
        return
    connection.to_parquet_dir(table, path)
    for leftover in [*path.glob("_SUCCESS"), *path.glob(".*.crc")]:
        leftover.unlink()
    for place, part in enumerate(sorted(path.glob("part-*"))):
        part.rename(path / f"part-{place:05d}.parquet")


def read_parquet(path: Path, connection: BaseBackend) -> ibis.Table:
    """The table in a file, or in a folder of part files, lazily; whichever engine wrote it."""
    return connection.read_parquet(path / "*.parquet" if path.is_dir() and connection.name == "duckdb" else path)


def is_numbered(path: Path, column: str, connection: BaseBackend) -> bool:
    """Whether a column holds 0, 1, 2, ..., each once; quick where they are in this order in one file of DuckDB."""
    if connection.name == "duckdb" and path.is_file():
        table = connection.read_parquet(path, file_row_number=True)
        wrong = (table[column] != table["file_row_number"]) | table[column].isnull()
        if not int(table.filter(wrong).count().execute()):
            return True
    table = read_parquet(path, connection)[column]
    rows, distinct, low, high = (
        (table.as_table().aggregate(rows=table.count(), distinct=table.nunique(), low=table.min(), high=table.max()))
        .to_pandas()
        .iloc[0]
    )
    return bool(rows == distinct == high - low + 1 and low == 0)
