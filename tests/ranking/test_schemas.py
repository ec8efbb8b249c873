import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from flexrec.errors import InputError
from flexrec.ranking import schemas
from flexrec.ranking.columns import Columns

NAN = float("nan")

INTERACTIONS = pd.DataFrame(
    {
        "user_id": [1, 2, 1],
        "item_id": [10, 10, 11],
        "timestamp": [100, 100, 250],
        "engagement": [4.0, 0.5, 5.0],
        "event_id": [0, 1, 2],
    }
)
LABELLED = pd.DataFrame(
    {
        "instance_id": [0, 1, 2],
        "user_id": [1, 2, 3],
        "split": ["train", "validation", "test"],
        "query_time": [300, 300, 400],
        "history_items": [[10], [], [10, 12]],
        "history_engagements": [[4.0], [], [5.0, 1.0]],
        "candidates": [[12, 11], [11, 13, 10], [11]],
        "query": ["", "red shoes", ""],
        "similarity": [[0.5, -0.2], [0.1, 0.2, 0.3], [0.9]],
        "niche": [[0, 1], [1, 0, 0], [1]],
        "trend": [[3, 0], [0, 0, 1], [0]],
        "popularity": [[9, 8], [1, 2, 3], [4]],
        "quality": [[3.4, 3.5], [3.0, 3.1, 3.2], [2.9]],
        "recency": [[0.0, 1.0], [0.5, 0.25, 0.1], [0.02]],
        "observed_engagement": [[NAN, 4.0], [NAN, NAN, NAN], [NAN]],
    }
)
TABLES = {
    "Interactions": INTERACTIONS,
    "Items": pd.DataFrame(
        {
            "item_id": [10, 11],
            "source_id": ["m-10", "m-11"],
            "title": ["Heat (1995)", "Alien (1979)"],
            "text": ["Heat 1995 Crime", "Alien 1979 Horror"],
            "topics": [["Crime", "Drama"], []],
            "released": [1995.0, NAN],
        }
    ),
    "Queries": pd.DataFrame({"user_id": [1, 2], "query": ["red shoes", "tent"], "split": ["test", None]}, dtype=object)
    .astype({"user_id": "int64"})
    .astype({"query": "str", "split": "str"}),
    "DailyCounts": pd.DataFrame({"item_id": [10, 10], "timestamp": [0, 86_400], "count": [5, 0]}),
    "Observations": INTERACTIONS.assign(observed=[True, False, True], split=["train", "test", "train"]),
    "ItemEmbeddings": pd.DataFrame(
        {
            "item_id": [10, 11],
            "embedding": [np.array([0.6, 0.8], dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32)],
        }
    ),
    "QueryEmbeddings": pd.DataFrame({"user_id": [1], "embedding": [np.array([0.6, 0.8], dtype=np.float32)]}),
    "Instances": pd.DataFrame(
        {
            "instance_id": [0, 1],
            "user_id": [1, 2],
            "split": ["train", "test"],
            "query_time": [300, 300],
            "history_items": [[10, 10], []],
            "history_engagements": [[4.0, 5.0], []],
            "candidates": [[12, 11], [11, 13, 10]],
            "query": ["", "red shoes"],
            "similarities": [[0.5, 0.5], [0.3, 0.2, -0.1]],
        }
    ),
    "LabelledInstances": LABELLED,
    "PromptInstances": LABELLED.assign(predicted=[[float(item) for item in row] for row in LABELLED["candidates"]])[
        ["predicted", *LABELLED]
    ],
    "TrueLabels": pd.DataFrame({"instance_id": [1, 2], "engagement": [[4.0, 0.0, -0.5], [3.0]]}),
    "Gains": pd.DataFrame({"instance_id": [1, 1], "need": ["interest", "trend"], "gains": [[15.0, 0.0], [0.5, 0.1]]}),
    "CriticPredictions": pd.DataFrame(
        {"instance_id": [0, 1], "mean": [[3.5, -0.1], [1.0]], "variance": [[0.5, 0.25], [1.0]]}
    ),
    "TrainingGains": pd.DataFrame(
        {
            "instance_id": [0, 0],
            "need": ["interest", "trend"],
            "mean": [[3.5, 0.0], [0.2, 1.0]],
            "variance": [[0.5, 0.0]] * 2,
        }
    ),
    "Rankings": pd.DataFrame(
        {
            "method": ["random", "critic"],
            "need": ["trend", "trend"],
            "instance_id": [1, 1],
            "ranking": [[11, 13, 10], [10, 13, 11]],
            "input_order": [[11, 10, 13], [11, 10, 13]],
            "invalid": [0, 40],
            "repeated": [0, 1],
            "missing": [0, 2],
        }
    ),
    "InstanceMetrics": pd.DataFrame(
        {
            "method": ["random"],
            "need": ["trend"],
            "instance_id": [1],
            "user_id": [2],
            "ndcg_at_5": [0.5],
            "ndcg_at_10": [0.6],
            "ndcg_at_30": [1.0],
            "recall_at_5": [0.0],
            "precision_at_5": [0.2],
            "mrr_at_5": [0.5],
            "kendall_tau": [-1.0],
            "invalid_rate": [1.5],
            "repeated_rate": [0.0],
            "missing_rate": [0.25],
        }
    ),
}


