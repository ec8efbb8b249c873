"""The planted-truth study on the real configuration, in seconds."""

import json

import pytest

from flexrec.pipelines.planted import create_pipeline
from flexrec.reporting.publish_pages import publish
from whole_project import WholeProject

LONG = {
    "compare_rewards",
    "compare_tail",
    "compare_reasoning",
    "weigh_by_uncertainty",
    "transfer_between_needs",
    "measure_directions",
    "show_or_reward_lists",
}
AFTER = {"summarise_study", "draw_study", "write_study", "print_study"}


@pytest.fixture(scope="module")
def project(tmp_path_factory, fork_server) -> WholeProject:
    return WholeProject(tmp_path_factory.mktemp("planted"), fork_server)


def test_the_study(project, capsys) -> None:
    run = project.run(pipeline_names=["planted"])
    assert run.ran == LONG | AFTER
    folder = project.path / "data" / "08_reporting" / "planted-test"
    page = (folder / "planted.md").read_text(encoding="utf-8")
    assert page.startswith("# The planted-truth study\n")
    assert page.count("\n## ") == 7
    assert "nan" not in page
    docs = project.path / "docs"
    publish([folder], docs=docs)
    assert "\n\nMade by `" in (docs / "planted.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert (folder / "planted.txt").read_text(encoding="utf-8") in printed
    for name in ("rewards", "tail", "reasoning", "weights", "transfer", "spread", "showing"):
        assert json.loads((folder / f"{name}_figure.json").read_text(encoding="utf-8"))["data"], name
    # nothing is left of the work
    work = project.path / "data" / "06_models" / "planted-test"
    assert work.is_dir()
    assert not any(work.rglob("*.parquet"))


def test_a_changed_experiment_reruns_no_other() -> None:
    nodes = {node.name: node for node in create_pipeline().nodes}
    assert set(nodes) == LONG | AFTER
    read = {name: {given for given in nodes[name].inputs if given.startswith("params:planted")} for name in LONG}
    common = {"params:planted.world", "params:planted.feedback", "params:planted.learner"}
    own = {name: given - common for name, given in read.items()}
    assert all(len(given) == 1 for given in own.values())
    assert len(set.union(*own.values())) == len(LONG)
