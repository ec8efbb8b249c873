"""Runs of a study are children of its MLflow run."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from flexrec import hooks
from flexrec.tracking import TrackingSettings
from tiny_project import tiny_project


class Tracker:
    """Keeps the tags of runs in the place of a tracking service."""

    started: list[dict[str, str]]
    run_id = "1"

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings = settings

    def start(self, _name: str, tags: dict[str, str], _parameters: dict[str, str]) -> None:
        self.started.append(tags)

    def point(self, *_: object) -> None: ...

    copy = finish = point


def test_a_run_is_a_child_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow itself finds the children of a run, in a real database."""
    store = TrackingSettings.model_validate({"experiment": "studies"}).resolved(tmp_path)
    client = MlflowClient(tracking_uri=store.tracking_uri)
    (tmp_path / "project").mkdir()
    with tiny_project(tmp_path / "project", monkeypatch) as tiny:
        tiny.write("conf/base/mlflow.yml", json.dumps(store.model_dump()))
        tiny.run()
        experiment = client.get_experiment_by_name("studies")
        assert experiment is not None
        (study,) = client.search_runs([experiment.experiment_id])
        monkeypatch.setenv(hooks.PARENT_RUN, study.info.run_id)
        for _ in range(2):
            tiny.run({"fresh": True})
    query = f"tags.mlflow.parentRunId = '{study.info.run_id}'"
    children = client.search_runs([experiment.experiment_id], query)
    assert len(children) == 2
    assert {child.info.status for child in children} == {"FINISHED"}
    assert study.info.run_id not in {child.info.run_id for child in children}
    assert "mlflow.parentRunId" not in study.data.tags


def test_a_run_names_the_study_that_it_is_a_part_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker.started = []
    monkeypatch.setattr(hooks, "Tracker", Tracker)
    with tiny_project(tmp_path, monkeypatch) as tiny:
        tiny.write("conf/base/mlflow.yml", "enabled: true\n")
        tiny.run()
        monkeypatch.setenv(hooks.PARENT_RUN, "the-study")
        tiny.run()
    alone, child = Tracker.started
    assert "mlflow.parentRunId" not in alone
    assert child["mlflow.parentRunId"] == "the-study"
