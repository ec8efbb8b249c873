"""The engine behind the large tables, on both engines: what is written, what comes back, and equal values."""

import shutil
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError
from pydantic import ValidationError

from flexrec import tabular
from flexrec.datasets import ObservationsDataset, TableDataset
from flexrec.errors import InputError
from flexrec.fingerprint import content_digest
from flexrec.ranking.columns import Columns
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.signals import label_signals, trend_coverage
from flexrec.retrieval.star import StarSettings
from flexrec.runner import user_error
from flexrec.sources.fabricated import Fabricated
from flexrec.sources.sparsify import Marks, sparsify
from flexrec.tabular import (
    DAY,
    Engine,
    as_table,
    connect,
    first_ranked,
    is_numbered,
    kept,
    ranked,
    read_parquet,
    write_parquet,
)

DUCKDB = {"kind": "duckdb"}
SPARK = {
    "kind": "spark",
    "master": "local[2]",
    "config": {
        "spark.ui.enabled": False,
        "spark.ui.showConsoleProgress": False,
        "spark.sql.shuffle.partitions": 2,
        "spark.driver.memory": "1g",
        "spark.log.level": "ERROR",
        # tables of some rows are read faster than code for them is compiled
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    },
}


@pytest.fixture(scope="module")
def spark():
    """One Spark session for all tests."""
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not here")
    connection = connect(Engine.model_validate(SPARK))
    yield connection
    connection._session.stop()


@pytest.fixture(params=["duckdb", "spark"])
def engine(request) -> dict:
    if request.param == "spark":
        request.getfixturevalue("spark")
        return SPARK
    return DUCKDB


def interactions(rows: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            Columns.USER_ID: np.arange(rows) % 3,
            Columns.ITEM_ID: np.arange(rows),
            Columns.TIMESTAMP: 10**9 + np.arange(rows),
            Columns.ENGAGEMENT: np.arange(rows) / 4,
            Columns.EVENT_ID: np.arange(rows),
        }
    )


def dataset(folder: Path, engine: dict = DUCKDB) -> TableDataset:
    return TableDataset(filepath=str(folder / "interactions.parquet"), engine=engine, schema="Interactions")


def observed(folder: Path, engine: dict = DUCKDB) -> ObservationsDataset:
    return ObservationsDataset(
        filepath=str(folder / "observations"),
        interactions={"filepath": str(folder / "interactions.parquet")},
        engine=engine,
        schema="Observations",
    )


def frame(table: ibis.Table, *keys: str) -> pd.DataFrame:
    return table.to_pandas().sort_values(list(keys), ignore_index=True)


# --- One engine ---


def test_equal_settings_share_a_connection() -> None:
    engine = Engine.model_validate(DUCKDB)
    assert connect(engine) is connect(Engine.model_validate({"kind": "duckdb", "memory_gb": 3.0}))
    assert connect(engine) is not connect(Engine.model_validate({"kind": "duckdb", "threads": 1}))


@pytest.mark.parametrize("wrong", [{"kind": "psql"}, {"kind": "duckdb", "memory": 1}, {"kind": "spark", "master": ""}])
def test_wrong_engines_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        Engine.model_validate(wrong)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * DAY), st.integers(0, 3)), min_size=1, max_size=40, unique=True))
def test_ranks_are_those_of_a_sort(duckdb_engine, rows) -> None:
    table = as_table(pd.DataFrame(rows, columns=["time", "other"]))
    expected = {row: place for place, row in enumerate(sorted(rows))}
    for connection in (duckdb_engine, Renamed(duckdb_engine)):
        result = ranked(table, ["time", "other"], "place", connection).to_pandas()
        found = dict(zip(zip(result["time"], result["other"], strict=True), result["place"], strict=True))
        assert found == expected


PLAYS = st.tuples(
    st.sampled_from([None, float("nan"), 0.0, 1.5, 1.75, DAY + 1.0, 3.0 * DAY]),
    st.sampled_from([-(2**31), -1, 0, 1, 2, 2**31 - 1]),
    st.sampled_from([-(2**31), -1, 0, 1, 2, 2**31 - 1]),
    st.sampled_from([0.0, 0.25, 1.0, 7.5]),
)


