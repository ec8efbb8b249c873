"""Runs of a study are children of its MLflow run."""

from pathlib import Path

import pytest

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
