import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flexrec.errors import InputError
from flexrec.fingerprint import content_digest
from flexrec.progress import emit
from flexrec.tracking import Tracker, TrackingSettings, allowed_name, numbers
from tiny_project import TinyProject, collected, tiny_project


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> TrackingSettings:
    """A tracking database of this module; making one takes a second or two."""
    return TrackingSettings.model_validate({}).resolved(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def client(server: TrackingSettings) -> MlflowClient:
    return MlflowClient(tracking_uri=server.tracking_uri)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: TrackingSettings) -> Iterator[TinyProject]:
    with tiny_project(tmp_path, monkeypatch) as project:
        configure(project, server)
        yield project


def configure(project: TinyProject, server: TrackingSettings, **others: Any) -> None:
    values = {**server.model_dump(), "experiment": project.path.name, **others}
    project.write("conf/base/mlflow.yml", json.dumps(values))


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Newest first."""
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def artifacts(client: MlflowClient, run: Run, path: str = "") -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run.info.run_id, path):
        found |= artifacts(client, run, item.path) if item.is_dir else {item.path}
    return found


def lineage(client: MlflowClient, run: Run, folder: Path) -> dict[str, dict[str, Any]]:
    path = client.download_artifacts(run.info.run_id, "lineage.json", str(folder))
    return {record["dataset"]: record for record in json.loads(Path(path).read_text())}


OUTPUTS = {"scaled", "summary", "text", "model", "losses"}
COPIES = {
    "02_intermediate/scaled/scaled.json",
    "reporting/summary/summary.json",
    "08_reporting/text/text.md",
    "06_models/model/weights.txt",
    "08_reporting/losses/losses.parquet",
}


def test_a_run_is_recorded_whole(tiny: TinyProject, client: MlflowClient, tmp_path: Path) -> None:
    tiny.replace("conf/base/parameters.yml", "steps: 3", "steps: 3\nseed: 7")
    tiny.run({"factor": 3}, pipeline_names=["make"])
    (run,) = runs(client, tiny.path.name)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "factor": "3",
        "steps": "3",
        "seed": "7",
        "fresh": "false",
        "describe.digits": "1",
        "describe.note": '"none"',
    }
    tags = run.data.tags
    assert tags["pipelines"] == "make"
    assert tags["nodes"].split(", ") == ["scale", "describe", "train", "write"]
    assert json.loads(tags["seeds"]) == {"seed": "7"}
    assert tags["command"]
    assert tags["session"] == tiny.newest("data/06_models/model").parent.name

    # every persisted output is there as a copy
    assert artifacts(client, run) == {"lineage.json", *COPIES}
    records = lineage(client, run, tmp_path)
    assert {name for name, record in records.items() if record["state"] == "made"} == OUTPUTS
    assert {name for name, record in records.items() if record["state"] == "read"} == {"raw"}
    for record in records.values():
        assert record["sha256"] == content_digest(tiny.path / record["place"])
    assert records["model"]["version"] == tags["session"]
    assert records["model"]["type"] == "flexrec.datasets.FolderDataset"
    assert records["scaled"]["size"] == (tiny.path / "data/02_intermediate/scaled.json").stat().st_size
    assert records["scaled"]["mlflow_run"] == run.info.run_id
    inputs = {given.dataset.name: given for given in run.inputs.dataset_inputs}
    assert inputs.keys() == records.keys()
    assert records["raw"]["sha256"].startswith(inputs["raw"].dataset.digest)
    assert [tag.value for tag in inputs["raw"].tags] == ["read"]

    # live curves, metrics, and the time that every node took; `@` is no letter of a metric's name
    curve = client.get_metric_history(run.info.run_id, "train/loss_1")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert (run.data.metrics["mean"], run.data.metrics["counts/all"]) == (6.0, 3.0)
    assert {name for name in run.data.metrics if name.startswith("seconds/")} == {
        f"seconds/{node}" for node in ("scale", "describe", "train", "write")
    }


def test_a_run_that_reuses_everything_shows_results_and_says_where_they_are_from(
    tiny: TinyProject, client: MlflowClient, tmp_path: Path
) -> None:
    tiny.run()
    assert tiny.run() == set()
    second, first = runs(client, tiny.path.name)
    assert second.info.run_id != first.info.run_id
    # the client holds no state of the process
    assert mlflow.active_run() is None
    assert artifacts(client, second) == {"lineage.json", *COPIES}
    assert second.data.metrics["mean"] == 4.0
    assert "seconds/train" not in second.data.metrics
    records = lineage(client, second, tmp_path)
    assert {record["state"] for record in records.values()} == {"read", "reused"}
    assert {records[name]["mlflow_run"] for name in OUTPUTS} == {first.info.run_id}

    # an input that is made by a pipeline that did not run this time carries what made it, too
    tiny.run({"fresh": True}, node_names=["write"])
    records = lineage(client, runs(client, tiny.path.name)[0], tmp_path)
    assert records.keys() == {"scaled", "text"}
    assert (records["scaled"]["state"], records["scaled"]["mlflow_run"]) == ("read", first.info.run_id)


def test_what_is_too_large_is_recorded_by_digest_and_place(
    tiny: TinyProject, server: TrackingSettings, client: MlflowClient, tmp_path: Path
) -> None:
    configure(tiny, server, copy_limit_mb=20e-6)
    tiny.run()
    (run,) = runs(client, tiny.path.name)
    # 20 bytes: `[2,4,6]` with its line breaks and the text, not the folder, the summary and the table
    assert artifacts(client, run) == {
        "lineage.json",
        "02_intermediate/scaled/scaled.json",
        "08_reporting/text/text.md",
    }
    records = lineage(client, run, tmp_path)
    assert {name for name, record in records.items() if "copy" in record} == {"scaled", "text"}
    for name in OUTPUTS:
        assert records[name]["sha256"] == content_digest(tiny.path / records[name]["place"])


def test_failures_and_interruptions_close_the_run(
    tiny: TinyProject, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(click.ClickException):
        tiny.run({"steps": -1})
    run = runs(client, tiny.path.name)[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "NodeError: Node 'train': steps cannot be negative; give 1 or more"
    assert {"scaled", "summary"} <= lineage(client, run, tmp_path).keys()
    assert "model" not in lineage(client, run, tmp_path)

    monkeypatch.setattr("flexrec.runner.FingerprintRunner._settle", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny.run()
    run = runs(client, tiny.path.name)[0]
    assert run.info.status == "KILLED"
    assert not [
        handler for handler in logging.getLogger("flexrec.curves").handlers if "Curve" in type(handler).__name__
    ]


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_the_commit_is_recorded(tiny: TinyProject, client: MlflowClient) -> None:
    import subprocess

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tiny.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    tiny.write(".gitignore", "data\n.viz\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "start")
    tiny.run(node_names=["scale"])
    tags = runs(client, tiny.path.name)[0].data.tags
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"]) == (git("rev-parse", "HEAD"), "false")
    tiny.write("new.txt", "")
    tiny.run(node_names=["scale"])
    assert runs(client, tiny.path.name)[0].data.tags["git.dirty"] == "true"


def test_metrics_have_to_be_json(tiny: TinyProject) -> None:
    tiny.replace("conf/base/catalog.yml", "text.md", "text.md\n  metadata: {flexrec: {metrics: true}}")
    with pytest.raises(click.ClickException, match="`text` is marked as metrics"):
        tiny.run()
    assert (tiny.path / "data/08_reporting/text.md.fingerprint.json").exists()


def test_a_lost_server_costs_one_warning(
    tiny: TinyProject, server: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # port 9 (discard) is closed: nothing answers
    configure(tiny, server, tracking_uri="http://me:secret@127.0.0.1:9", artifact_location=None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    start = time.monotonic()
    assert len(tiny.run()) == 4
    assert time.monotonic() - start < 15
    warnings = [line for line in tiny.log if "does not answer" in line]
    assert len(warnings) == 1
    assert "http://127.0.0.1:9" in warnings[0]
    assert "The run goes on" in warnings[0]
    assert "secret" not in "\n".join(tiny.log)


# --- The tracker by itself ---


class FlakyClient:
    """Passes everything on, while it answers."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.answers, self.calls = client, True, 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        if not self.answers:
            raise ConnectionError("nobody is there")
        return getattr(self.client, name)