def plays(rows) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    types = {"time": pa.float64(), "user": pa.int32(), "item": pa.int32(), "ratio": pa.float64()}
    return pa.table({name: pa.array(c, kind) for c, (name, kind) in zip(columns, types.items(), strict=True)})


def firsts_of(table, connection) -> list[tuple]:
    """The rows in the order of their numbers, which must be 0, 1, 2, ..."""
    rows = kept(table)
    has_time = rows["time"].notnull() & ~rows["time"].isnan()
    result = first_ranked(rows, has_time, "time", ("user", "item"), "ratio", "place", connection)
    ordered = frame(result, "place")
    assert ordered.pop("place").tolist() == list(range(len(ordered)))
    return list(ordered[["time", "user", "item", "ratio"]].itertuples(index=False, name=None))


def firsts_by_hand(rows) -> list[tuple]:
    found: dict[tuple, tuple] = {}
    for row in sorted(row for row in rows if row[0] is not None and row[0] == row[0]):
        found.setdefault(row[1:3], row)
    return list(found.values())


@pytest.mark.parametrize("size", [1 << 24, 3])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(PLAYS, min_size=1, max_size=40))
@example(rows=[(5.0, 1, 1, 0.5), (4.0, 1, 1, 0.9), (4.0, 1, 1, 0.2), (4.0, 1, 2, 0.2), (4.0, 1, 1, 0.2)])
@example(rows=[(None, 1, 1, 0.5)])
def test_the_first_of_every_pair_is_that_of_a_plain_reading(duckdb_engine, monkeypatch, size, rows) -> None:
    monkeypatch.setattr(tabular, "SLICE", size)
    for connection in (duckdb_engine, Renamed(duckdb_engine)):
        assert firsts_of(ibis.memtable(plays(rows)), connection) == firsts_by_hand(rows)


@pytest.mark.parametrize("by", ["user", "time", "nothing"])
def test_the_first_of_many_pairs(tmp_path, duckdb_engine, by) -> None:
    """More rows than one thread takes at a time, in several orders, and the same bytes every time."""
    rng = np.random.default_rng(0)
    rows = 400_000
    columns = rng.integers(0, 10**8, rows) / 1000, rng.integers(0, 300, rows), rng.integers(0, 4000, rows)
    table = pd.DataFrame(dict(zip(("time", "user", "item"), columns, strict=True))).assign(ratio=rng.random(rows))
    table = table.astype({"user": "int32", "item": "int32"})
    table = table.sort_values({"user": ["user", "time"], "time": ["time"]}[by]) if by != "nothing" else table
    order = ["time", "user", "item", "ratio"]
    expected = table.sort_values(order).drop_duplicates(["user", "item"])
    write_parquet(as_table(table), tmp_path / "rows", duckdb_engine)
    digests = []
    for name in ("a", "b"):
        kept_rows = kept(read_parquet(tmp_path / "rows", duckdb_engine))
        timed = kept_rows["time"] >= 0
        found = first_ranked(kept_rows, timed, "time", ("user", "item"), "ratio", "place", duckdb_engine)
        write_parquet(found, tmp_path / name, duckdb_engine)
        digests.append(content_digest(tmp_path / name))
    # in the file's own order
    written = read_parquet(tmp_path / name, duckdb_engine).to_pandas()
    pd.testing.assert_frame_equal(written[order], expected[order].reset_index(drop=True))
    assert written["place"].tolist() == list(range(len(expected)))
    assert 1000 < rows - len(expected) < rows / 2
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("users", "items", "width"),
    [
        ([0, 7_175], [0, 10_727], 32),
        ([-(2**17), 2**17 - 1], [5, 5 + 2**13], 32),
        ([-(2**17) - 1, 0], [5, 5 + 2**13], 64),
        ([0, 2**17], [5, 5 + 2**13], 64),
        ([-(2**31), 2**31 - 1], [3], 32),
        ([-(2**31), 2**31 - 1], [-(2**31), 2**31 - 1], 64),
    ],
)
def test_a_packed_key_is_as_wide_as_it_must_be_and_comes_back(duckdb_engine, users, items, width) -> None:
    pairs = [(user, item) for user in users for item in items]
    table = pa.table(
        {name: pa.array(column, pa.int32()) for name, column in zip("ui", zip(*pairs, strict=True), strict=True)}
    )
    code, unpacked = tabular._packed(kept(ibis.memtable(table)), ("u", "i"))
    assert code.type().nbytes * 8 == width
    coded = kept(code.name("code").as_table())
    back = coded.order_by("code").select(*unpacked(coded["code"])).to_pyarrow()
    assert back.schema.types == [pa.int32(), pa.int32()]
    assert list(zip(back["u"].to_pylist(), back["i"].to_pylist(), strict=True)) == sorted(pairs)


