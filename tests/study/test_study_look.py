from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from flexrec.pipelines.study import look
from flexrec.pipelines.study.project import Project
from flexrec.study.plan import Cell


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
