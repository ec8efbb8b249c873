"""`--env spark` through real sessions: every table of the data pipelines, value for value that of DuckDB."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from flexrec.tabular import Engine, connect
from whole_project import WholeProject

SMALL = {
    "fabricated-kuairec": {
        # where pairs are repeated
        "source_options": {"scale": 0.0005, "matrix": "big"},
        "candidates": 6,
        "instances": {"train": 60, "validation": 8, "test": 16},
    },
    "fabricated-esci": {
        "source_options": {"scale": 0.002},
        "instances": {"train": 60, "validation": 8, "test": 16},
    },
}
ASKED: dict[str, dict[str, Any]] = {
    "fabricated-kuairec": {"dataset": "fabricated-kuairec", "need": "all"},
    "fabricated-esci": {"dataset": "fabricated-esci", "need": "search", "density": 0.5},
}
KEYS = {"interactions": "event_id", "observations": "event_id", "items": "item_id"}
TABLES = (
    "interactions",
    "items",
    "queries",
    "daily_counts",
    "observations",
    "item_embeddings",
    "query_embeddings",
    "instances",
    "labelled_instances",
    "true_labels",
    "true_gains",
)
REPORTS = ("ingest_report", "retrieve_report", "task_report")


@pytest.fixture(scope="module")
def engine(project_root):
    """The settings of `conf/spark`, with a smaller session."""
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not here")
    chosen = yaml.safe_load((project_root / "conf/spark/globals.yml").read_text(encoding="utf-8"))["engines"]["spark"]
    chosen |= {"master": "local[2]"}
    chosen["config"] |= {"spark.driver.memory": "1g", "spark.sql.shuffle.partitions": 2, "spark.log.level": "ERROR"}
    # tables of some rows are read faster than code for them is compiled
    chosen["config"] |= {
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.ui.enabled": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    yield chosen
    connect(Engine.model_validate(chosen))._session.stop()


def project_of(folder: Path, server: Any, engine: dict[str, Any]) -> WholeProject:
    project = WholeProject(folder, server)
    project.set("base/globals.yml", embedder="hashing")
    project.set("spark/globals.yml", engines={"spark": engine})
    for dataset, changed in SMALL.items():
        tables = project.path / "conf/base/datasets.yml"
        content = yaml.safe_load(tables.read_text(encoding="utf-8"))
        options = content["datasets"][dataset]["source_options"] | changed["source_options"]
        content["datasets"][dataset] |= changed | {"source_options": options}
        tables.write_text(yaml.safe_dump(content), encoding="utf-8")
    return project


def loaded(project: WholeProject, asked: dict[str, Any]) -> dict[str, Any]:
    """Every output, read by DuckDB, which reads what Spark has written."""
    catalog = project.catalog(asked, env="base")
    with project.entered():
        found = {name: catalog[name].load() for name in (*TABLES, *REPORTS)}
    frames = {
        name: value if isinstance(value, pd.DataFrame | dict) else value.to_pandas() for name, value in found.items()
    }
    return {
        name: value.sort_values(KEYS[name], ignore_index=True) if name in KEYS else value
        for name, value in frames.items()
    }


@pytest.mark.parametrize("dataset", SMALL)
def test_every_table_of_a_session_on_spark(fork_server, tmp_path, engine, dataset) -> None:
    asked, found = ASKED[dataset], {}
    for env in ("base", "spark"):
        project = project_of(tmp_path / env, fork_server, engine)
        run = project.run(asked, env=env, pipeline_names=["data"])
        assert "read_source" in run.ran
        found[env] = loaded(project, asked)
        parts = project.path / "data/02_intermediate" / dataset / "interactions.parquet"
        # a folder of part files is Spark's
        assert parts.is_dir() == (env == "spark")
    ours, theirs = found["base"], found["spark"]
    for name in TABLES:
        one, other = ours[name], theirs[name]
        assert list(one.columns) == list(other.columns), name
        assert one.dtypes.tolist() == other.dtypes.tolist(), name
        assert len(one) == len(other), name
        for column in one:
            for row, (mine, its) in enumerate(zip(one[column], other[column], strict=True)):
                np.testing.assert_array_equal(mine, its, err_msg=f"{name}, {column}, row {row}")
    for name in REPORTS:
        assert ours[name] == theirs[name], name
    # and there is something to compare
    dropped = ours["ingest_report"]["dropped"]
    rule = "later plays" if dataset == "fabricated-kuairec" else "judgments"
    assert sum(rows for words, rows in dropped.items() if words.startswith(rule)) > 0
    filled = {name for name in TABLES if len(ours[name])}
    missing = {"queries", "query_embeddings"} if dataset == "fabricated-kuairec" else {"daily_counts"}
    assert filled == set(TABLES) - missing
    assert ours["observations"]["observed"].mean() == pytest.approx(asked.get("density", 0.1), abs=0.03)