def test_only_what_may_is_kept_in_any_order(duckdb_engine) -> None:
    def preserved() -> bool:
        return duckdb_engine.con.execute("SELECT current_setting('preserve_insertion_order')").fetchone()[0]

    table = as_table(interactions(9))
    assert kept(table, in_order=False).count().execute() == 9
    assert preserved()
    with pytest.raises(Exception, match="negative"):
        kept(table.mutate(wrong=ibis.literal("negative").cast("int64")), in_order=False)
    assert preserved()


class Renamed:
    """The general way of ranking, computed by DuckDB."""

    name = "another engine"

    def __init__(self, connection) -> None:
        self.connection = connection


def test_numbers_in_a_file(tmp_path, duckdb_engine) -> None:
    def numbered(values: list[int]) -> bool:
        write_parquet(as_table(pd.DataFrame({"n": values})), tmp_path / "n.parquet", duckdb_engine)
        return is_numbered(tmp_path / "n.parquet", "n", duckdb_engine)

    assert numbered([0, 1, 2])
    assert numbered([1, 2, 0])
    for wrong in ([1, 2, 3], [0, 1, 1], [0, 2], [0, 0, 3]):
        assert not numbered(wrong), wrong


# --- Datasets ---


def test_a_table_comes_back(tmp_path, engine) -> None:
    table = dataset(tmp_path, engine)
    assert not table.exists()
    for data in (interactions(), as_table(interactions(9))):
        table.save(data)
        assert table.exists()
        expected = data if isinstance(data, pd.DataFrame) else data.to_pandas()
        pd.testing.assert_frame_equal(frame(table.load(), Columns.EVENT_ID), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.parquet"]
    assert "interactions.parquet" in repr(table)


def test_the_same_rows_give_the_same_bytes(tmp_path, engine) -> None:
    rng = np.random.default_rng(0)
    big = interactions(30_000).assign(engagement=rng.random(30_000))
    digests = []
    for name in ("a", "b"):
        dataset(tmp_path / name, engine).save(big)
        marks = sparsify(dataset(tmp_path / name, engine).load(), density=0.1, seed=0)
        observed(tmp_path / name, engine).save(marks)
        digests.append([content_digest(tmp_path / name / part) for part in ("interactions.parquet", "observations")])
    assert digests[0] == digests[1]


def test_each_engine_reads_what_the_other_has_written(tmp_path, spark) -> None:
    for name, writer, reader in (("a", DUCKDB, SPARK), ("b", SPARK, DUCKDB)):
        dataset(tmp_path / name, writer).save(interactions())
        observed(tmp_path / name, writer).save(sparsify(dataset(tmp_path / name, writer).load(), density=0.5, seed=0))
        pd.testing.assert_frame_equal(frame(dataset(tmp_path / name, reader).load(), Columns.EVENT_ID), interactions())
        both = [frame(observed(tmp_path / name, one).load(), Columns.EVENT_ID) for one in (writer, reader)]
        pd.testing.assert_frame_equal(*both)
        # one takes the other's place
        dataset(tmp_path / name, reader).save(interactions(9))
        assert len(dataset(tmp_path / name, writer).load().to_pandas()) == 9


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("engagement", [1.0, np.inf, np.inf], r"engagement, event_id 1: a finite number.*found inf \(2 rows break"),
        ("engagement", [1.0, 2.0, np.nan], "engagement, event_id 2: a finite number is needed"),
        ("engagement", [None, 2.0, 1.0], "engagement, event_id 0: a value is missing"),
        ("timestamp", [5, -1, 6], r"timestamp, event_id 1: greater_than_or_equal_to\(0\); found -1"),
        ("event_id", [0, 2, 2], "event_id: must be the rank of every row"),
        ("event_id", [0, None, 2], "event_id: a value is missing"),
        ("user_id", ["a", "b", "c"], "user_id: int64 is needed, the type is string"),
    ],
)
def test_bad_values_are_refused_and_the_old_table_stays(tmp_path, column, values, message) -> None:
    table = dataset(tmp_path)
    table.save(interactions())
    # out of SQL, because pandas turns null into NaN
    rows = ibis.memtable(interactions(3).drop(columns=column))
    cases = ibis.cases(*((rows[Columns.ITEM_ID] == at, ibis.literal(value)) for at, value in enumerate(values)))
    with pytest.raises(DatasetError) as caught:
        table.save(rows.mutate(**{column: cases}))
    with pytest.raises(InputError, match=message):
        raise user_error(caught.value)
    assert len(table.load().to_pandas()) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.parquet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop("engagement"), "column engagement: the column is missing"),
        (lambda table: table.mutate(other=1), "column other: the column is not expected"),
    ],
)
def test_absent_and_extra_columns_are_refused(tmp_path, change, message) -> None:
    with pytest.raises(DatasetError, match=message):
        dataset(tmp_path).save(change(as_table(interactions())))
    # and of a file that was changed by hand
    dataset(tmp_path).save(interactions())
    path = tmp_path / "interactions.parquet"
    change(as_table(interactions())).to_parquet(path)
    with pytest.raises(DatasetError, match=message):
        dataset(tmp_path).load()


