"""Ingestion."""

from pathlib import Path

import pandas as pd

from flexrec.sources import SOURCES


def read_source(source: str, raw_folder: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fetch the raw files of a dataset unless they are there, and read them into `interactions` and `items`."""
    chosen = SOURCES[source]
    return chosen.read(chosen.fetch(Path(raw_folder)))
