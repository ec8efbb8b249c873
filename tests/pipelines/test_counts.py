"""What is left out is counted, in an artifact of its own and in MLflow: through a real session and a real store."""

import pytest
from mlflow.tracking import MlflowClient

from flexrec.critic.completion import SHORTER, SILENT
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.retrieval.instances import DROPPED
from flexrec.tracking import TrackingSettings
from whole_project import WholeProject

# more candidates than many users have judged items, and labels alone: half of the lists have no observed one
CHOSEN = {"need": "interest,trend", "method": "rlvr", "task": {"candidates": 26}}


def pools_by_hand(observations, candidates: int) -> dict[str, list[list[int]]]:
    """Sizes of the pools at every query time of every user, by split."""
    sizes: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    for _, own in observations.groupby(Columns.USER_ID):
        times = sorted(own.loc[own[Columns.OBSERVED], Columns.TIMESTAMP])
        asked = sorted(set(times))[1:] or [times[-1] + 1]
        known = [sum(time < at for time in times) for at in asked]
        sizes[own[Columns.SPLIT].iloc[0]].append([len(own) - count for count in known])
    return sizes


def test_who_is_dropped_and_which_lists_teach_nothing(fork_server, tmp_path) -> None:
    project = WholeProject(tmp_path / "project", fork_server, tracked=True)
    project.run(CHOSEN, pipeline_names=["data", "critic"])
    with project.entered():
        pools = pools_by_hand(project.catalog(CHOSEN)["observations"].load().to_pandas(), 26)
    instances, gains = project.load("instances", CHOSEN), project.load("training_gains", CHOSEN)
    expected: dict[str, float] = {}
    for split, users in pools.items():
        dropped = sum(max(sizes) < 26 for sizes in users)
        own = instances[instances[Columns.SPLIT] == split]
        expected |= {
            f"retrieve/{split}/instances": len(own),
            f"retrieve/{split}/users": own[Columns.USER_ID].nunique(),
            f"retrieve/{split}/{DROPPED}": dropped,
            f"retrieve/{split}/query times left out": sum(size < 26 for sizes in users for size in sizes),
        }
    for need, rows in gains.groupby("need"):
        silent = sum(len(set(mean)) == 1 for mean in rows["mean"])
        expected |= {f"training_gains/{need}/instances": len(rows), f"training_gains/{need}/{SILENT}": silent}
        expected[f"training_gains/{need}/{SHORTER}"] = 0
    # neither is idle here
    assert expected[f"retrieve/train/{DROPPED}"] > 0
    assert 0 < expected[f"training_gains/interest/{SILENT}"] < len(gains) / 2

    settings = TrackingSettings.model_validate({}).resolved(project.path)
    assert settings.tracking_uri is not None
    assert settings.tracking_uri.startswith("sqlite:///")
    client = MlflowClient(tracking_uri=settings.tracking_uri)
    experiment = client.get_experiment_by_name("flexrec")
    (run,) = client.search_runs([experiment.experiment_id])
    found = {name: run.data.metrics.get(name) for name in expected}
    assert found == pytest.approx(expected)
    # and what the source dropped, none here, has its place among the artifacts beside them
    copies = {item.path for item in client.list_artifacts(run.info.run_id, "reporting")}
    for name in ("ingest_report", "retrieve_report", "training_gains_report", "task_report"):
        assert f"reporting/{name}" in copies
    assert project.load("task_report", CHOSEN)["retrieved"]["train"][DROPPED] == expected[f"retrieve/train/{DROPPED}"]
