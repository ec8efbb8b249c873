"""What a dataset's module has to offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flexrec.sources.tables import Tables

if TYPE_CHECKING:
    from ibis.backends import BaseBackend


class Source(Protocol):
    """A dataset that can be fetched and read."""

    def fetch(self, raw_folder: Path) -> Path:
        """Bring the raw file into `raw_folder` unless it is there, verify it, and return its path."""

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Parse the raw file into the common tables.

        A table that may be large is an expression of `connection`, made of what every engine computes alike; a small
        one may be a frame.
        """


@runtime_checkable
class Changeable(Protocol):
    """A source whose files have no digest known in advance; its settings have the field `sha256` for the one found."""

    def digest(self, raw_folder: Path) -> str:
        """SHA-256 over the files as they are, empty where one is not there."""
