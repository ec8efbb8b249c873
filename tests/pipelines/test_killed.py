"""A run that is killed, again and again, and started anew ends with the same artifacts as one that is not."""

from itertools import pairwise

import pytest
from kedro.framework.project import pipelines

from fork_server import KILLS
from whole_project import FACTS, PRINTING

PLACES = list(KILLS)


@pytest.fixture(scope="module")
def survived(whole, tmp_path_factory):
    """One project that is killed at every place in turn, and what each run said; the last one ends well."""
    project = whole.project.copy(tmp_path_factory.mktemp("killed") / "project", "06_models/base")
    runs = {place: project.command(kill=place) for place in PLACES}
    return project, runs | {"at last": project.command()}


def test_the_artifacts_are_the_same(whole, survived) -> None:
    project, _ = survived
    first, second = whole.project.digests(), project.digests()
    assert {name for name in first if first[name] != second[name]} <= FACTS


def test_nothing_unfinished_is_taken_for_a_result(survived) -> None:
    project, _ = survived
    again = project.command()
    assert again.ran == PRINTING
    assert not list(project.path.rglob("*_work"))


def test_what_was_done_is_not_done_again(survived) -> None:
    """Every run reuses all that the runs before it had finished."""
    _, runs = survived
    done: set[str] = set()
    for run in runs.values():
        assert done <= run.reused
        finished = {name for name in run.ran if any(f"{name}: done in" in line for line in run.lines)}
        done |= (run.reused | finished) - PRINTING
    with survived[0].entered():
        assert done == {node.name for node in pipelines["__default__"].nodes} - PRINTING


@pytest.mark.parametrize(
    ("place", "steps"),
    [
        # a point of the curve is made once the step is over; step 0 is the look at the validation instances before it
        ("while checkpoint 2 is written", [0, 1, 2]),
        # step 2 again, because its checkpoint was not whole
        ("in step 3 of RL", [2]),
        ("while the policy is written", [3]),
        ("between the policy and its record", []),
        ("between the records of policy and curves", []),
        ("at last", []),
    ],
)
def test_training_goes_on_where_it_was(survived, place, steps) -> None:
    _, runs = survived
    assert runs[place].steps("rl") == steps
    resumed = any("train_rl: may go on from what an earlier run left" in line for line in runs[place].lines)
    assert resumed == (place != "while checkpoint 2 is written")


def test_a_warm_up_starts_anew(survived) -> None:
    """It takes a few steps and keeps no checkpoints."""
    _, runs = survived
    killed, after = (runs[place] for place in list(runs)[:2])
    assert killed.steps("warm_up") == [1]
    assert after.steps("warm_up") == [1, 2]


def test_an_output_without_a_record_is_made_again(survived) -> None:
    _, runs = survived
    for earlier, later in pairwise(["between the policy and its record", "between the records of policy and curves"]):
        assert "train_rl" in runs[earlier].ran
        assert runs[later].reasons["train_rl"] == "there is no readable record of what made policy"
    assert runs["at last"].reasons["train_rl"] == "there is no readable record of what made rl_curves"