def model(name: str) -> type[schemas.Table]:
    return getattr(schemas, name)


def with_cell(name: str, column: str, row: int, value: object) -> pd.DataFrame:
    table = TABLES[name].copy()
    cells = table[column].tolist()
    cells[row] = value
    table[column] = pd.Series(cells, dtype=object) if not np.isscalar(value) or value is None else cells
    return table


def test_there_is_a_model_for_every_table_and_no_other():
    models = {
        name
        for name, value in vars(schemas).items()
        if isinstance(value, type) and issubclass(value, schemas.Table) and not name.startswith("_")
    }
    assert models - {"Table"} == set(TABLES)
    # the name in messages is that of the contract
    assert model("LabelledInstances").table_name() == "labelled_instances"
    assert len({model(name).table_name() for name in TABLES}) == len(TABLES)


def test_column_names_are_the_shared_ones():
    shared = {value for name, value in vars(Columns).items() if name.isupper()}
    for name in TABLES:
        if name != "InstanceMetrics":
            assert set(model(name).to_schema().columns) <= shared


@pytest.mark.parametrize("name", TABLES)
def test_a_good_table_passes_unchanged(name):
    before = TABLES[name].copy(deep=True)
    checked = model(name).validate(TABLES[name], lazy=True)
    pd.testing.assert_frame_equal(checked, before)
    pd.testing.assert_frame_equal(TABLES[name], before)


@pytest.mark.parametrize("name", TABLES)
def test_a_good_table_passes_after_parquet(name, tmp_path):
    TABLES[name].to_parquet(tmp_path / "table.parquet")
    loaded = pd.read_parquet(tmp_path / "table.parquet")
    checked = model(name).validate(loaded, lazy=True)
    for column in TABLES[name]:
        for ours, theirs in zip(TABLES[name][column], checked[column], strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table_passes_and_gets_its_types(name):
    empty = pd.DataFrame({column: [] for column in TABLES[name]})
    checked = model(name).validate(empty)
    assert checked.dtypes.to_dict() == TABLES[name].dtypes.to_dict()


@pytest.mark.parametrize("name", TABLES)
def test_absent_and_extra_columns_are_refused(name):
    column = TABLES[name].columns[-1]
    table = model(name).table_name()
    with pytest.raises(InputError, match=rf"^table {table}, column {column}: the column is missing; the columns are"):
        model(name).validate(TABLES[name].drop(columns=column))
    with pytest.raises(InputError, match=rf"^table {table}, column bonus: the column is not expected"):
        model(name).validate(TABLES[name].assign(bonus=1))


def test_harmless_conversions():
    odd = pd.DataFrame(
        {
            "user_id": np.array([1, 2, 1], dtype=np.uint8),
            "item_id": pd.array([10, 10, 11], dtype="Int64"),
            "timestamp": [100.0, 100.0, 250.0],
            "engagement": np.array([4, 1, 5], dtype=np.int16),
            "event_id": np.array([0, 1, 2], dtype=object),
            "observed": pd.array([True, False, True], dtype="boolean"),
            "split": pd.Categorical(["train", "test", "train"]),
        },
        index=[7, 7, 9],
    )
    checked = schemas.Observations.validate(odd)
    expected = TABLES["Observations"].assign(engagement=[4.0, 1.0, 5.0])
    pd.testing.assert_frame_equal(checked, expected)
    assert odd["timestamp"].dtype == np.float64


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [1.0, 2.5, 1.0], r"column user_id, row 1 \(event_id 1\): int64 is needed, found 2.5"),
        ("user_id", [1.0, NAN, 1.0], r"row 1 \(event_id 1\): a value is missing"),
        ("user_id", [1.0, np.inf, 1.0], "row 1 .*int64 is needed, found inf"),
        ("user_id", [1.0, 2.0**60, 1.0], "row 1 .*int64 is needed"),
        ("user_id", np.array([1, 2**63, 1], dtype=np.uint64), "row 1 .*int64 is needed, found 9223372036854775808"),
        ("user_id", ["1", "2", "1"], "row 0 .*int64 is needed, found '1'"),
        ("user_id", [True, False, True], "row 0 .*int64 is needed, found True"),
        ("engagement", ["4", "1", "5"], "row 0 .*float64 is needed, found '4'"),
        ("engagement", [4.0, NAN, NAN], r"row 1 \(event_id 1\): a value is missing.*2 rows"),
        ("engagement", [4.0, 1.0, np.inf], "row 2 .*a finite number is needed; found inf"),
        ("timestamp", [-1, 100, 250], r"row 0 .*greater_than_or_equal_to\(0\); found -1"),
        ("event_id", [0, 2, 2], r"column event_id, row 1 \(event_id 2\): event_id must be unique.*\(2 rows"),
        ("event_id", [2, 1, 0], r"row 0 \(event_id 2\): event_id must follow the timestamp"),
        ("observed", ["yes", "no", "yes"], "row 0 .*bool is needed, found 'yes'"),
        ("observed", [1, 0, 1], "row 0 .*bool is needed, found 1"),
        ("split", ["train", "test", 3], "row 2 .*str is needed, found 3"),
        ("split", ["train", "test", "dev"], "row 2 .*isin.*found 'dev'"),
        ("split", ["train", "test", None], "row 2 .*a value is missing"),
        ("split", ["train", "test", "test"], "row 2 .*a user must be in one split only"),
    ],
)
def test_bad_columns_are_refused_with_their_place(column, values, message):
    table = TABLES["Observations"].assign(**{column: values})
    with pytest.raises(InputError, match="^table observations, .*" + message):
        schemas.Observations.validate(table, lazy=True)


