import datetime
import hashlib
import json
import os
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from flexrec.errors import InputError
from flexrec.fingerprint import (
    Fingerprint,
    Sidecar,
    canonical,
    content_digest,
    leaves,
    parameter_parts,
)

# --- Values ---


class Colour(Enum):
    RED = "red"


class Reward(BaseModel):
    kind: str = "swap"


class Sharper(Reward):
    power: int = 2


class Rl(BaseModel):
    steps: int = 10
    reward: Reward = Reward()


class Table(RootModel[dict[str, Rl]]):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Rl(), '{"reward":{"kind":"swap"},"steps":10}'),
        # pydantic's own dump would drop the field that only the subclass has
        (Rl(reward=Sharper()), '{"reward":{"kind":"swap","power":2},"steps":10}'),
        (Table({"a": Rl(steps=1)}), '{"a":{"reward":{"kind":"swap"},"steps":1}}'),
        ({"b": (1, 2.0), "a": {3, 1}}, '{"a":[1,3],"b":[1,2.0]}'),
        (Colour.RED, '"red"'),
        (Path("a") / "b", '"a/b"'),
        (datetime.date(2026, 3, 1), '"2026-03-01"'),
        ([True, None, float("inf")], "[true,null,Infinity]"),
    ],
)
def test_canonical_text(value: Any, text: str) -> None:
    assert canonical(value) == text


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(InputError, match="SimpleNamespace cannot be fingerprinted"):
        canonical({"a": SimpleNamespace()})


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.floats(allow_nan=False)), max_size=5))
def test_canonical_text_is_json_that_ignores_the_order_of_keys(value: dict[str, Any]) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_leaves_keep_the_order() -> None:
    assert list(leaves("rl", {"b": {"y": [1, {"z": 2}]}, "a": {}})) == [("rl.b.y", '[1,{"z":2}]'), ("rl.a", "{}")]


def test_parameter_parts() -> None:
    parts = parameter_parts({"params:rl": {"steps": 1, "text": "x" * 200}, "params:seed": 3})
    assert parts["parameter"]["rl.steps"] == "1"
    assert parts["parameter"]["seed"] == "3"
    assert parts["parameter"]["rl.text"] == "sha256:" + hashlib.sha256(('"' + "x" * 200 + '"').encode()).hexdigest()
    assert parts["order"].keys() == {"rl"}


def test_the_order_of_keys_is_a_part_of_its_own() -> None:
    one = Fingerprint(parameter_parts({"params:needs": {"a": 1, "b": 2}}))
    other = Fingerprint(parameter_parts({"params:needs": {"b": 2, "a": 1}}))
    assert one.difference(other.parts) == "the order of the keys of parameter needs changed"
    # The whole of the configuration follows the order in which files are found, which means nothing.
    one, other = (Fingerprint(parameter_parts({"parameters": value})) for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one.digest == other.digest


# --- Content ---


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert content_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_modification_time_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    os.utime(file, (1, 1))
    before = content_digest(file)
    file.write_bytes(b"abd")
    os.utime(file, (1, 1))
    assert content_digest(file) != before
    file.write_bytes(b"abc")
    assert content_digest(file) == before


def test_the_digest_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    one, two = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    expected = hashlib.sha256(f"folder\n{one}  a\n{two}  sub/b\n".encode()).hexdigest()
    assert content_digest(tmp_path) == expected
    (tmp_path / "a.fingerprint.json").write_text("{}")
    (tmp_path / ".a.123.partial").write_text("half")
    assert content_digest(tmp_path) == expected
    (tmp_path / "a").rename(tmp_path / "c")
    assert content_digest(tmp_path) != expected


# --- Fingerprint and sidecar ---

PARTS = {
    "code": {"flexrec.a": "1", "flexrec.b": "2"},
    "parameter": {"steps": "1", "long": "sha256:1"},
    "input": {"items": "1"},
    "library": {"torch": "2.12"},
    "entry": {"items": "1"},
    "wiring": {"inputs": "1"},
}


@pytest.mark.parametrize(
    ("kind", "changed", "words"),
    [
        ("code", {"flexrec.a": "1", "flexrec.b": "3"}, "the code of flexrec.b changed"),
        ("code", {"flexrec.a": "2", "flexrec.0": "1", "flexrec.b": "2"}, "the code of flexrec.a changed"),
        ("code", {"flexrec.a": "1"}, "the code of flexrec.b is no longer used"),
        ("parameter", {"steps": "2", "long": "sha256:1"}, "parameter steps changed from 1 to 2"),
        ("parameter", {"steps": "1", "long": "sha256:2"}, "parameter long changed"),
        ("parameter", {"steps": "1", "long": "sha256:1", "new": "1"}, "parameter new was not used before"),
        ("input", {"items": "2"}, "input items changed"),
        ("library", {"torch": "2.13"}, "library torch changed from 2.12 to 2.13"),
        ("entry", {"items": "2"}, "the catalog entry of items changed"),
        ("wiring", {"inputs": "2"}, "the node's inputs changed"),
    ],
)
def test_the_first_difference_in_words(kind: str, changed: dict[str, str], words: str) -> None:
    now = Fingerprint({**PARTS, kind: changed})
    assert now.difference(PARTS) == words
    assert now.digest != Fingerprint(PARTS).digest


def test_no_difference() -> None:
    assert Fingerprint(PARTS).difference(json.loads(json.dumps(PARTS))) is None


def test_a_sidecar_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    sidecar = Sidecar(
        dataset="a",
        node="make",
        fingerprint="1",
        parts=PARTS,
        content="2",
        size=3,
        seconds=0.5,
        session="s",
        mlflow_run=None,
    )
    assert Sidecar.read(output) is None
    sidecar.write(output)
    assert Sidecar.read(output) == sidecar
    text = (tmp_path / "a.json.fingerprint.json").read_text()
    for corrupt in (text[:-20], text.replace('"make"', "7"), text.replace('"node"', '"knot"'), "", "\xff"):
        (tmp_path / "a.json.fingerprint.json").write_text(corrupt)
        assert Sidecar.read(output) is None
