from flexrec.hooks import PARENT_RUN
from flexrec.pipelines.study.project import Project
from flexrec.study.plan import Cell


def test_the_command_is_that_of_an_ordinary_run(tmp_path):
    project = Project(tmp_path, str(tmp_path / "conf"), "test", (), None)
    cell = Cell("trend", "flexrec", 1, dataset="ml-1m", overrides=("rl.steps=2",))
    assert project.command(cell) == [
        "-m",
        "kedro",
        "run",
        "--pipelines=evaluate",
        "--params=dataset=ml-1m,need=trend,method=flexrec,seed=1,rl.steps=2",
        "--env=test",
    ]
    other = Project(tmp_path, "elsewhere", None, (), None)
    also = Cell("trend", "flexrec", 1, environment="gpu", also=("probe",))
    assert other.command(also)[3:] == [
        "--pipelines=evaluate,probe",
        "--params=need=trend,method=flexrec,seed=1",
        "--env=gpu",
        "--conf-source=elsewhere",
    ]


def test_a_run_knows_the_study_that_it_is_a_part_of(tmp_path):
    assert Project(tmp_path, "conf", None, (), "abc").variables == {PARENT_RUN: "abc"}
    assert Project(tmp_path, "conf", None, (), None).variables == {}
