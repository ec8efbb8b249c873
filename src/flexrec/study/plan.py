"""The cells of a study: which runs it is made of, in which order, and how long they may take."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flexrec.errors import InputError
from flexrec.evaluation.names import WARMED_UP
from flexrec.study.settings import OF_THE_GRID, Block, StudyOptions, StudySettings

DEFAULT_LAYOUT = "default"


@dataclass(frozen=True)
class Cell:
    """One run of the chain up to the evaluation.

    What is None is left to the environment.
    """

    need: str
    method: str
    seed: int
    dataset: str | None = None
    model: str | None = None
    layout: str | None = None
    density: float | None = None
    environment: str | None = None
    also: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """What it is run with, `key=value` each, as `--params` takes them."""
        own = {
            "dataset": self.dataset,
            "need": self.need,
            "method": self.method,
            "model": self.model,
            "layout": self.layout,
            "density": self.density,
            "seed": self.seed,
        }
        return (*(f"{name}={value}" for name, value in own.items() if value is not None), *self.overrides)

    @property
    def words(self) -> str:
        """Its name for people."""
        density = None if self.density is None else f"density {self.density:g}"
        layout = None if self.layout is None else f"layout {self.layout}"
        parts = (
            self.dataset, self.need, self.method, self.model, layout, density, f"seed {self.seed}", self.environment,
        )  # fmt: skip
        return " ".join(part for part in parts if part)

    @property
    def file_name(self) -> str:
        """A name for files; cells of one study have different ones."""
        return re.sub(r"[^\w.+-]+", "_", self.words)


def cells_of(
    name: str,
    study: StudySettings,
    *,
    given: Sequence[str] = (),
    datasets: Iterable[str],
    methods: Mapping[str, str],
    models: Iterable[str],
    layouts: Iterable[str] = (DEFAULT_LAYOUT,),
) -> list[Cell]:
    """The cells of a study, each once, so ordered that neighbours share as much as they can.

    By dataset (with density, model, layout and environment), seed, need and what stands for unobserved labels, each in
    the order in which the grid names it.

    Args:
        name: Of the study, for messages.
        study: Its settings.
        given: Parameters of the command line, `key=value` each; they come last, so they win.
        datasets: All that there are.
        methods: All that there are, with their `gains`.
        models: All that there are.
        layouts: All that there are.

    Raises:
        InputError: The grid names something that does not exist, or one run with two sets of overrides; or the command
            line names what is the grid's.
    """
    for text in given:
        if (key := text.partition("=")[0]) in OF_THE_GRID:
            raise InputError(
                f"study '{name}': its grid says which {key} its runs have, so {text} cannot be given for all of them. "
                "Change the grid, or make a study of your own (conf/base/parameters_study.yml); seeds of the grid are "
                "chosen by study_options.seeds"
            )
    datasets, models, layouts = list(datasets), list(models), list(layouts)
    for number, block in enumerate(study.grid, start=1):
        place = f"study '{name}', part {number} of its grid"
        _refuse_unknown(place, "method", block.methods, methods)
        _refuse_unknown(place, "dataset", [block.dataset] if block.dataset else [], datasets)
        _refuse_unknown(place, "model", [block.model] if block.model else [], models)
        _refuse_unknown(place, "layout", [block.layout] if block.layout else [], layouts)
    cells: dict[str, Cell] = {}
    for block in study.grid:
        for cell in _block_cells(block, (*study.overrides, *block.overrides, *given)):
            known = cells.setdefault(cell.file_name, cell)
            if known.also != cell.also:
                also = tuple(dict.fromkeys((*known.also, *cell.also)))
                known = cells[cell.file_name] = replace(known, also=also)
                cell = replace(cell, also=also)
            if known != cell:
                raise InputError(
                    f"study '{name}': {cell.words} is in its grid with two sets of overrides "
                    f"({', '.join(known.overrides) or 'none'}; {', '.join(cell.overrides) or 'none'}), but one run has "
                    "one place for its results; make two studies of it"
                )
    found = list(cells.values())
    ranks = [_Ranks() for _ in range(5)]
    keys = {
        cell: (
            ranks[0](cell.dataset, cell.density, cell.model, cell.layout, cell.environment),
            ranks[1](cell.seed),
            ranks[2](cell.need),
            ranks[3](methods[cell.method]),
            ranks[4](cell.method),
        )
        for cell in found
    }
    return sorted(found, key=keys.__getitem__)


class _Ranks:
    """Numbers values in the order in which they first come."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def __call__(self, *value: object) -> int:
        return self._known.setdefault(value, len(self._known))


def _block_cells(block: Block, overrides: tuple[str, ...]) -> Iterable[Cell]:
    for seed in block.seeds:
        for need in block.needs:
            for method in block.methods:
                yield Cell(
                    need, method, seed, block.dataset, block.model, block.layout, block.density, block.environment,
                    block.also, overrides,
                )  # fmt: skip


def refuse_unknown_rows(
    name: str, study: StudySettings, options: StudyOptions, methods: Iterable[str], others: Iterable[str]
) -> None:
    """Refuse a reference, or a row of a kind of table, that no run can have: it would be left out without a word.

    Args:
        name: Of the study, for messages.
        study: Its settings.
        options: Of all studies.
        methods: All that there are.
        others: Rows that are not trained.

    Raises:
        InputError: Names it, and the allowed ones.
    """
    trained = list(methods)
    # warmed-up models of other gains, and endpoints, are named after what was run
    own = [name for name in study.references if not name.startswith((WARMED_UP, "chat_"))]
    _refuse_unknown(f"study '{name}'", "reference", own, [*trained, *others, WARMED_UP])
    for table, kind in options.tables.items():
        crossed = kind.cross.rows.values() if kind.cross else ()
        rows = (*kind.rows, *(method for line in crossed for method in line))
        _refuse_unknown(f"study_options.tables.{table}", "method", rows, trained)


def _refuse_unknown(place: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    allowed = list(known)
    for name in names:
        if name not in allowed:
            raise InputError(f"{place}: unknown {kind} '{name}'. Allowed: {', '.join(allowed)}.")
