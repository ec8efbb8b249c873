import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from flexrec.reporting.facts import command_line, run_facts


def test_facts_describe_the_machine():
    facts = run_facts()
    assert facts["platform"]["python"] == platform.python_version()
    assert facts["versions"]["numpy"] == __import__("numpy").__version__
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["memory_gib"] > 0
    assert facts["hardware"]["cpu"]


def test_facts_name_neither_host_nor_user_nor_place():
    text = json.dumps(run_facts())
    for secret in {platform.node(), str(Path.home()), str(Path.cwd())} - {""}:
        assert secret not in text
    # a short user name may be part of a word
    assert f'"{getpass.getuser()}"' not in text


def test_facts_ask_torch_only_where_it_is_loaded(monkeypatch):
    code = "import sys; from flexrec.reporting.facts import run_facts; run_facts(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

    class Cuda:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 1)
        get_device_name = staticmethod(lambda index: f"card {index}")

    class Torch:
        cuda = Cuda
        get_num_threads = staticmethod(lambda: 3)

    monkeypatch.setitem(sys.modules, "torch", Torch)
    hardware = run_facts()["hardware"]
    assert (hardware["torch_threads"], hardware["accelerators"]) == (3, ["card 0"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/opt/x/bin/kedro", "run", "--params", "need=trend"], "kedro run --params need=trend"),
        (["kedro", "run", "--conf-source=/home/me/conf"], "kedro run --conf-source=conf"),
        (
            ["kedro", "run", "--params", "raw_folder=/data/raw,need=trend"],
            "kedro run --params raw_folder=raw,need=trend",
        ),
        (["kedro", "run", "--params", "x=~/own/data,y=[/a/b,/c/d]"], "kedro run --params x=~/own/data,y=[b,d]"),
        (["kedro", "run", "--params", "x=file:///home/me/conf"], "kedro run --params x=file://conf"),
        (["kedro", "run", "--params", "rl.max_new_tokens=64"], "kedro run --params rl.max_new_tokens=64"),
        (["x", "--hub-token", "abc", "y"], "x --hub-token *** y"),
        (["x", "--api-key=abc"], "x --api-key=***"),
        (["x", "--params", "need=trend,hub_token=abc,seed=1"], "x --params need=trend,hub_token=***,seed=1"),
    ],
)
def test_commands_without_places_and_secrets(arguments, shown):
    assert command_line(arguments) == shown
