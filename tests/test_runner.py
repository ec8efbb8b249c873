import importlib.metadata
import json
import os
import signal
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.io import CachedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import node, pipeline
from kedro.validation.exceptions import CheckFailure, DataValidationError
from kedro_datasets.pandas import CSVDataset

from flexrec import fingerprint, source_code
from flexrec.datasets import JSONDataset
from flexrec.errors import FlexrecError, InputError
from flexrec.runner import FingerprintRunner, NodeError, readable_size, user_error
from tiny_project import TinyProject, tiny_project

NODES = "src/tiny/pipelines/make/nodes.py"
PARAMETERS = "conf/base/parameters.yml"
ALL = {"scale", "describe", "write", "train"}
SCALED = "data/02_intermediate/scaled.json"
SUMMARY = "data/08_reporting/summary.json"
TEXT = "data/08_reporting/text.md"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyProject]:
    with tiny_project(tmp_path, monkeypatch) as project:
        yield project


def test_a_second_run_does_nothing(tiny: TinyProject) -> None:
    assert tiny.run() == ALL
    assert tiny.reason("scale") == "scaled is missing"
    assert tiny.read(SCALED) == [2, 4, 6]
    assert json.loads(tiny.newest(SUMMARY).read_text()) == {"mean": 4.0, "counts": {"all": 3}}
    assert (tiny.newest("data/06_models/model") / "weights.txt").read_text() == "12 after 3, resumed at 0"
    assert not (tiny.path / "data/06_models/work").exists()

    before = {path: path.stat().st_mtime_ns for path in (tiny.path / "data").rglob("*")}
    assert tiny.run() == set()
    assert {path: path.stat().st_mtime_ns for path in (tiny.path / "data").rglob("*")} == before
    reused = [f"{name}: reused, nothing that it depends on has changed" for name in ALL]
    assert set(reused) <= set(tiny.log)


def test_a_run_says_in_the_end_what_it_made(tiny: TinyProject) -> None:
    tiny.run()
    tiny.replace("src/tiny/words.py", '" "', '", "')
    tiny.run()
    summary = next(line for line in tiny.log if "of 4 nodes ran" in line).splitlines()
    assert summary[0].startswith("1 of 4 nodes ran")
    assert summary[1:] == [f"  made   {TEXT}, 7 bytes", "  reused scaled, summary, model, losses"]


@pytest.mark.parametrize(
    ("file", "old", "new", "ran", "reason"),
    [
        ("src/tiny/maths/deep.py", "the only multiplication", "a product", set(), None),
        (NODES, '"""Multiply."""', '"""Times."""', set(), None),
        # what imports it, at any depth; what comes after gives the same bytes, so the rest stays
        ("src/tiny/maths/deep.py", "a * b", "b * a", {"scale", "describe"}, "the code of tiny.maths.deep changed"),
        ("src/tiny/maths/deep.py", "a * b", "a * b + 1", ALL, "the code of tiny.maths.deep changed"),
        ("src/tiny/words.py", '" "', '", "', {"write"}, "the code of tiny.words changed"),
        (NODES, '"all"', '"every"', {"describe"}, f"the code of {NODES[4:-3].replace('/', '.')} changed"),
        (PARAMETERS, "digits: 1", "digits: 2", {"describe"}, "parameter describe.digits changed from 1 to 2"),
        (PARAMETERS, "note: none", "note: a", {"describe"}, 'parameter describe.note changed from "none" to "a"'),
        (PARAMETERS, "steps: 3", "steps: 4", {"train"}, "parameter steps changed from 3 to 4"),
        ("data/01_raw/raw.json", "[1, 2, 3]", "[1, 2, 4]", ALL, "input raw changed"),
        # new bytes, same values
        ("data/01_raw/raw.json", "[1, 2, 3]", "[1,2,3]", {"scale"}, "input raw changed"),
        (
            "src/tiny/pipelines/make/pipeline.py",
            'node(write, "scaled"',
            'node(write, ["scaled"]',
            {"write"},
            "the node's inputs changed",
        ),
        (
            "conf/base/catalog.yml",
            "filepath: data/02_intermediate/scaled.json",
            "filepath: data/02_intermediate/scaled.json\n  save_args: {indent: 1}",
            ALL,
            "the catalog entry of scaled changed",
        ),
    ],
)  # fmt: skip
def test_what_reruns(tiny: TinyProject, file: str, old: str, new: str, ran: set[str], reason: str | None) -> None:
    tiny.run()
    tiny.replace(file, old, new)
    assert tiny.run() == ran
    if reason:
        first = next(line for line in tiny.log if ": runs, because " in line)
        assert first.partition(" because ")[2] == reason
    assert tiny.run() == set()