def test_a_frame_is_checked_in_memory(tmp_path) -> None:
    late_first = interactions().assign(event_id=[5, 1, 2, 3, 4, 0])
    with pytest.raises(DatasetError, match="event_id must follow the timestamp"):
        dataset(tmp_path).save(late_first)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("events", "splits", "message"),
    [
        ([0, 0], ["train", "test"], "2 events, 1 of them distinct"),
        ([0, 1], ["train", "dev"], "user_id 1: isin.*found 'dev' .1 users."),
    ],
)
def test_bad_marks_are_refused(tmp_path, events, splits, message) -> None:
    dataset(tmp_path).save(interactions(2))
    users = pd.DataFrame({Columns.USER_ID: [0, 1], Columns.SPLIT: splits})
    marks = Marks(ibis.memtable(pd.DataFrame({Columns.EVENT_ID: events})), ibis.memtable(users))
    with pytest.raises(DatasetError, match=message):
        observed(tmp_path).save(marks)
    assert not observed(tmp_path).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.parquet"]


def test_marks_of_other_interactions_are_not_read(tmp_path) -> None:
    dataset(tmp_path).save(interactions())
    observed(tmp_path).save(sparsify(dataset(tmp_path).load(), density=0.5, seed=0))
    assert len(observed(tmp_path).load().to_pandas()) == 6
    # one more at the beginning: every event has another number
    dataset(tmp_path).save(interactions(7))
    with pytest.raises(DatasetError) as caught:
        observed(tmp_path).load()
    with pytest.raises(InputError, match=r"observations belongs to other interactions .* --pipelines=sparsify"):
        raise user_error(caught.value)


