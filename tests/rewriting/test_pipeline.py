"""The pipeline as a user runs it, in the test environment."""

from contextlib import redirect_stdout
from io import StringIO

import pytest

from whole_project import WholeProject

PIPELINE = {"pipeline_names": ["query_rewrite"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory, fork_server, parsed_once) -> WholeProject:
    return WholeProject(tmp_path_factory.mktemp("rewriting"), fork_server)


def test_the_pipeline_runs_and_is_not_run_again(project):
    printed = StringIO()
    with redirect_stdout(printed):
        first = project.run(**PIPELINE)
    assert {"make_requests", "train_to_rewrite", "rewrite_trained", "report_rewrites"} <= first.ran
    assert not {"fit_critic", "train_warm_up", "train_rl"} & first.ran
    text = project.load("rewrite_text")
    assert text in printed.getvalue()
    scores, requests = project.load("rewrite_scores"), project.load("rewrite_requests")
    test = set(requests.loc[requests["split"] == "test", "request_id"])
    assert sorted(scores["method"].unique()) == ["feedback", "original", "rec_r1", "untrained"]
    for _, rows in scores.groupby("method"):
        assert set(rows["request_id"]) == test
    assert "### Some rewrites" in project.load("rewrite_markdown")
    metrics = project.load("rewrite_metrics")["query_rewriting"]
    assert metrics["original"]["ndcg_at_10"] > 0.0
    with redirect_stdout(StringIO()):
        again = project.run(**PIPELINE)
    assert again.ran == {"print_rewrites"}
