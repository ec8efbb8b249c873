"""The time of all attempts, each until it last wrote something."""

import os
from pathlib import Path

import pytest

from flexrec.attempts import Clock


def at(path: Path, second: float) -> None:
    """Let a file have been written at a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1e9 + second, 1e9 + second))


def test_attempts_are_summed_until_each_last_wrote(tmp_path) -> None:
    clock = Clock(tmp_path / "work")
    assert clock.start() == 0.0
    at(clock.file, 0)
    at(tmp_path / "work" / "checkpoint-1" / "weights", 30)
    at(tmp_path / "work" / "checkpoint-2" / "weights", 70)
    # the second begins an hour later, writes once more after ten seconds, and is killed at some later time
    assert Clock(tmp_path / "work").start() == 70.0
    at(clock.file, 3670)
    at(tmp_path / "work" / "checkpoint-3" / "weights", 3680)
    assert Clock(tmp_path / "work").start() == 80.0
    # which wrote nothing
    at(clock.file, 9000)
    assert Clock(tmp_path / "work").start() == pytest.approx(80.0)
