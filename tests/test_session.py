import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import bootstrap_project
from kedro.runner import ThreadRunner

from flexrec import cli
from flexrec.errors import InputError
from flexrec.session import FlexrecSession
from tiny_project import TinyProject, tiny_project

NODES = "src/tiny/pipelines/make/nodes.py"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyProject]:
    with tiny_project(tmp_path, monkeypatch) as project:
        yield project


def command(tiny: TinyProject, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=tiny.path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"},
    )


def refused(tiny: TinyProject, *args: Any, **selection: Any) -> str:
    with pytest.raises(click.ClickException) as caught:
        tiny.run(*args, **selection)
    assert not any(": runs," in line for line in tiny.log)
    return caught.value.message


def test_unknown_parameters_are_refused_before_anything_runs(tiny: TinyProject) -> None:
    message = refused(tiny, {"facter": 3})
    assert message == "unknown parameter `facter`. Did you mean `factor`? Allowed: describe, factor, fresh, steps."
    message = refused(tiny, {"describe": {"digit": 3}})
    assert "unknown parameter `describe.digit`. Did you mean `describe.digits`?" in message
    assert "parameter `steps` has no parts: it is 3" in refused(tiny, {"steps": {"first": 1}})


def test_what_the_configuration_leaves_open_may_be_filled(tiny: TinyProject) -> None:
    tiny.replace("conf/base/parameters.yml", "note: none", "note: {}")
    assert "describe" in tiny.run({"describe": {"note": {"any": 1}}})


def test_the_project_checks_its_own_values(tiny: TinyProject) -> None:
    tiny.write(
        "src/tiny/selection.py",
        """
        from flexrec.errors import InputError


        def validate_selection(parameters):
            if parameters["factor"] > 9:
                raise InputError(f"factor {parameters['factor']} is too large; the largest is 9")
        """,
    )
    assert refused(tiny, {"factor": 10}) == "factor 10 is too large; the largest is 9"
    assert tiny.run({"factor": 9})


def test_what_names_a_run_is_no_matter_of_a_parameters_file(tiny: TinyProject) -> None:
    """Paths are made of the globals: seed 3 would be kept as seed 0."""
    tiny.write("conf/base/globals.yml", "steps: 3\n")
    assert tiny.run()
    tiny.write("conf/local/parameters.yml", "steps: 4\n")
    assert "parameter `steps` is 4 in a parameters file, and 3 in globals.yml" in refused(tiny)
    tiny.write("conf/local/globals.yml", "steps: 4\n")
    assert tiny.run() == {"train"}
    assert tiny.run({"steps": 5}) == {"train"}


def test_a_command_means_the_same_in_every_folder(tiny: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.replace(NODES, "return words.say(scaled)", "return str(Path('data/01_raw/raw.json').exists())")
    (tiny.path / "notebooks").mkdir()
    monkeypatch.chdir(tiny.path / "notebooks")
    tiny.run()
    assert (tiny.path / "data/08_reporting/text.md").read_text() == "True"
    assert Path.cwd() == tiny.path / "notebooks"


def test_a_request_to_terminate_ends_the_run_as_ctrl_c_does(tiny: TinyProject) -> None:
    tiny.replace(NODES, "return words.say(scaled)", "import os, signal\n    os.kill(os.getpid(), signal.SIGTERM)")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        tiny.run()
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    # the end is told
    assert any("of 4 nodes ran" in line for line in tiny.log)


def test_an_error_inside_a_resolver_is_told_plainly(tiny: TinyProject) -> None:
    tiny.write(
        "src/tiny/settings.py",
        """
        from flexrec.errors import InputError
        from flexrec.settings import CONFIG_LOADER_ARGS as COMMON, CONFIG_LOADER_CLASS, HOOKS, SESSION_CLASS


        def need(name):
            raise InputError(f"unknown need '{name}'. Allowed: interest, trend.")


        CONFIG_LOADER_ARGS = {**COMMON, "custom_resolvers": {"tiny_need": need}}
        """,
    )
    tiny.replace("conf/base/parameters.yml", "fresh: false", "fresh: false\nneed: ${tiny_need:interst}")
    assert refused(tiny) == "unknown need 'interst'. Allowed: interest, trend."


def test_typed_parameters_are_told_plainly(tiny: TinyProject) -> None:
    tiny.replace(NODES, "def describe(scaled, settings):", "def describe(scaled, settings: Digits):")
    tiny.replace(NODES, 'settings["digits"]', "settings.digits")
    tiny.replace(
        NODES,
        "from tiny import words",
        "from flexrec.config import Settings\nfrom tiny import words\n\n\nclass Digits(Settings):\n    digits: int\n"
        "    note: str | None = None\n",
    )
    message = refused(tiny, {"describe": {"digits": "many"}})
    assert "Parameter 'describe'" in message
    assert "digits" in message
    assert "describe" in tiny.run()
    # The default of a field counts like a value: leaving out what is the same anyway changes nothing.
    tiny.replace("conf/base/parameters.yml", "  note: none\n", "  note: null\n")
    assert tiny.run() == {"describe"}
    tiny.replace("conf/base/parameters.yml", "  note: null\n", "")
    assert tiny.run() == set()


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"pipeline_names": ["mak"]}, "Did you mean one of these instead? make"),
        ({"node_names": ["sale"]}, "does not contain nodes named ['sale']"),
        ({"tags": ["none"]}, "contains no nodes"),
    ],
)
def test_what_does_not_exist_is_told_plainly(tiny: TinyProject, selection: dict[str, Any], words: str) -> None:
    assert words in refused(tiny, **selection)


