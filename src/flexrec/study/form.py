"""The form that every table of a study has."""

from dataclasses import dataclass

import pandas as pd

from flexrec.reporting.tables import Cell

Group = tuple[str, float, str, str, str]
"""Dataset, density, model, need and sample of instances."""


@dataclass(frozen=True)
class StudyTable:
    """One table.

    Attributes:
        name: Of its kind, a key of `study_options.tables`.
        title: What it compares.
        group: Dataset, density, model, need and sample of instances.
        headings: One per column.
        rows: Cells as they are printed; those of the paper come last.
        numbers: The same rows as numbers, unrounded; the column `source` is `measured` or `paper`.
        cross: The primary metric in two ways, headings first; empty where the kind has none.
        by_seed: The primary metric of every row by seed, headings first; empty where there is one seed.
        sentences: What it shows, in words.
        notes: How to read it, and what is not in it.
    """

    name: str
    title: str
    group: Group
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: pd.DataFrame
    cross: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    by_seed: tuple[tuple[str, ...], ...] = ()

    @property
    def heading(self) -> str:
        """Its name for people."""
        return f"Table {self.name}: {self.title}"

    @property
    def subject(self) -> str:
        """What was measured."""
        dataset, density, model, need, _ = self.group
        return f"{need} on {dataset}, {density:g} of the labels observed, {model}"

    @property
    def file_name(self) -> str:
        """A name for files; tables of one study have different ones."""
        dataset, density, model, need, _ = self.group
        return f"table-{self.name}-{dataset}-{need}-density-{density:g}-{model}".replace(",", "+")