@pytest.mark.parametrize(
    ("name", "column", "row", "value", "message"),
    [
        ("Items", "title", 1, "  ", r"column title, row 1 \(item_id 11\): a text is needed, this one is blank"),
        ("Items", "topics", 0, "Crime|Drama", "a list of texts is needed; found 'Crime"),
        ("Items", "topics", 0, ["Crime", 3], "a list of texts is needed"),
        ("Items", "topics", 0, None, "column topics, row 0 .*a value is missing"),
        ("ItemEmbeddings", "embedding", 1, np.array([1.0, 0.0, 0.0]), "same number of dimensions"),
        (
            "ItemEmbeddings",
            "embedding",
            1,
            np.array([0.0, 0.0]),
            r"row 1 \(item_id 11\): an embedding must have norm 1",
        ),
        ("ItemEmbeddings", "embedding", 0, np.array([NAN, 1.0]), "finite numbers"),
        ("ItemEmbeddings", "embedding", 0, np.array([]), "must not be empty"),
        ("ItemEmbeddings", "embedding", 0, np.eye(2), "a list of finite numbers"),
        (
            "Instances",
            "candidates",
            1,
            [11, 13, 11],
            r"row 1 \(instance_id 1\): an id occurs more than once in the list",
        ),
        ("Instances", "candidates", 1, [], "must not be empty"),
        ("Instances", "candidates", 1, [11.0, 13.5, 10.0], "a list of integer ids"),
        ("Instances", "candidates", 1, [[11], [13, 10], []], "a list of integer ids"),
        ("Instances", "candidates", 0, [12, 10], "history_items and candidates must not share an item"),
        ("Instances", "similarities", 1, [0.3, 0.2], "candidates, similarities must have the same length"),
        ("Instances", "similarities", 1, [0.3, NAN, 0.1], "finite"),
        ("Instances", "similarities", 1, [0.1, 0.2, 0.3], "must not increase"),
        ("Instances", "history_engagements", 0, [4.0], "history_engagements must have the same length"),
        ("LabelledInstances", "niche", 0, [0, 2], "a list of 0 and 1"),
        ("LabelledInstances", "trend", 2, [-1], r"row 2 \(instance_id 2\): .*none negative"),
        (
            "LabelledInstances",
            "popularity",
            2,
            [1, 2],
            "popularity, quality, recency, observed_engagement must have the same",
        ),
        ("LabelledInstances", "quality", 2, [NAN], "finite"),
        ("LabelledInstances", "quality", 2, ["x"], "a list of finite numbers"),
        ("LabelledInstances", "recency", 2, [-0.1], "none negative"),
        ("LabelledInstances", "query", 1, None, "column query, row 1 .*a value is missing"),
        ("Items", "released", 0, np.inf, "a finite year is needed, or NaN"),
        ("Queries", "query", 1, " ", r"row 1 \(user_id 2\): a text is needed, this one is blank"),
        ("Queries", "user_id", 1, 1, "user_id must be unique"),
        ("Queries", "split", 0, "dev", "isin"),
        ("DailyCounts", "count", 0, -1, r"greater_than_or_equal_to\(0\); found -1"),
        ("DailyCounts", "timestamp", 1, 0, "item_id, timestamp must be unique"),
        ("LabelledInstances", "observed_engagement", 0, [np.inf, 1.0], "never infinite"),
        ("LabelledInstances", "observed_engagement", 2, [3.0], r"instance_id 2\): .*labels would leak"),
        ("LabelledInstances", "observed_engagement", 1, [NAN, NAN, 3.0], "labels would leak"),
        ("PromptInstances", "predicted", 2, [NAN], "finite"),
        ("PromptInstances", "predicted", 2, [np.inf], "finite"),
        ("PromptInstances", "predicted", 2, ["9"], "a list of finite numbers"),
        ("PromptInstances", "predicted", 2, None, r"row 2 \(instance_id 2\): a value is missing"),
        ("PromptInstances", "predicted", 2, [1.0, 2.0], "candidates, predicted must have the same length"),
        ("PromptInstances", "observed_engagement", 2, [3.0], r"instance_id 2\): .*labels would leak"),
        ("TrueLabels", "engagement", 0, [NAN, 1.0], "finite"),
        ("TrueLabels", "instance_id", 0, 2, "instance_id must be unique"),
        ("Gains", "gains", 0, [-0.1, 1.0], "none negative"),
        ("Gains", "need", 0, "trend", r"row 0 \(instance_id 1, need trend\): instance_id, need must be unique.*2 rows"),
        ("CriticPredictions", "variance", 0, [-0.1, 1.0], "none negative"),
        ("CriticPredictions", "variance", 1, [0.1, 1.0], "mean, variance must have the same length"),
        ("TrainingGains", "mean", 1, [NAN, 1.0], r"row 1 \(instance_id 0, need trend\)"),
        ("Rankings", "ranking", 0, [11, 13, 12], "ranking and input_order must hold the same ids"),
        ("Rankings", "input_order", 0, [11, 10, 13, 13], "must hold the same ids"),
        ("Rankings", "ranking", 0, [11, 13], "must hold the same ids"),
        ("Rankings", "ranking", 0, [11, 13, 13], r"\(method random, need trend, instance_id 1\): an id occurs more"),
        ("Rankings", "missing", 1, -1, r"row 1 \(method critic.*greater_than_or_equal_to\(0\); found -1"),
        ("InstanceMetrics", "ndcg_at_5", 0, 1.1, r"in_range\(0.0, 1.0\); found 1.1"),
        ("InstanceMetrics", "kendall_tau", 0, NAN, "column kendall_tau, row 0 .*a value is missing"),
        ("InstanceMetrics", "invalid_rate", 0, np.inf, "a finite number"),
    ],
)
def test_bad_cells_are_refused_with_their_place(name, column, row, value, message):
    with pytest.raises(InputError, match=f"^table {model(name).table_name()}, .*{message}") as caught:
        model(name).validate(with_cell(name, column, row, value), lazy=True)
    # Kedro cuts a message at 500 characters
    assert len(str(caught.value)) < 500