def test_the_old_name_of_the_option_still_works(tiny: TinyProject) -> None:
    assert len(tiny.run(pipeline_name="make")) == 4
    assert tiny.run(pipeline_names=["make"]) == set()


def test_another_runner_is_left_alone(tiny: TinyProject) -> None:
    tiny.run(runner=ThreadRunner(), node_names=["scale"])
    assert not (tiny.path / "data/02_intermediate/scaled.json.fingerprint.json").exists()
    assert tiny.run(node_names=["scale"]) == {"scale"}


def test_the_command_line(tiny: TinyProject) -> None:
    tiny.replace("conf/base/parameters.yml", "note: none", "note: none\nneeds: all")
    tiny.replace(NODES, "def write(scaled):", "def write(scaled, needs):")
    tiny.replace(NODES, "words.say(scaled)", "words.say([*scaled, needs])")
    tiny.replace("src/tiny/pipelines/make/pipeline.py", '"scaled", "text"', '["scaled", "params:needs"], "text"')
    done = command(tiny, "run", "--params", "factor=3,needs=interest,trend", "--pipeline=make")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tiny.path / "data/08_reporting/text.md").read_text() == "3 6 9 interest,trend"

    done = command(tiny, "run", "--params", "steps=-1")
    assert done.returncode == 1
    assert "Error: Node 'train': steps cannot be negative; give 1 or more" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    # said once, not once more by Kedro's node
    assert (done.stdout + done.stderr).count("cannot be negative") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a=1", {"a": 1}),
        ("a=1, b.c = x", {"a": 1, "b": {"c": "x"}}),
        ("need=interest,trend", {"need": "interest,trend"}),
        ("need=interest, trend,seed=1", {"need": "interest,trend", "seed": 1}),
        ("need=interest+trend", {"need": "interest+trend"}),
        ("a=[1,2],b=2", {"a": [1, 2], "b": 2}),
        ("a=b=c", {"a": "b=c"}),
        ({"a": "x,y"}, {"a": "x,y"}),
    ],
)
def test_lists_in_params(text: Any, expected: dict[str, Any]) -> None:
    option = next(option for option in cli.run.params if option.name == "params")
    assert option.callback is not None
    assert option.callback(click.Context(cli.run), option, text) == expected


@pytest.mark.parametrize("text", ["trend", "trend,a=1", "=1", "a=1,=2,c"])
def test_what_kedro_refuses_is_refused(text: str) -> None:
    option = next(option for option in cli.run.params if option.name == "params")
    assert option.callback is not None
    with pytest.raises(click.UsageError):
        option.callback(click.Context(cli.run), option, text)


def test_every_other_option_is_kedros_own() -> None:
    assert [option.name for option in cli.run.params] == [option.name for option in kedro_run.params]
    ours = [a for a, b in zip(cli.run.params, kedro_run.params, strict=True) if a.callback is not b.callback]
    assert [option.name for option in ours] == ["params"]
    assert cli.cli.commands == {"run": cli.run}


def test_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from flexrec import __main__

    configured, called = [], []
    monkeypatch.setattr(__main__, "configure_project", configured.append)
    monkeypatch.setattr(cli, "run", lambda *args, **kwargs: called.append((args, kwargs)))
    __main__.main("--help")
    assert (configured, called) == (["flexrec"], [(("--help",), {})])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        # settings with defaults, which no file names
        ({"rl": {"iterations": 2}, "evaluate": {"permutations": 500}, "decoding": {"engine": "replicated"}}, None),
        ({"warm_up_steps": {"fresh": 3}}, None),
        ({"rl": {"iterations": 0}}, "parameter `rl.iterations`: input should be greater than or equal to 1"),
        ({"rl": {"stepz": 3}}, "unknown parameter `rl.stepz`. Did you mean `rl.steps`?"),
        ({"rll": {"steps": 3}}, "unknown parameter `rll`. Did you mean `rl`?"),
        ({"warm_up_steps": {"frsh": 3}}, "unknown need 'frsh', allowed: default, interest"),
        ({"seed": True}, "parameter `seed`: input should be a valid integer"),
    ],
)
def test_a_parameter_that_stands_in_no_file_is_judged_by_the_settings(
    project_root: Path, given: dict[str, Any], message: str | None
) -> None:
    bootstrap_project(project_root)
    session = FlexrecSession.create(project_root, save_on_close=False, env="test", runtime_params=given)
    if message is None:
        session.check_parameters()
        return
    with pytest.raises(InputError) as caught:
        session.check_parameters()
    assert message in str(caught.value)


def test_nothing_reports_home_and_bars_of_libraries_are_for_terminals(project_root: Path) -> None:
    names = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
    code = f"import os, flexrec.settings; print(*(os.environ.get(name) for name in {names}))"
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, cwd=project_root)
    assert done.stdout == "true 1 1\n"