def test_a_library_counts_by_its_version(tiny: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.run()
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "pandas" else installed(name))
    # as in another process, after an update
    monkeypatch.setattr(source_code, "_version", cache(source_code._version.__wrapped__))
    assert tiny.run(node_names=["train"]) == {"train"}
    assert tiny.reason("train") == f"library pandas changed from {installed('pandas')} to 9.9"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "text is missing"),
        (lambda path: path.write_text(path.read_text()[:2]), "text was altered after it was made"),
        (lambda path: path.with_name("text.md.fingerprint.json").write_text("{"), "there is no readable record of"),
        (lambda path: path.with_name("text.md.fingerprint.json").unlink(), "there is no readable record of"),
    ],
)
def test_a_damaged_output_is_made_again(tiny: TinyProject, damage: Any, reason: str) -> None:
    tiny.run()
    damage(tiny.path / TEXT)
    assert tiny.run() == {"write"}
    assert tiny.reason("write").startswith(reason)
    assert (tiny.path / TEXT).read_text() == "2 4 6"
    assert tiny.run() == set()


def test_every_output_of_a_node_counts(tiny: TinyProject) -> None:
    tiny.run()
    (tiny.path / "data/08_reporting/losses.parquet").unlink()
    assert tiny.run() == {"train"}
    weights = tiny.newest("data/06_models/model") / "weights.txt"
    weights.write_text("altered")
    assert tiny.run() == {"train"}
    assert tiny.reason("train") == "model was altered after it was made"