def test_marks_say_which_interactions_they_belong_to(tmp_path) -> None:
    """The same marks on other interactions are another value for whoever reads them."""
    digests = []
    for shift in (0.0, 1.0):
        table = interactions(30)
        dataset(tmp_path).save(table.assign(engagement=table[Columns.ENGAGEMENT] + shift))
        observed(tmp_path).save(sparsify(dataset(tmp_path).load(), density=0.2, seed=0))
        digests.append(content_digest(tmp_path / "observations"))
    assert digests[0] != digests[1]


# --- Both engines ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small fabricated world: raw file, tables of its source, and embeddings of its items."""
    source = Fabricated(users=40, items=60, fewest=12, most=24)
    raw = source.fetch(tmp_path_factory.mktemp("raw"))
    tables = source.read(raw, None)
    vectors = np.random.default_rng(0).normal(size=(len(tables.items), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = tables.items[Columns.ITEM_ID]
    return tables, pd.DataFrame({Columns.ITEM_ID: ids, Columns.EMBEDDING: list(vectors)})


def everything(folder: Path, engine: dict, world) -> dict[str, pd.DataFrame]:
    """Every table up to the labels."""
    tables, embeddings = world
    dataset(folder, engine).save(as_table(tables.interactions))
    stored = dataset(folder, engine).load()
    observed(folder, engine).save(sparsify(stored, density=0.2, seed=0))
    observations = observed(folder, engine).load()
    instances, _ = build_instances(
        observations,
        embeddings,
        candidates=5,
        history=3,
        instances_per_user=2,
        limits={"train": 30, "validation": 5, "test": 5},
        seed=0,
        star=StarSettings(),
    )
    labelled, labels = label_signals(
        instances,
        observations,
        tables.items,
        trend_window_days=7.0,
        quality_strength=5.0,
        quality_midpoint=3.0,
        seed=0,
    )
    coverage = trend_coverage(labelled, observations)
    return {
        "interactions": frame(stored, Columns.EVENT_ID),
        "observations": frame(observations, Columns.EVENT_ID),
        "instances": instances,
        "labelled_instances": labelled,
        "true_labels": labels,
        "coverage": pd.DataFrame({"share": coverage}),
    }


def test_every_table_is_the_same_on_both_engines(tmp_path, spark, world) -> None:
    ours = everything(tmp_path / "duckdb", DUCKDB, world)
    theirs = everything(tmp_path / "spark", SPARK, world)
    assert ours["observations"][Columns.OBSERVED].mean() == pytest.approx(0.2, abs=0.02)
    assert len(ours["instances"]) == 40
    for name, table in ours.items():
        assert list(table.columns) == list(theirs[name].columns), name
        assert len(table) == len(theirs[name]) > 0, name
        for column in table:
            for one, other in zip(table[column], theirs[name][column], strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{name}, {column}")


def test_the_first_of_every_pair_on_spark(spark) -> None:
    rng = np.random.default_rng(0)
    times = [None, float("nan"), 0.0, 1.5, DAY + 1.0, 3.0 * DAY]
    rows = [(times[rng.integers(6)], *rng.integers(-1, 4, 2).tolist(), rng.integers(4) / 4) for _ in range(200)]
    assert firsts_of(ibis.memtable(plays(rows)), spark) == firsts_by_hand(rows)


def test_ranks_and_kept_tables_on_spark(spark) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"time": rng.integers(0, 4 * DAY, 300), "other": np.arange(300)})
    expected = rows.sort_values(["time", "other"])["other"].tolist()
    table = kept(ranked(as_table(rows).mutate(bit=1), ["time", "other"], "place", spark))
    for _ in range(2):
        result = frame(table, "place")
        assert result["other"].tolist() == expected
        assert result["place"].tolist() == list(range(300))


def test_a_table_of_spark_lies_in_part_files(tmp_path, spark) -> None:
    write_parquet(as_table(interactions()), tmp_path / "table", spark)
    assert {path.name for path in (tmp_path / "table").iterdir()} <= {f"part-{place:05d}.parquet" for place in range(9)}
    assert is_numbered(tmp_path / "table", Columns.EVENT_ID, spark)
    assert len(read_parquet(tmp_path / "table", spark).to_pandas()) == 6
