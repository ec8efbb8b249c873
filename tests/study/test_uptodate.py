"""What would run, without running it, agrees with what the runner then does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import pipelines

from flexrec.errors import InputError
from flexrec.pipelines.study.uptodate import Inspector, NodeState, refuse_conflicts
from tiny_project import TinyProject, tiny_project


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyProject]:
    with tiny_project(tmp_path, monkeypatch) as project:
        yield project


def states(tiny: TinyProject, parameters: dict[str, Any] | None = None) -> dict[str, NodeState]:
    from flexrec.session import FlexrecSession

    with FlexrecSession.create(tiny.path, runtime_params=parameters) as session:
        catalog = session.load_context().catalog
        return {state.node: state for state in Inspector().states(pipelines["__default__"], catalog)}


def would_run(tiny: TinyProject, parameters: dict[str, Any] | None = None) -> set[str]:
    return {name for name, state in states(tiny, parameters).items() if state.reason}


def test_nothing_is_up_to_date_before_the_first_run_and_everything_after_it(tiny):
    assert tiny.run() == {"scale", "describe", "write", "train"}
    found = states(tiny)
    assert {name: state.reason for name, state in found.items()} == dict.fromkeys(found)
    assert 0 < found["train"].seconds < 60
    assert found["train"].made
    assert {path.name for path in found["train"].places} == {"model", "losses.parquet"}


def test_what_would_run_is_what_runs(tiny):
    tiny.run()
    parameters = {"steps": 5}
    assert states(tiny, parameters)["train"].reason == "parameter steps changed from 3 to 5"
    assert would_run(tiny, parameters) == tiny.run(parameters) == {"train"}
    # what is behind a change may have to run, too: that is known only when the new bytes are there
    found = states(tiny, {"factor": 3})
    assert found["describe"].reason == "scaled is made anew"
    both = {"factor": 3, **parameters}
    foreseen = would_run(tiny, both)
    assert foreseen == {"scale", "describe", "write", "train"} == tiny.run(both)


def test_a_deleted_or_altered_output_is_seen(tiny):
    tiny.run()
    (tiny.path / "data/08_reporting/text.md").unlink()
    assert states(tiny)["write"].reason == "text is missing"
    assert would_run(tiny) == {"write"}
    scaled = tiny.path / "data/02_intermediate/scaled.json"
    scaled.write_text(scaled.read_text() + " ")
    assert states(tiny)["scale"].reason == "scaled was altered after it was made"


def test_a_changed_input_is_seen(tiny):
    tiny.run()
    tiny.write("data/01_raw/raw.json", "[1, 2, 4]")
    assert states(tiny)["scale"].reason == "input raw changed"


def test_runs_that_would_overwrite_each_other_are_refused(tiny):
    tiny.run()
    first, second = (list(states(tiny, parameters).values()) for parameters in ({"steps": 3}, {"steps": 4}))
    refuse_conflicts({"one": first, "two": first})
    with pytest.raises(InputError, match=r"two and one keep what node 'train' makes .* steps changed from 3 to 4"):
        refuse_conflicts({"one": first, "two": second})