def test_prompts_may_do_without_predictions():
    pd.testing.assert_frame_equal(model("PromptInstances").validate(LABELLED), LABELLED)
    # whatever else is absent is missed all the same
    with pytest.raises(InputError, match="column quality: the column is missing"):
        model("PromptInstances").validate(LABELLED.drop(columns="quality"))
    with pytest.raises(InputError, match="column predicted: the column is not expected"):
        model("LabelledInstances").validate(TABLES["PromptInstances"])


def test_the_first_broken_rule_is_told_alone():
    table = with_cell("Instances", "candidates", 1, "11,13")
    table["split"] = ["dev", "dev"]
    with pytest.raises(InputError, match="isin") as caught:
        schemas.Instances.validate(table, lazy=True)
    assert str(caught.value).count("\n") == 0


def test_what_is_no_table_or_no_list_is_refused():
    with pytest.raises(InputError, match="table gains: a pandas DataFrame is needed, not list"):
        schemas.Gains.validate([1])
    with pytest.raises(InputError, match="column gains: lists are needed, found the type float64"):
        schemas.Gains.validate(TABLES["Gains"].assign(gains=1.0))
    twice = pd.concat([TABLES["TrueLabels"], TABLES["TrueLabels"][["engagement"]]], axis=1)
    with pytest.raises(InputError, match="a column occurs twice"):
        schemas.TrueLabels.validate(twice)


