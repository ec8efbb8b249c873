"""The tables of a study: which there are, and what stands in each."""

from collections.abc import Collection, Sequence

import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.reporting.style import label, metric_label, number
from flexrec.study.collection import BASELINE, OTHER, TRAINED, UNTRAINED, WARMED_UP
from flexrec.study.form import Group, StudyTable
from flexrec.study.paper import PaperRow, paper_rows
from flexrec.study.probing import input_order_tables, switching_tables
from flexrec.study.rows import (
    SIDE,
    cross_table,
    measured_rows,
    of_most_seeds,
    paper_numbers,
    printed_paper_row,
    printed_row,
    says_nothing_new,
    seed_table,
)
from flexrec.study.settings import StudyOptions, StudySettings, TableSettings, regime_of
from flexrec.study.statistics import GROUP, Resampling, where
from flexrec.study.words import notes_of, sentences


def study_tables(
    cells: pd.DataFrame,
    instances: pd.DataFrame,
    means: pd.DataFrame,
    comparisons: pd.DataFrame,
    settings: StudySettings,
    options: StudyOptions,
    how: Resampling,
    *,
    switching: pd.DataFrame | None = None,
    input_order: pd.DataFrame | None = None,
    own_warm_up: Collection[str] = (),
) -> list[StudyTable]:
    """Lay a study out as its tables.

    A kind of table is made for every dataset, density, model and need that it applies to, and of which the study plans
    at least two of its rows (or one, where it takes all).

    Args:
        cells: Table `study_cells`.
        instances: Table `study_instances`.
        means: Table of `row_means`.
        comparisons: Table of `comparisons`.
        settings: Of the study.
        options: Of all studies.
        how: Resampling, for the best row with an LLM against the best without.
        switching: Table `study_switching`; None where nothing was probed.
        input_order: Table `study_input_order`; None where nothing was probed.
        own_warm_up: Methods whose training begins with a warm-up of its own (`flexrec.study.collection`).
    """
    groups = _groups(cells, means)
    if settings.tables is None:
        # a need that no kind of table is about has one of its own
        about = {need for kind in options.tables.values() for need in kind.needs}
        others = dict.fromkeys(group[3] for group in groups if group[4] == "test" and group[3] not in about)
        kinds = {**options.tables, **{need: TableSettings(title="every row", needs=(need,)) for need in others}}
    else:
        kinds = {name: options.tables[name] for name in settings.tables}
    tables = []
    for name, kind in kinds.items():
        methods = tuple(kind.rows or dict.fromkeys(cells[Columns.METHOD]))
        if kind.sample == "switching" and switching is not None:
            tables += switching_tables(name, kind, switching, methods, how)
        if kind.sample == "input_order" and input_order is not None:
            tables += input_order_tables(name, kind, input_order, methods, how)
        for group in groups:
            dataset, density, _, need, sample = group
            if sample != kind.sample:
                continue
            if (kind.needs and need not in kind.needs) or kind.regime not in (None, regime_of(density)):
                continue
            planned = _planned(cells, group)
            wanted = kind.rows or tuple(dict.fromkeys(planned[Columns.METHOD]))
            if len(set(wanted) & set(planned[Columns.METHOD])) < (2 if kind.rows else 1):
                continue
            own = dict(zip(GROUP, group, strict=True))
            part = where(means, own)
            part = part[_in_table(part, kind, planned)]
            paper = paper_rows(name, dataset, need, regime_of(density))
            tables.append(
                _table(
                    name, kind, group, wanted, planned, part, where(comparisons, own), where(instances, own),
                    paper, settings, options, how, own_warm_up,
                )
            )  # fmt: skip
    return tables


def _groups(cells: pd.DataFrame, means: pd.DataFrame) -> list[Group]:
    """What was measured, and what was planned and nothing measured of."""
    measured = list(means[GROUP].drop_duplicates().itertuples(index=False, name=None)) if len(means) else []
    planned = [
        (row["dataset"], row["density"], row["model"], need, "test")
        for _, row in cells.iterrows()
        for need in _needs(row[Columns.NEED])
        if need != "all"
    ]
    return list(dict.fromkeys([*measured, *planned]))


def _needs(selection: str) -> list[str]:
    """The names in a selection such as `a+b` or `a, b`."""
    return [name.strip() for name in selection.replace("+", ",").split(",")]


def _planned(cells: pd.DataFrame, group: Group) -> pd.DataFrame:
    """The cells that measure a need on a sample of instances."""
    dataset, density, model, need, sample = group
    same = cells[(cells["dataset"] == dataset) & (cells["density"] == density) & (cells["model"] == model)]
    if sample == "probe":
        return same[same["also"].map(lambda text: sample in text.split(", ")).astype(bool)]
    asked = same[Columns.NEED].map(lambda text: need in _needs(text) or text == "all")
    return same[asked.astype(bool)]


def _in_table(part: pd.DataFrame, kind: TableSettings, planned: pd.DataFrame) -> pd.Series:
    if not kind.rows:
        return pd.Series(True, index=part.index)
    trained = (part["kind"] == TRAINED) & part[Columns.METHOD].isin(kind.rows)
    gains = planned.loc[planned[Columns.METHOD].isin(kind.rows), "gains"]
    starts = {WARMED_UP, *(f"{WARMED_UP}_{name}" for name in gains)}
    return trained | part["kind"].isin([BASELINE, OTHER, UNTRAINED]) | part[Columns.METHOD].isin(starts)


def _table(
    name: str,
    kind: TableSettings,
    group: Group,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    instances: pd.DataFrame,
    paper: Sequence[PaperRow],
    settings: StudySettings,
    options: StudyOptions,
    how: Resampling,
    own_warm_up: Collection[str],
) -> StudyTable:
    need = group[3]
    references = [reference for reference in settings.references if reference in set(compared["reference"])]
    numbers = measured_rows(need, wanted, planned, means, compared, references, options.metrics)
    shown = [metric for metric in options.metrics if not says_nothing_new(numbers, metric)]
    best = {metric: number(float(of_most_seeds(numbers)[metric].max())) if len(numbers) else "" for metric in shown}
    rows = [printed_row(row, shown, best, references, options.primary) for _, row in numbers.iterrows()]
    headings = (
        "method",
        *(metric_label(metric) for metric in shown),
        *(
            heading
            for reference in references
            for heading in (f"difference to {label(reference)}", f"p vs {label(reference)}")
        ),
        "seeds",
        "spread",
        *SIDE.values(),
        "training s",
        "tokens",
    )
    rows += [printed_paper_row(row, shown, len(headings)) for row in paper]
    told = pd.DataFrame([paper_numbers(row, options.metrics) for row in paper])
    return StudyTable(
        name=name,
        title=kind.title,
        group=group,
        headings=headings,
        rows=tuple(rows),
        numbers=pd.concat([numbers, told], ignore_index=True) if len(told) else numbers,
        cross=cross_table(kind.cross, numbers, need, options.primary),
        by_seed=seed_table(numbers, instances, options.primary) if len(numbers) else (),
        sentences=tuple(sentences(instances, means, need, options, how)) if kind.sample == "test" else (),
        notes=tuple(notes_of(need, wanted, planned, numbers, references, bool(paper), options, own_warm_up)),
    )
