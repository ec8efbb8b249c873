"""The datasets: raw files in, the two common tables out. A new dataset is one module and one line of `SOURCES`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flexrec.sources.fabricated import Fabricated
from flexrec.sources.movielens import MovieLens1M, MovieLens100K

if TYPE_CHECKING:
    import pandas as pd


class Source(Protocol):
    """A dataset that can be fetched and read."""

    def fetch(self, raw_folder: Path) -> Path:
        """Bring the raw file into `raw_folder` unless it is there, verify it, and return its path."""

    def read(self, raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Parse the raw file into the common tables (interactions, items)."""


SOURCES: Mapping[str, Source] = {
    "ml-100k": MovieLens100K(),
    "ml-1m": MovieLens1M(),
    "fabricated": Fabricated(),
}