def test_a_run_killed_between_output_and_record_makes_it_again(
    tiny: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (child := os.fork()) == 0:
        with monkeypatch.context() as patch:
            patch.setattr(fingerprint.Sidecar, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            tiny.run(node_names=["scale"])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert tiny.read(SCALED) == [2, 4, 6]
    assert tiny.run(node_names=["scale"]) == {"scale"}
    assert tiny.reason("scale") == "there is no readable record of what made scaled"


def test_the_record_says_what_made_an_output(tiny: TinyProject) -> None:
    tiny.run()
    record = tiny.read(f"{SCALED}.fingerprint.json")
    assert (record["node"], record["dataset"], record["size"]) == ("scale", "scaled", 17)
    assert record["content"] == fingerprint.content_digest(tiny.path / SCALED)
    assert record["parts"]["parameter"] == {"factor": "2"}
    assert record["parts"]["input"] == {"raw": fingerprint.content_digest(tiny.path / "data/01_raw/raw.json")}
    assert record["parts"]["code"].keys() >= {"tiny.maths.formulas", "tiny.maths.deep", "flexrec.datasets"}
    assert "tiny.words" not in record["parts"]["code"]
    assert "tiny.pipelines.make.pipeline" not in record["parts"]["code"]
    assert "kedro-datasets" in record["parts"]["library"]
    assert record["session"]
    assert record["mlflow_run"] is None
    # a node that computes nothing, and a process that has been started for it
    assert 0 < record["seconds"] < 60


def test_fresh_runs_everything(tiny: TinyProject) -> None:
    tiny.run()
    assert tiny.run({"fresh": True}) == ALL
    assert tiny.reason("scale") == "a fresh run was asked for"
    assert tiny.run() == set()
    with pytest.raises(click.ClickException, match="`fresh` is true or false, not 'perhaps'"):
        tiny.run({"fresh": "perhaps"})


def test_parts_of_the_pipeline(tiny: TinyProject) -> None:
    assert tiny.run(tags=["first"]) == {"scale"}
    assert tiny.run(to_outputs=["text"]) == {"write"}
    assert tiny.run(from_nodes=["describe"]) == {"describe"}
    assert tiny.run(only_missing_outputs=True) == {"train"}
    assert tiny.run() == set()


def test_an_input_that_is_not_there(tiny: TinyProject) -> None:
    with pytest.raises(click.ClickException, match=r"Node 'write': `scaled` is not there .*--to-outputs=scaled"):
        tiny.run(node_names=["write"])


def test_code_that_is_edited_during_a_run_was_not_what_ran(tiny: TinyProject) -> None:
    tiny.write(
        "src/tiny/maths/deep.py",
        """
        from pathlib import Path


        def product(a, b):
            Path("src/tiny/words.py").write_text("def say(values): return str(len(values))")
            return a * b
        """,
    )
    tiny.run()
    assert (tiny.path / TEXT).read_text() == "2 4 6"
    assert tiny.run() == {"write"}
    assert (tiny.path / TEXT).read_text() == "3"


# --- Versions ---

LOSSES = "filepath: data/08_reporting/losses.parquet\n  versioned: true"
WRITE = """def write(model, losses):
    return f"{(model / 'weights.txt').read_text()}: {len(losses)} losses\""""


def test_the_newest_version_counts_and_is_read_downstream(tiny: TinyProject) -> None:
    tiny.replace("src/tiny/pipelines/make/pipeline.py", 'node(write, "scaled"', 'node(write, "summary"')
    tiny.run()
    first = tiny.newest(SUMMARY)
    assert (tiny.path / TEXT).read_text() == "mean counts"
    tiny.replace(NODES, '"counts"', '"sizes"')
    assert tiny.run() == {"describe", "write"}
    assert (tiny.path / TEXT).read_text() == "mean sizes"
    assert tiny.newest(SUMMARY) > first
    assert first.exists()
    # back to the old code: the newest version is compared, not any
    tiny.replace(NODES, '"sizes"', '"counts"')
    assert tiny.run() == {"describe", "write"}


def test_a_pinned_version_is_not_made_again(tiny: TinyProject) -> None:
    tiny.replace("src/tiny/pipelines/make/pipeline.py", 'node(write, "scaled"', 'node(write, "summary"')
    tiny.run()
    version = tiny.newest(SUMMARY).parent.name
    tiny.replace(NODES, '"counts"', '"sizes"')
    tiny.run()
    assert tiny.run(load_versions={"summary": version}) == {"write"}
    assert tiny.reason("write") == "input summary changed"
    assert f"describe: not run, pinned to summary {version}" in tiny.log
    assert (tiny.path / TEXT).read_text() == "mean counts"


def test_what_was_made_with_a_pinned_version_and_is_gone_is_told(tiny: TinyProject) -> None:
    tiny.run({"steps": 2})
    version = tiny.newest("data/06_models/model").parent.name
    tiny.run({"steps": 3})
    tiny.log.clear()
    tiny.run({"steps": 3}, load_versions={"model": version})
    assert f"train: not run, pinned to model {version}" in tiny.log
    assert "losses is kept once only, and is of another run than what is pinned" in tiny.log


def test_a_pinned_version_that_is_not_there_is_refused_before_anything_runs(tiny: TinyProject) -> None:
    tiny.run()
    version = tiny.newest(SUMMARY).parent.name
    with pytest.raises(click.ClickException, match=rf"^`summary` has no version 2020; there are: {version}$"):
        tiny.run({"factor": 3}, load_versions={"summary": "2020"})
    assert not any(": runs," in line for line in tiny.log)


def test_a_pin_counts_where_its_maker_is_not_in_the_run(tiny: TinyProject) -> None:
    """`write` reads both outputs of `train`: a model, and the losses of its own training."""
    tiny.replace("conf/base/catalog.yml", "filepath: data/08_reporting/losses.parquet", LOSSES)
    tiny.replace("src/tiny/pipelines/make/pipeline.py", 'node(write, "scaled"', 'node(write, ["model", "losses"]')
    tiny.replace(NODES, "def write(scaled):\n    return words.say(scaled)", WRITE)
    tiny.run({"steps": 2})
    version = tiny.newest("data/06_models/model").parent.name
    tiny.run({"steps": 3})
    assert (tiny.path / TEXT).read_text() == "12 after 3, resumed at 0: 3 losses"
    only = {"node_names": ["write"]}
    assert tiny.run({"steps": 3}, load_versions={"model": version}, **only) == {"write"}
    assert (tiny.path / TEXT).read_text() == "12 after 2, resumed at 0: 2 losses"
    with pytest.raises(click.ClickException, match=r"^`model` has no version 2020; there are: "):
        tiny.run({"steps": 3}, load_versions={"model": "2020"}, **only)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scaled", "^`scaled` is kept once only: there is no version 2020 of it to load$"),
        ("modle", r"keys \[modle\] are not found in the catalog"),
    ],
)
def test_a_pin_of_what_has_no_versions_is_refused(tiny: TinyProject, name: str, message: str) -> None:
    with pytest.raises(click.ClickException, match=message):
        tiny.run(load_versions={name: "2020"})
    assert not any(": runs," in line for line in tiny.log)