def test_only_the_asked_rows_are_checked():
    table = with_cell("InstanceMetrics", "ndcg_at_5", 0, 0.5)
    two = pd.concat([table, table.assign(instance_id=2, ndcg_at_5=7.0)])
    assert len(schemas.InstanceMetrics.validate(two, head=1)) == 2
    with pytest.raises(InputError, match="row 1"):
        schemas.InstanceMetrics.validate(two, tail=1)


def test_a_million_interactions_and_many_instances_are_checked_fast():
    n = 1_000_000
    table = pd.DataFrame(
        {
            "user_id": np.arange(n) // 100,
            "item_id": 1,
            "timestamp": np.arange(n),
            "engagement": 1.0,
            "event_id": np.arange(n),
        }
    ).assign(observed=True, split="train")
    start = time.process_time()
    schemas.Observations.validate(table)
    rankings = pd.concat([TABLES["Rankings"].iloc[:1]] * 20_000).assign(instance_id=range(20_000))
    schemas.Rankings.validate(rankings)
    assert time.process_time() - start < 5.0


def test_a_rule_that_fails_itself_is_told_without_a_row():
    class Broken(schemas.Table):
        number: int

        class Config:
            name = "broken"

        @pa.check("number", name="impossible", error="an impossible rule")
        @classmethod
        def _impossible(cls, values: pd.Series) -> pd.Series:
            raise ZeroDivisionError

    with pytest.raises(InputError, match=r"^table broken, column number: an impossible rule$"):
        Broken.validate(pd.DataFrame({"number": [1]}))


# ---- in Kedro's catalog ----


def catalog(folder, name):
    from kedro.io import DataCatalog

    entry = {
        "type": "pandas.ParquetDataset",
        "filepath": str(folder / f"{name}.parquet"),
        "validator": f"flexrec.ranking.schemas.{name}",
    }
    return DataCatalog.from_config({"table": entry})


@pytest.mark.parametrize("name", TABLES)
def test_catalog_saves_and_loads_a_good_table(name, tmp_path):
    data = catalog(tmp_path, name)
    data.save("table", TABLES[name])
    # another catalog, so that nothing remembers the save
    loaded = catalog(tmp_path, name).load("table")
    assert list(loaded.columns) == list(TABLES[name].columns)
    data.save("table", loaded)
    assert len(data.load("table")) == len(TABLES[name])


def test_catalog_refuses_a_bad_table_on_save_and_on_load(tmp_path):
    from kedro.validation.exceptions import DataValidationError

    bad = with_cell("LabelledInstances", "observed_engagement", 2, [3.0])
    told = r"on {}(.|\n)*table labelled_instances, row 2 \(instance_id 2\): .*labels would leak"
    with pytest.raises(DataValidationError, match=told.format("save")) as caught:
        catalog(tmp_path, "LabelledInstances").save("table", bad)
    assert isinstance(caught.value.__cause__, InputError)
    assert not (tmp_path / "LabelledInstances.parquet").exists()
    bad.to_parquet(tmp_path / "LabelledInstances.parquet")
    with pytest.raises(DataValidationError, match=told.format("load")):
        catalog(tmp_path, "LabelledInstances").load("table")


def test_models_are_pandera_models():
    # so that Kedro's adapter, and not a duck type, handles them
    assert all(issubclass(model(name), pa.DataFrameModel) for name in TABLES)
    assert all(model(name).to_schema().strict is True for name in TABLES)


def test_the_module_is_imported_without_torch_and_kedro():
    code = (
        "import sys, time; start = time.process_time(); import flexrec.ranking.schemas;"
        "assert not {'torch', 'kedro', 'mlflow', 'sklearn', 'scipy'} & set(sys.modules);"
        "print(time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # about half a second of processor time alone; room for a busy machine
    assert float(done.stdout) < 2.0
