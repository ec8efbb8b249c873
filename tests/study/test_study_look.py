import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.pipelines.study import look
from flexrec.pipelines.study.project import Project
from flexrec.study.plan import Cell, cells_of
from flexrec.study.settings import Block, StudySettings


def test_what_the_session_reads_is_what_the_command_line_reads():
    cell = Cell("interest+trend", "flexrec", 1, density=0.2, overrides=("rl.clip=[0.1, 0.2]", "prompt.reasoning=true"))
    assert look._runtime_parameters(cell) == {
        "need": "interest+trend",
        "method": "flexrec",
        "density": 0.2,
        "seed": 1,
        "rl": {"clip": [0.1, 0.2]},
        "prompt": {"reasoning": True},
    }


def test_a_cell_sees_what_its_own_session_sees_and_nothing_of_another(project_root):
    bootstrap_project(project_root)
    project = Project(project_root, str(project_root / "conf"), "test", (), None)
    cells = [
        Cell("trend", "flexrec", 0, overrides=("rl.steps=2",)),
        Cell("explore", "rec_r1", 1, density=0.2),
        Cell("trend", "flexrec", 0),
    ]
    needed = {"policy", "instance_metrics", "params:rl"}
    read: dict = {}
    catalogs = [look._catalog(cell, project, read, needed) for cell in cells]
    assert [catalog["params:rl"].load().steps for catalog in catalogs] == [2, 3, 3]
    assert [catalog["params:seed"].load() for catalog in catalogs] == [0, 1, 0]
    given = look._runtime_parameters(cells[1])
    with KedroSession.create(project_root, env="test", runtime_params=given) as session:
        own = session.load_context().catalog
    assert catalogs[1]["policy"]._filepath == own["policy"]._filepath
    names = [name for name in own.keys() if name.startswith("params:")]  # noqa: SIM118
    assert {name: catalogs[1][name].load() for name in names} == {name: own[name].load() for name in names}


def test_layouts_of_one_study_keep_their_results_apart_and_have_tables_of_their_own(project_root):
    bootstrap_project(project_root)
    project = Project(project_root, str(project_root / "conf"), "test", (), None)
    block = {"needs": ["interest"], "methods": ["flexrec"]}
    grid = [block, {**block, "layout": "predictions"}, {**block, "layout": "default"}]
    study = StudySettings.model_validate({"title": "t", "grid": grid[:2]})
    known = {"datasets": ["fabricated"], "methods": {"flexrec": "critic"}, "models": ["tiny"]}
    cells = cells_of("mine", study, layouts=["default", "predictions"], **known)
    # it looks for conflicts, and finds none
    found = look.look(cells, project)
    places = [{place for state in one.states if state.node == "train_rl" for place in state.places} for one in found]
    assert not places[0] & places[1]
    assert [result.model for result in look.results(found, {}, project)] == ["tiny", "tiny+predictions"]
    # the default named and not named is one place with one thing in it
    (named,) = look.look(
        cells_of(
            "mine", study.model_copy(update={"grid": (Block.model_validate(grid[2]),)}), layouts=["default"], **known
        ),
        project,
    )
    assert [state.places for state in named.states] == [state.places for state in found[0].states]


def test_one_run_under_two_names_is_refused(project_root):
    """It would be told, and counted, twice."""
    bootstrap_project(project_root)
    project = Project(project_root, str(project_root / "conf"), "test", (), None)
    cells = [Cell("interest", "flexrec", 0), Cell("interest", "flexrec", 0, dataset="fabricated")]
    twice = "one run twice, as 'interest flexrec seed 0' and as 'fabricated interest flexrec seed 0'"
    with pytest.raises(InputError, match=twice):
        look.look(cells, project)


def test_a_layout_as_an_override_is_refused(project_root):
    with pytest.raises(ValidationError, match="layout is no override: it has a field of its own"):
        Block.model_validate({"needs": ["a"], "methods": ["flexrec"], "overrides": ["layout=predictions"]})