def test_a_run_that_made_nothing_has_nothing_to_go_on_from(tiny: TinyProject) -> None:
    tiny.replace(NODES, "def scale(", "def scale(*_):\n    raise InputError('no')\n\n\ndef unscaled(")
    tiny.replace(NODES, "from tiny import words", "from flexrec.errors import InputError\nfrom tiny import words")
    with pytest.raises(click.ClickException, match=r"^Node 'scale': no$"):
        tiny.run()
    assert any("0 of 4 nodes ran" in line for line in tiny.log)
    assert not any("goes on from here" in line for line in tiny.log)


def test_a_version_from_the_future_is_no_silent_success(tiny: TinyProject) -> None:
    tiny.run()
    future = tiny.path / SUMMARY / "2999-01-01T00.00.00.000Z" / "summary.json"
    future.parent.mkdir()
    future.write_text("{}")
    with pytest.raises(click.ClickException, match=r"2999.* counts as newer"):
        tiny.run()


# --- Work folder ---


def test_a_training_goes_on_after_a_failure_with_the_same_fingerprint_only(tiny: TinyProject) -> None:
    work = tiny.path / "data/06_models/work"
    for _ in range(2):  # fails after two steps, then goes on from there
        try:
            tiny.run({"steps": 99})
        except RuntimeError:
            assert (work / "step_1").exists()
            # as if it had taken a hundred seconds until its last step
            began = (work / ".seconds").stat().st_mtime
            os.utime(work / "step_1", (began + 100.0, began + 100.0))
    model = tiny.newest("data/06_models/model")
    assert (model / "weights.txt").read_text() == "12 after 99, resumed at 2"
    sidecar = fingerprint.Sidecar.read(model)
    assert sidecar is not None
    # the time of both attempts; the second one's is short
    assert 100.0 < sidecar.seconds < 110.0
    assert not (tiny.path / "data/06_models/work").exists()

    tiny.replace("data/01_raw/raw.json", "[1, 2, 3]", "[1, 2, 4]")
    with pytest.raises(RuntimeError, match="killed"):
        tiny.run({"steps": 99})
    tiny.replace("data/01_raw/raw.json", "[1, 2, 4]", "[1, 2, 5]")
    with pytest.raises(RuntimeError, match="killed"):
        tiny.run({"steps": 99})


# --- Errors ---


def test_a_mistake_becomes_one_message_and_what_was_made_stays(tiny: TinyProject) -> None:
    with pytest.raises(click.ClickException) as caught:
        tiny.run({"steps": -1})
    assert caught.value.message == "Node 'train': steps cannot be negative; give 1 or more"
    assert any("What was made stays" in line for line in tiny.log)
    assert "write" in tiny.run()
    assert "scale" not in tiny.run()


