"""The whole graph in the test environment, as the runner, the catalog, MLflow and a reader see it."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.project import pipelines
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from flexrec.fingerprint import Sidecar, content_digest
from flexrec.tracking import TrackingSettings
from whole_project import PRINTING


@pytest.fixture(scope="module")
def nodes(whole) -> set[str]:
    with whole.project.entered():
        return {node.name for node in pipelines["__default__"].nodes}


@pytest.fixture(scope="module")
def outputs(whole) -> dict[str, Path]:
    return whole.project.outputs()


@pytest.fixture(scope="module")
def client(whole) -> MlflowClient:
    settings = TrackingSettings.model_validate({}).resolved(whole.project.path)
    return MlflowClient(tracking_uri=settings.tracking_uri)


@pytest.fixture(scope="module")
def tracked(client) -> tuple[MlflowRun, MlflowRun]:
    """The first and the second run."""
    experiment = client.get_experiment_by_name("flexrec")
    second, first = client.search_runs([experiment.experiment_id])
    return first, second


def lineage(client: MlflowClient, run: MlflowRun, folder: Path) -> dict[str, dict]:
    path = client.download_artifacts(run.info.run_id, "lineage.json", str(folder))
    return {record["dataset"]: record for record in json.loads(Path(path).read_text())}


def artifacts(client: MlflowClient, run: MlflowRun, path: str = "") -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run.info.run_id, path):
        found |= artifacts(client, run, item.path) if item.is_dir else {item.path}
    return found


def test_every_node_runs_once_and_then_never_again(whole, nodes) -> None:
    assert whole.first.ran == nodes
    assert whole.first.reused == set()
    assert whole.second.ran == PRINTING
    assert whole.second.reused == nodes - PRINTING


def test_a_run_ends_by_saying_where_to_look(whole, outputs, tracked) -> None:
    for run, record in zip((whole.first, whole.second), tracked, strict=True):
        end = "\n".join(run.lines[-2:])
        assert f"report: {outputs['report']}" in end
        assert record.info.run_id in end


def test_every_output_of_the_graph_is_kept(whole, outputs) -> None:
    with whole.project.entered():
        made = pipelines["__default__"].all_outputs()
    assert outputs.keys() == made
    assert all(place is not None for place in outputs.values())


def test_every_output_loads_and_validates(whole, outputs) -> None:
    catalog = whole.project.catalog()
    with whole.project.entered():
        # the catalog checks what has a schema while it loads
        values = {name: catalog[name].load() for name in outputs}
    tables = {name for name, value in values.items() if isinstance(value, pd.DataFrame)}
    checked = set(catalog.validator_specs)
    # what only draws and reports has a form of its own
    assert tables - checked == {
        "critic_curve",
        "critic_reliability",
        "critic_test_predictions",
        "rl_curves",
        "summary",
        "warm_up_curve",
    }
    # this dataset has no queries, and no counts of a platform
    assert {name for name in tables if values[name].empty} == {"queries", "query_embeddings", "daily_counts"}
    assert all(any(values[name].iterdir()) for name in ("base_model", "critic", "warm_up_policy", "policy"))


def test_every_output_has_a_record_of_what_made_it(whole, outputs) -> None:
    with whole.project.entered():
        maker = {output: node.name for node in pipelines["__default__"].nodes for output in node.outputs}
    for name, place in outputs.items():
        sidecar = Sidecar.read(place)
        assert sidecar is not None, name
        assert (sidecar.dataset, sidecar.node) == (name, maker[name])
        assert sidecar.content == content_digest(place), name
        assert sidecar.mlflow_run


def test_nothing_else_is_left_in_the_data_folder(whole, outputs) -> None:
    """No scratch folder, no unfinished file; every file is an output, a record of one, or raw."""
    data = whole.project.path / "data"
    known = {path for place in outputs.values() for path in (place, *place.rglob("*"), Sidecar.beside(place))}
    left = {file for file in data.rglob("*") if file.is_file() and file not in known}
    assert {file.parent for file in left} <= {data / "01_raw"}


def test_the_task_and_the_results_are_printed_by_both_runs(whole) -> None:
    text = whole.project.load("results_text")
    assert text.strip()
    for printed in whole.printed:
        assert text in printed
        assert "random order" in printed


def test_every_method_ranks_every_test_instance(whole) -> None:
    labelled, rankings = whole.project.load("labelled_instances"), whole.project.load("rankings")
    test = set(labelled.loc[labelled["split"] == "test", "instance_id"])
    methods = [*whole.project.load("params:evaluate").baselines, "untrained", "warmed_up", "flexrec"]
    assert {"random", "retriever", "popularity", "item_mean", "critic"} <= set(methods)
    assert sorted(rankings["method"].unique()) == sorted(methods)
    for _, rows in rankings.groupby("method"):
        assert rows["instance_id"].is_unique
        assert set(rows["instance_id"]) == test
    assert (rankings["ranking"].map(sorted) == rankings["input_order"].map(sorted)).all()


def test_training_changed_the_model(whole) -> None:
    adapters = [whole.project.load(name) / "adapter_model.safetensors" for name in ("warm_up_policy", "policy")]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()
    curve = whole.project.load("warm_up_curve").set_index("step")["value"]
    assert curve[2] < curve[1]


def test_the_report_is_one_page_with_its_figures(whole) -> None:
    page = whole.project.load("report")
    for part in ("Results on held-out users", "Uncertainty weights", "Calibration of the critic", "Plotly.newPlot"):
        assert part in page
    assert "NDCG@5" in whole.project.load("results_markdown")


# --- MLflow ---


def test_no_output_is_missing_from_the_run(whole, client, tracked, outputs, tmp_path) -> None:
    first, _ = tracked
    assert first.info.status == "FINISHED"
    records, copies = lineage(client, first, tmp_path), artifacts(client, first)
    assert outputs.keys() == {name for name, record in records.items() if record["state"] == "made"}
    for name, place in outputs.items():
        record = records[name]
        assert record["sha256"] == content_digest(place), name
        assert whole.project.path / record["place"] == place
        files = [place.name] if place.is_file() else [file.name for file in place.iterdir()]
        assert {f"{record['copy']}/{file}" for file in files} <= copies, name


def test_the_run_holds_the_parameters(whole, tracked) -> None:
    parameters = tracked[0].data.params
    assert parameters["rl.steps"] == "3"
    assert parameters["need"] == '"trend"'
    assert parameters["task.candidates"] == "6"
    assert parameters["method_settings.uncertainty.scope"] == '"group"'
    assert json.loads(tracked[0].data.tags["seeds"]) == {"seed": "0"}


def test_the_run_holds_curves_and_metrics(whole, client, tracked, nodes) -> None:
    first, second = tracked
    metrics = first.data.metrics
    curves = whole.project.load("rl_curves")
    for name, rows in curves.groupby("metric"):
        history = client.get_metric_history(first.info.run_id, f"rl/{name}")
        points = {(point.step, point.value) for point in history}
        assert points == set(zip(rows["step"], rows["value"], strict=True)), name
    for name, steps in {"warm_up/loss": [1, 2], "critic/validation_mse": [0, 0, 1, 1]}.items():
        assert sorted(point.step for point in client.get_metric_history(first.info.run_id, name)) == steps
    made = whole.project.load("metrics")
    assert metrics["trend/flexrec/ndcg_at_5"] == pytest.approx(made["trend"]["flexrec"]["ndcg_at_5"])
    assert {name for name in metrics if name.startswith("seconds/")} == {f"seconds/{node}" for node in nodes}
    assert all(math.isfinite(value) for value in metrics.values())
    # a run that makes nothing still shows the results
    assert second.data.metrics["trend/flexrec/ndcg_at_5"] == metrics["trend/flexrec/ndcg_at_5"]


def test_a_run_that_makes_nothing_says_where_everything_is_from(client, tracked, outputs, tmp_path) -> None:
    first, second = tracked
    assert second.info.status == "FINISHED"
    records = lineage(client, second, tmp_path)
    assert outputs.keys() == {name for name, record in records.items() if record["state"] == "reused"}
    assert {records[name]["mlflow_run"] for name in outputs} == {first.info.run_id}
    timed = {name for name in second.data.metrics if name.startswith("seconds/")}
    assert timed == {f"seconds/{name}" for name in PRINTING}
