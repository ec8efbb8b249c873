"""Atomic writes: a file is either the old one or the whole new one, whatever fails or is killed in between."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def sibling(path: Path) -> Path:
    """A hidden name beside `path` that nothing else uses: `os.replace` is atomic within one folder only."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` once the block ends without an exception.

    Args:
        path: File to write; missing parent folders are made.
        mode: `w` for text (always UTF-8, `\\n`) or `wb` for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = sibling(path)
    binary = "b" in mode
    try:
        with partial.open(mode, encoding=None if binary else "utf-8", newline=None if binary else "\n") as file:
            yield file
        os.replace(partial, path)  # noqa: PTH105  (the name says what it is for)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A path to make a file or a folder at, which takes the place of `target` once the block ends without an exception.

    A folder cannot take the place of another in one step; a kill in between leaves none.

    Args:
        target: What to make; missing parent folders are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, old = sibling(target), sibling(target)
    try:
        yield partial
        if target.is_dir() or (target.exists() and partial.is_dir()):
            target.replace(old)
        partial.replace(target)
    finally:
        remove(partial)
        remove(old)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
