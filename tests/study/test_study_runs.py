import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from flexrec.errors import InputError
from flexrec.fingerprint import Fingerprint
from flexrec.hooks import PARENT_RUN
from flexrec.pipelines.study import runs
from flexrec.pipelines.study.runs import Look, Project, Times, _alone, failure, launch, plan_text, run_missing
from flexrec.pipelines.study.uptodate import NodeState
from flexrec.study.plan import Cell
from flexrec.study.settings import Seconds


def test_a_run_gets_its_environment_and_leaves_what_it_printed(tmp_path):
    log = tmp_path / "logs" / "one.log"
    script = "import os, sys; print(os.environ['X'], os.getcwd()); print('oops', file=sys.stderr); sys.exit(3)"
    assert launch(["-c", script], folder=tmp_path, log=log, variables={"X": "7"}) == 3
    assert sorted(log.read_text().split()) == sorted(["7", str(tmp_path), "oops"])


def test_a_run_that_dies_gives_its_signal(tmp_path):
    script = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={}) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_run_that_is_going_on(tmp_path, number):
    """The run interrupts whoever started it, and writes down how it was ended itself."""
    # a test suite in the background of a shell has interruptions ignored, and hands that down
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    script = (
        f"import os, signal, time\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"try:\n    os.kill(os.getppid(), {int(number)}); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    open('ended', 'w').write('politely')\n"
    )
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={})
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "ended").read_text() == "politely"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        ("INFO x\nError: Node 'a': first.\n  second at {folder}/data/x\n", 1, "Node 'a': first. second at data/x"),
        ("Traceback\n  File 'x'\nValueError: no\n\n", 1, "ValueError: no"),
        ("working\n", -9, "ended by signal 9: working"),
        ("", 1, "it said nothing"),
    ],
)
def test_the_reason_is_what_a_run_said_last(tmp_path, said, status, reason):
    (tmp_path / "log").write_text(said.replace("{folder}", str(tmp_path)))
    assert failure(tmp_path / "log", status, tmp_path) == reason


def test_one_study_at_a_time(tmp_path):
    with _alone(tmp_path), pytest.raises(InputError, match="another study"), _alone(tmp_path):
        pass
    with _alone(tmp_path):
        pass


def test_a_run_that_outlives_its_study_keeps_the_lock(tmp_path):
    with _alone(tmp_path) as lock:
        copy = os.dup(lock)
    try:
        with pytest.raises(InputError, match="left behind"), _alone(tmp_path):
            pass
    finally:
        os.close(copy)


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


def test_what_the_session_reads_is_what_the_command_line_reads():
    cell = Cell("interest+trend", "flexrec", 1, density=0.2, overrides=("rl.clip=[0.1, 0.2]", "prompt.reasoning=true"))
    assert runs._runtime_parameters(cell) == {
        "need": "interest+trend",
        "method": "flexrec",
        "density": 0.2,
        "seed": 1,
        "rl": {"clip": [0.1, 0.2]},
        "prompt": {"reasoning": True},
    }


def test_a_run_knows_the_study_that_it_is_a_part_of(tmp_path):
    assert runs._variables(Project(tmp_path, "conf", None, (), "abc")) == {PARENT_RUN: "abc"}
    assert runs._variables(Project(tmp_path, "conf", None, (), None)) == {}


# --- Times ---


def looked(method: str, states: list[NodeState]) -> Look:
    catalog = {f"params:{name}": SimpleNamespace(load=lambda name=name: name) for name in ("dataset", "model")}
    return Look(Cell("trend", method, 0), catalog, tuple(states))


def state(node: str, place: str, *, stale: bool = True, seconds: float | None = None) -> NodeState:
    return NodeState(node, (Path(place),), "it is missing" if stale else None, Fingerprint({}), seconds, None)


def test_shared_parts_are_counted_once_and_measured_ones_as_they_were():
    rough = Seconds(start=10, train_warm_up=100, train_rl=200)
    done = looked("a", [state("train_rl", "a", stale=False, seconds=50.0)])
    first = looked("b", [state("train_warm_up", "w"), state("train_rl", "b"), state("measure", "bm")])
    second = looked("c", [state("train_warm_up", "w"), state("train_rl", "c")])
    times = Times(rough)
    # 10 + 100 + 200 + 1 for a node that nobody has measured; then 10 + 200, the warm-up being there
    assert times.seconds([done, first, second]) == [0.0, 311.0, 210.0]
    times.learn([done, first, second])
    assert times.seconds([done, first, second]) == [0.0, 161.0, 60.0]
    text = plan_text("mine", [done, first, second], times)
    assert text.startswith("study mine: 3 runs, 1 up to date, 2 to make, about 4 min\n")
    assert "2  trend b seed 0: about 3 min; train_warm_up: it is missing" in text


def test_the_others_go_on_after_a_failure(tmp_path, monkeypatch):
    started = []

    def launch(command, *, folder, log, variables, lock):
        started.append(command[-1])
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Error: Node 'train_rl': out of memory\n")
        return int("method=b" in command[-1])

    monkeypatch.setattr(runs, "launch", launch)
    looks = [looked(name, [state("train_rl", name)]) for name in "abc"]
    looks.append(looked("d", [state("train_rl", "d", stale=False)]))
    project = Project(tmp_path, str(tmp_path / "conf"), None, (), None)
    failed = run_missing("mine", looks, Times(Seconds()), project, tmp_path / "mine" / "logs")
    assert failed == {looks[1].cell: "Node 'train_rl': out of memory"}
    assert [text.partition("method=")[2][0] for text in started] == ["a", "b", "c"]


# --- What a cell is run with ---


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
    catalogs = [runs._catalog(cell, project, read, needed) for cell in cells]
    assert [catalog["params:rl"].load().steps for catalog in catalogs] == [2, 3, 3]
    assert [catalog["params:seed"].load() for catalog in catalogs] == [0, 1, 0]
    given = runs._runtime_parameters(cells[1])
    with KedroSession.create(project_root, env="test", runtime_params=given) as session:
        own = session.load_context().catalog
    assert catalogs[1]["policy"]._filepath == own["policy"]._filepath
    names = [name for name in own.keys() if name.startswith("params:")]  # noqa: SIM118
    assert {name: catalogs[1][name].load() for name in names} == {name: own[name].load() for name in names}
