"""Seeds of a study that were made elsewhere: on another machine, or on another day.

A part is what a study wrote, `data/08_reporting/study/<name>`: its tables hold every instance, so that seeds of several
parts become one study. A seed is made in one place as a whole, for its rows are compared with each other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.study.collection import (
    CELL_COLUMNS,
    CRITIC_SEED,
    CURVE_COLUMNS,
    INPUT_ORDER_COLUMNS,
    INSTANCE_COLUMNS,
    SWITCHING_COLUMNS,
    CellResult,
    Collected,
)

FILES = {field.name: f"{field.name}.parquet" for field in fields(Collected)}
"""Table -> its file in the folder of a study."""

_COLUMNS: Mapping[str, Sequence[str]] = {
    "cells": CELL_COLUMNS,
    "instances": INSTANCE_COLUMNS,
    "curves": CURVE_COLUMNS,
    "critic_predictions": ("variant", "mean", "gain"),
    "critic_reliability": ("variant", "predicted_std", "rmse"),
    "switching": SWITCHING_COLUMNS,
    "input_order": INPUT_ORDER_COLUMNS,
}
_SAME = ["dataset", "density", "model", Columns.NEED, Columns.METHOD]
"""What tells the cells of one seed apart."""


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        folder: Where it lies.
        name: The folder's, for messages and pages; with that of the one above it where another part has the same.
        tables: What it holds of the seeds that are taken from it.
    """

    folder: Path
    name: str
    tables: Collected

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of which it holds at least one cell that is done."""
        cells = self.tables.cells
        return tuple(sorted({int(seed) for seed in cells.loc[cells["state"] == "done", "seed"]}))


def read_parts(places: Iterable[Path]) -> list[Part]:
    """The parts at or right below each of the places, in the order of their names.

    Raises:
        InputError: There is none at a place, a file is missing or is not a study's, or two hold the same seed.
    """
    parts: list[Part] = []
    for place in places:
        folders = [place, *sorted(place.iterdir())] if place.is_dir() else []
        found = [_read(folder) for folder in folders if (folder / FILES["cells"]).is_file()]
        if not found:
            raise InputError(
                f"study_options.parts: {place} holds no part of a study; name the folder that a study wrote, "
                "data/08_reporting/study/<name>, or one in which such folders are"
            )
        parts += found
    # what a study wrote bears the name of the study, wherever it was run
    names = Counter(part.name for part in parts)
    parts = [
        replace(part, name=f"{part.folder.parent.name}/{part.name}") if names[part.name] > 1 else part for part in parts
    ]
    owners: dict[int, str] = {}
    for part in parts:
        for seed in part.seeds:
            if seed in owners:
                raise InputError(f"study_options.parts: seed {seed} is in {owners[seed]} and in {part.name}; keep one")
            owners[seed] = part.name
    return parts


def _read(folder: Path) -> Part:
    tables = {}
    for name, file in FILES.items():
        path = folder / file
        try:
            tables[name] = pd.read_parquet(path)
        except FileNotFoundError:
            raise InputError(f"{path} is missing: a part of a study has {', '.join(FILES.values())}") from None
        except (ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path} is not a table that a study wrote: {error}") from error
        if missing := [column for column in _COLUMNS[name] if column not in tables[name]]:
            raise InputError(f"{path} has no column {missing[0]}: it was written by another version of flexrec")
    return Part(folder.resolve(), folder.resolve().name, Collected(**tables))


def taken(part: Part, expected: Sequence[CellResult]) -> tuple[list[CellResult], Part]:
    """What a part has of a study's cells.

    Args:
        part: A part.
        expected: The cells of its seeds as this project would run them, not run.

    Returns:
        Those that the part lacks; and the part without the runs that have failed there.

    Raises:
        InputError: It holds a cell that the study does not have, or one that was made with other parameters.
    """
    done = part.tables.cells[part.tables.cells["state"] == "done"]
    known = {_key(result): result for result in expected}
    for row in done.to_dict("records"):
        key = tuple(row[name] for name in (*_SAME, "seed"))
        words = " ".join(str(value) for value in key)
        if key not in known:
            raise InputError(f"study_options.parts: {part.name} holds {words}, which is not in this study")
        if row["parameters"] != known[key].parameters:
            raise InputError(
                f"study_options.parts: {words} in {part.name} was made with other parameters than this study's "
                f"(at commit {row['commit'] or 'unknown'}); make it again, or leave the part out"
            )
    held = {tuple(row) for row in done[[*_SAME, "seed"]].itertuples(index=False)}
    lacking = [
        replace(result, reason=f"{part.name} does not hold it") for key, result in known.items() if key not in held
    ]
    return lacking, replace(part, tables=replace(part.tables, cells=done.assign(part=part.name)))


def _key(result: CellResult) -> tuple[object, ...]:
    cell = result.cell
    return result.dataset, result.density, result.model, cell.need, cell.method, cell.seed


def joined(found: Collected, parts: Sequence[Part]) -> Collected:
    """One study of what was collected here and of parts, by seed."""
    if not parts:
        return found
    every = [one for one in (found, *(part.tables for part in parts)) if len(one.cells)]
    every.sort(key=lambda one: int(one.cells["seed"].min()))
    tables = {}
    for name in FILES:
        pieces = [table for table in (getattr(one, name) for one in every) if len(table)]
        if name.startswith("critic_"):
            pieces = _first_critics(pieces)
        table = pd.concat(pieces, ignore_index=True) if pieces else getattr(found, name)
        tables[name] = table.sort_values("seed", kind="stable", ignore_index=True) if "seed" in table else table
    return Collected(**tables)


def _first_critics(pieces: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Of every dataset and density one critic is shown, that of the first seed."""
    kept: list[pd.DataFrame] = []
    taken: set[str] = set()
    for piece in pieces:
        shown = piece["variant"].str.rpartition(CRITIC_SEED)[0]
        new = piece[~shown.isin(taken)]
        taken |= set(shown)
        if len(new):
            kept.append(new)
    return kept
