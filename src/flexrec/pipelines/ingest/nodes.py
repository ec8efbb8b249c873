"""Ingestion."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from flexrec.sources import source_of
from flexrec.sources.tables import daily_counts_table, queries_table
from flexrec.tabular import Engine, connect

logger = logging.getLogger(__name__)


def read_source(
    source: str, source_options: dict[str, Any], raw_folder: str, engine: Engine
) -> tuple[Any, pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Fetch the raw files of a dataset unless they are there, and read them into the common tables."""
    chosen = source_of(source, source_options)
    tables = chosen.read(chosen.fetch(Path(raw_folder)), connect(engine))
    for rule, rows in tables.dropped.items():
        if rows:
            logger.info("%s: %s", rule, f"{rows:,}")
    return (
        tables.interactions,
        tables.items,
        queries_table(tables.queries),
        daily_counts_table(tables.daily_counts),
        {"dropped": dict(tables.dropped)},
    )
