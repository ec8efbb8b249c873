import os
import signal

import pytest

from flexrec.errors import InputError
from flexrec.pipelines.study import runs
from flexrec.pipelines.study.project import Project
from flexrec.pipelines.study.runs import _alone, failure, launch, run_missing
from flexrec.pipelines.study.times import Times
from flexrec.study.settings import Seconds
from looked_at import looked, state


def test_a_run_gets_its_environment_and_leaves_what_it_printed(tmp_path):
    log = tmp_path / "logs" / "one.log"
    script = "import os, sys; print(os.environ['X'], os.getcwd()); print('oops', file=sys.stderr); sys.exit(3)"
    assert launch(["-c", script], folder=tmp_path, log=log, variables={"X": "7"}) == 3
    assert sorted(log.read_text().split()) == sorted(["7", str(tmp_path), "oops"])


def test_a_run_that_dies_gives_its_signal(tmp_path):
    script = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={}) == -signal.SIGKILL


def test_what_a_long_run_says_is_told_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "flexrec.pipelines.study.runs")
    monkeypatch.setattr(runs, "PAUSE_SECONDS", 0.2)
    script = "import time; print('00:00:01  first\\n00:00:02  50%\\r00:00:03  100%\\n', flush=True); time.sleep(1.5)"
    assert launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={}) == 0
    told = [message.partition(": ")[2] for message in caplog.messages]
    assert [line for line in told if line != "it has said nothing yet"] == ["100%"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_the_run_that_is_going_on(tmp_path, number):
    """The run interrupts whoever started it, and writes down how it was ended itself."""
    # a test suite in the background of a shell, or behind nohup, has signals ignored, and hands that down
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    script = (
        f"import os, signal, time\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"try:\n    os.kill(os.getppid(), {int(number)}); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    open('ended', 'w').write('politely')\n"
    )
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={})
        assert {one: signal.getsignal(one) for one in usual} == usual
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert (tmp_path / "ended").read_text() == "politely"


def test_a_run_is_not_in_the_group_that_a_terminal_interrupts(tmp_path):
    script = "import os; print(os.getpgid(0) == os.getpid())"
    launch(["-c", script], folder=tmp_path, log=tmp_path / "log", variables={})
    assert (tmp_path / "log").read_text() == "True\n"


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


def test_studies_of_two_names_are_two_studies(tmp_path, monkeypatch):
    """They may share runs, and the folders of these."""
    looks = [looked("a", [state("train_rl", "a")])]
    project = Project(tmp_path, str(tmp_path / "conf"), None, (), None)

    def launch(command, *, folder, log, variables, lock):
        with pytest.raises(InputError, match="another study"):
            run_missing("other", looks, Times(Seconds()), project, tmp_path / "other" / "logs")
        return 0

    monkeypatch.setattr(runs, "launch", launch)
    assert run_missing("mine", looks, Times(Seconds()), project, tmp_path / "mine" / "logs") == {}


def test_a_run_that_outlives_its_study_keeps_the_lock(tmp_path):
    with _alone(tmp_path) as lock:
        copy = os.dup(lock)
    try:
        with pytest.raises(InputError, match="left behind"), _alone(tmp_path):
            pass
    finally:
        os.close(copy)


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