def test_an_accident_keeps_its_traceback(tiny: TinyProject) -> None:
    with pytest.raises(RuntimeError, match="an accident") as caught:
        tiny.run({"steps": 13})
    assert caught.value.__notes__ == ["This happened in node 'train'."]
    assert caught.traceback[-1].name == "train"


def test_user_error_looks_behind_what_wraps_it() -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = InputError("no")
    assert str(user_error(wrapped)) == "no"
    after = RuntimeError("while something was handled")
    after.__context__ = InputError("handled")
    assert user_error(after) is None
    schema = DataValidationError("bad", failures=[CheckFailure("negative")])
    assert user_error(schema) is schema
    assert user_error(DataValidationError("a bug in a validator")) is None


# --- Without a session ---


def add_one(x: list[int]) -> list[int]:
    return [value + 1 for value in x]


def add(x: list[int], amount: int) -> list[int]:
    return [value + amount for value in x]


def show(x: list[int]) -> None:
    print(x)


def boom(x: list[int]) -> list[int]:
    raise InputError("the row is bad")


def catalog_of(tmp_path: Path, **others: Any) -> DataCatalog:
    raw = JSONDataset(filepath=str(tmp_path / "raw.json"))
    raw.save([1])
    return DataCatalog({"raw": raw, "out": JSONDataset(filepath=str(tmp_path / "out.json")), **others})


def test_a_dataset_in_memory(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    always = pipeline([node(add_one, "raw", "nowhere", name="always")])
    FingerprintRunner().run(always, catalog)
    then = pipeline([node(add_one, "nowhere", "out", name="then")])
    with pytest.raises(InputError, match="node 'then' reads `nowhere`, which lies in no local file"):
        FingerprintRunner().run(always + then, catalog_of(tmp_path, nowhere=MemoryDataset()))


def test_a_remote_input_is_refused(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, far=CSVDataset(filepath="memory://a.csv"))
    with pytest.raises(InputError, match="lies in no local file"):
        FingerprintRunner().run(pipeline([node(add_one, "far", "out")]), catalog)


def test_a_cached_dataset_is_the_file_behind_it(tmp_path: Path) -> None:
    for expected in ([2], [2]):
        catalog = catalog_of(tmp_path)
        catalog["cached"] = CachedDataset(JSONDataset(filepath=str(tmp_path / "cached.json")))
        FingerprintRunner().run(pipeline([node(add_one, "raw", "cached"), node(add_one, "cached", "out")]), catalog)
        assert json.loads((tmp_path / "cached.json").read_text()) == expected
        assert (tmp_path / "cached.json.fingerprint.json").exists()


def test_a_node_without_outputs_always_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        FingerprintRunner().run(pipeline([node(show, "raw", None)]), catalog_of(tmp_path))
        assert capsys.readouterr().out.endswith("[1]\n")


def test_bound_arguments_count(tmp_path: Path) -> None:
    for amount, expected in ((1, [2]), (1, [2]), (2, [3])):
        FingerprintRunner().run(
            pipeline([node(partial(add, amount=amount), "raw", "out", name="add")]), catalog_of(tmp_path)
        )
        assert json.loads((tmp_path / "out.json").read_text()) == expected


def test_a_function_that_cannot_be_read_is_refused_by_the_name_of_its_node(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="Node 'show': print cannot be a node"):
        FingerprintRunner().run(pipeline([node(print, "raw", None, name="show")]), catalog_of(tmp_path))


def test_an_error_of_the_library_names_the_node(tmp_path: Path) -> None:
    with pytest.raises(FlexrecError, match="Node 'bad': the row is bad"):
        FingerprintRunner().run(pipeline([node(boom, "raw", "out", name="bad")]), catalog_of(tmp_path))


def test_kedro_viz_takes_it_for_a_sequential_runner() -> None:
    from kedro_viz.integrations.kedro.hooks_utils import is_sequential_runner

    assert is_sequential_runner({"runner": str(FingerprintRunner())})


@pytest.mark.parametrize(("size", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e9, "3.0 GB")])
def test_readable_size(size: int, text: str) -> None:
    assert readable_size(size) == text
