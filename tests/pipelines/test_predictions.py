"""The critic's prediction in the prompt: switched on by a name, in places of its own, and refused where it is idle."""

import numpy as np
import pytest

from flexrec.export import export
from flexrec.ranking.columns import Columns
from flexrec.rl.specification import load_specification, read_tables
from whole_project import PRINTING

DEFAULT = {"need": "interest"}
SHOWN = {"need": "interest", "layout": "predictions"}
OF_THE_PROMPT = {
    "show_instances",
    "train_warm_up",
    "train_rl",
    "rank_untrained",
    "rank_warmed_up",
    "rank_trained",
    "measure",
    "compare",
    "draw_training",
    "draw_results",
    "write_report",
    *PRINTING,
}
"""What a layout of the prompt makes anew. Neither labels nor critic nor baselines are among it."""


@pytest.fixture(scope="module")
def project(whole, tmp_path_factory):
    """Both layouts, one after the other."""
    project = whole.project.copy(tmp_path_factory.mktemp("predictions") / "project")
    project.run(DEFAULT)
    project.digests_before = project.digests(DEFAULT)
    project.shown = project.run(SHOWN)
    return project


def test_a_layout_makes_its_own_and_shares_the_rest(project) -> None:
    assert project.shown.ran == OF_THE_PROMPT
    assert project.digests(DEFAULT) == project.digests_before
    assert project.run(DEFAULT).ran == PRINTING
    assert project.run(SHOWN).ran == PRINTING


def test_no_place_of_what_a_prompt_changes_is_shared(project) -> None:
    ours, theirs = project.outputs(SHOWN), project.outputs(DEFAULT)
    own = {name for name in ours if ours[name] != theirs[name]}
    assert {"prompt_instances", "warm_up_policy", "policy", "rankings_untrained", "report", "metrics"} <= own
    assert not {"labelled_instances", "critic", "critic_predictions", "training_gains", "rankings_baselines"} & own
    assert all("+predictions" in str(ours[name]) for name in own)


def test_prompts_are_made_of_what_the_critic_predicts(project) -> None:
    labelled, predictions = project.load("labelled_instances", SHOWN), project.load("critic_predictions", SHOWN)
    shown = project.load("prompt_instances", SHOWN)
    by_id = predictions.set_index(Columns.INSTANCE_ID)[Columns.MEAN]
    for instance_id, values in zip(shown[Columns.INSTANCE_ID], shown[Columns.PREDICTED], strict=True):
        assert np.array_equal(values, by_id[instance_id])
    assert shown.drop(columns=Columns.PREDICTED).map(repr).equals(labelled.map(repr))
    # without the layout it is the table of the labels, whatever the critic says
    assert project.load("prompt_instances", DEFAULT).map(repr).equals(labelled.map(repr))
    # random weights, but another text
    untrained = [project.load("rankings_untrained", one)["ranking"].map(tuple) for one in (DEFAULT, SHOWN)]
    assert not untrained[0].equals(untrained[1])


def test_the_report_says_so(project) -> None:
    assert "| layout | predictions |" in project.load("results_markdown", SHOWN)
    assert "predicted" in project.load("report", SHOWN)
    assert "| layout | default |" in project.load("results_markdown", DEFAULT)
    assert "| dtype | float32 |" in project.load("results_markdown", DEFAULT)


def test_an_exported_training_shows_them(project, tmp_path) -> None:
    file = export(project.path, tmp_path / "folder", env="test", parameters=SHOWN)
    specification = load_specification(file)
    tables = read_tables(specification.data)
    assert Columns.PREDICTED in tables["labelled_instances"]
    assert specification.prompt.shows(Columns.PREDICTED)


def test_another_critic_reranks_only_what_shows_its_predictions(project, tmp_path) -> None:
    other = project.copy(tmp_path / "project")
    changed = {"critic": {"epochs": 1}}
    ran = other.run(DEFAULT | changed, pipeline_names=["chat", "evaluate"], to_outputs=["rankings_untrained"]).ran
    assert ran == {"fit_critic", "predict_gains", "show_instances"}
    ran = other.run(SHOWN | changed, to_outputs=["rankings_untrained"]).ran
    assert ran == {"show_instances", "rank_untrained"}


def test_the_probe_shows_them_in_every_input_order(project, tmp_path) -> None:
    other = project.copy(tmp_path / "project")
    few = {"probe": {"instances": 3, "random_orders": 1, "gallery": 1, "needs": "interest,trend"}}
    other.run(SHOWN | few, pipeline_names=["probe"])
    with other.entered():
        gallery = other.catalog(SHOWN)["probe_gallery"].load()
    assert len(gallery)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("need=trend,layout=predictions", "and trend does not use it; take layout=default, or a need that does: inter"),
        ("need=interest,layout=nothing", "unknown layout 'nothing'. Allowed: default, predictions"),
        ("need=interest,layout=../../elsewhere", "unknown layout '../../elsewhere'. Allowed: default, predictions"),
        ("need=interest,layouts.predictions.signals_of_need.engagement=word", "engagement is the label, unknown at"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_runs(fresh, asked, message) -> None:
    done = fresh.kedro("run", "--env", "test", "--params", asked)
    assert done.status == 1
    assert message in " ".join(done.err.split())
    assert "runs, because" not in done.err


def test_layouts_are_checked_like_all_parameters(fresh) -> None:
    fresh.edit(
        "conf/base/parameters_prompt.yml",
        "predicted: {display: scale, steps: 100",
        "engagement: {display: scale, steps: 0",
    )
    done = fresh.kedro("run", "--env", "test")
    assert done.status == 1
    said = " ".join(done.err.split())
    assert "layouts.predictions_percent.signals_of_need" in said
    assert "greater than or equal to 1" in said