def test_points_arrive_while_the_run_goes_on_and_survive_a_pause_of_the_server(
    server: TrackingSettings, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexrec.tracking.FLUSH_SECONDS", 0.0)
    tracker = Tracker(server)
    tracker.start("a", {}, {})
    run_id = tracker.run_id
    assert run_id is not None
    tracker.point(0, {"loss": 1.0})
    assert [point.value for point in client.get_metric_history(run_id, "loss")] == [1.0]

    flaky = FlakyClient(client)
    tracker._open = flaky, run_id  # type: ignore[assignment]
    flaky.answers = False
    lines: list[str] = []
    with collected(lines):
        for step in range(1, 1500):
            tracker.point(step, {"loss": float(step), "broken": float("nan")})
    assert len(lines) == 1
    assert flaky.calls == 1  # it does not ask again for a while
    flaky.answers = True
    tracker.finish("FINISHED", [], {})
    assert [point.value for point in client.get_metric_history(run_id, "loss")] == [1.0, *map(float, range(1, 1500))]
    assert client.get_metric_history(run_id, "broken") == []
    assert client.get_run(run_id).info.status == "FINISHED"


def test_the_lineage_is_tried_even_where_the_last_points_are_lost(
    server: TrackingSettings, client: MlflowClient
) -> None:
    class LosesPoints(FlakyClient):
        def log_batch(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("nobody is there")

    tracker = Tracker(server)
    tracker.start("a", {}, {})
    run_id = str(tracker.run_id)
    tracker._open = LosesPoints(client), run_id  # type: ignore[assignment]
    tracker.point(0, {"loss": 1.0})
    tracker.finish("FINISHED", [], {"reason": "none"})
    assert client.get_run(run_id).data.tags["reason"] == "none"
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["lineage.json"]


def test_a_password_is_cut_out_before_the_message_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(TrackingSettings.model_validate({"tracking_uri": "http://127.0.0.1:9"}))

    def fail() -> None:
        raise ConnectionError(f"{'x' * 180} at http://me:secret-{'y' * 40}@host")

    assert not tracker._attempt(fail)
    assert "does not answer" in caplog.text
    assert "secret" not in caplog.text


def test_parameters_and_copies_survive_a_pause_of_the_server(
    server: TrackingSettings, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Stumbles(FlakyClient):
        """Opens the run and is gone."""

        def create_run(self, *arguments: Any, **more: Any) -> Any:
            self.answers = False
            return client.create_run(*arguments, **more)

    flaky = Stumbles(client)
    with monkeypatch.context() as patched:
        patched.setattr("mlflow.tracking.MlflowClient", lambda **_: flaky)
        tracker = Tracker(server)
        tracker.start("a", {}, {"seed": "7"})
    run_id = str(tracker.run_id)
    assert client.get_run(run_id).data.params == {}
    for name in ("there", "gone"):
        (tmp_path / name).write_text(name)
        tracker.copy(tmp_path / name, name)
    (tmp_path / "gone").unlink()
    flaky.answers = True
    made = {"sha256": "0", "place": "here", "state": "made"}
    lineage = [{"dataset": name, "copy": name, **made} for name in ("there", "gone")]
    tracker.finish("FINISHED", lineage, {})
    assert client.get_run(run_id).data.params == {"seed": "7"}
    assert [artifact.path for artifact in client.list_artifacts(run_id, "there")] == ["there/there"]
    assert client.list_artifacts(run_id, "gone") == []
    # a copy that is not there is not claimed
    told = json.loads(Path(client.download_artifacts(run_id, "lineage.json", str(tmp_path))).read_text())
    assert [(record["dataset"], record.get("copy")) for record in told] == [("there", "there"), ("gone", None)]


def test_without_tracking_the_run_still_says_what_it_made(tiny: TinyProject, server: TrackingSettings) -> None:
    configure(tiny, server, enabled=False)
    file = "data/08_reporting/text.md"
    tiny.replace("conf/base/catalog.yml", file, f"{file}\n  metadata: {{flexrec: {{announce: true}}}}")
    tiny.run()
    assert f"text: {tiny.path / 'data/08_reporting/text.md'}" in tiny.log


def test_many_and_long_parameters(server: TrackingSettings, client: MlflowClient) -> None:
    tracker = Tracker(server)
    tracker.start(
        "a", {"long": "x" * 9000}, {**{f"p{i}": str(i) for i in range(250)}, "long": "y" * 7000, "a b[0]": "1"}
    )
    tracker.finish("FINISHED", [], {})
    data = client.get_run(str(tracker.run_id)).data
    assert len(data.params) == 252
    assert data.params["p249"] == "249"
    assert data.params["long"] == "y" * 6000
    assert data.params["a b_0_"] == "1"
    assert data.tags["long"] == "x" * 8000


def test_a_run_that_was_never_opened_is_silent() -> None:
    tracker = Tracker(TrackingSettings.model_validate({}))
    tracker.point(0, {"a": 1.0})
    tracker.flush()
    tracker.copy(Path("nowhere"), "a")
    tracker.finish("FINISHED", [], {})
    assert tracker.run_id is None
    emit("train", 0, {"a": 1.0})


# --- Settings and names ---


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(**values: Any) -> tuple[str | None, str | None]:
        settings = TrackingSettings.model_validate(values).resolved(tmp_path)
        return settings.tracking_uri, settings.artifact_location

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = f"file://{tmp_path.as_posix()}"
    assert resolved() == (f"sqlite:///{tmp_path}/mlflow.db", f"{local}/mlartifacts")
    assert resolved(tracking_uri="sqlite:////a/b.db", artifact_location="c") == ("sqlite:////a/b.db", f"{local}/c")
    assert resolved(tracking_uri="http://a:1") == ("http://a:1", None)
    assert resolved(tracking_uri="http://a:1", artifact_location="s3://b") == ("http://a:1", "s3://b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b:2")
    assert resolved() == ("http://b:2", None)


def test_misspelt_settings_stop_the_run(tiny: TinyProject, server: TrackingSettings) -> None:
    configure(tiny, server, experimnt="a")
    with pytest.raises(click.ClickException, match=r"mlflow\.yml: .*\n.*experimnt"):
        tiny.run()
    assert tiny.log == []


def test_without_a_file_tracking_is_on(tiny: TinyProject, server: TrackingSettings, monkeypatch: Any) -> None:
    (tiny.path / "conf/base/mlflow.yml").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(server.tracking_uri))
    tiny.run(node_names=["scale"])
    assert tiny.read("data/02_intermediate/scaled.json.fingerprint.json")["mlflow_run"]


def test_numbers() -> None:
    assert numbers("", {"a": {"b": 1, "c": "x", "d": True}, "e": 0.5, "f": None}) == {"a/b": 1.0, "e": 0.5}


def test_allowed_name() -> None:
    assert allowed_name("ndcg@5 (mean)/é") == "ndcg_5 _mean_/é"
    assert len(allowed_name("x" * 300)) == 250
    assert issubclass(InputError, ValueError)
