"""Files that travel in pieces."""

import argparse
import json

import pytest


@pytest.fixture
def pieces(project_root, monkeypatch):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import pieces

    return pieces


@pytest.fixture
def parts(pieces, tmp_path):
    """2,500 bytes in pieces of 1,000: 1,000 + 1,000 + 500."""
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(number % 251 for number in range(2500)))
    assert pieces.split(file, tmp_path / "parts", 1000) == 3
    return tmp_path / "parts"


def test_pieces_make_the_file_again(pieces, parts, tmp_path):
    assert [path.stat().st_size for path in sorted(parts.glob("weights.bin.0*"))] == [1000, 1000, 500]
    pieces.join(parts, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()


def test_a_changed_piece_is_refused_and_nothing_is_left_behind(pieces, parts, tmp_path):
    (parts / "weights.bin.001").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"weights\.bin\.001 differs"):
        pieces.join(parts, tmp_path / "again.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "weights.bin"]


def test_a_missing_piece_is_named(pieces, parts, tmp_path):
    (parts / "weights.bin.002").unlink()
    with pytest.raises(ValueError, match=r"missing: weights\.bin\.002"):
        pieces.join(parts, tmp_path / "again.bin")


def test_pieces_stay_in_their_folder(pieces, parts, tmp_path):
    manifest = json.loads((parts / "weights.bin.json").read_text())
    manifest["pieces"][0]["file"] = "../weights.bin"
    (parts / "weights.bin.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="outside its folder"):
        pieces.join(parts, tmp_path / "again.bin")


@pytest.mark.parametrize(("text", "size"), [("60MB", 60_000_000), ("64MiB", 67_108_864), ("5kb", 5_000), ("7", 7)])
def test_sizes_are_read(pieces, text, size):
    assert pieces.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["0MB", "MB", "-1MB", "60XB", ""])
def test_no_sizes_are_refused(pieces, text):
    with pytest.raises(argparse.ArgumentTypeError):
        pieces.size_in_bytes(text)
