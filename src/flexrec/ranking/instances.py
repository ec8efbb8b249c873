"""Ranking instances as objects: what a prompt may show of one request, and nothing of its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import SIGNALS

CANDIDATE_SIGNALS = tuple(name for name in SIGNALS if name != "engagement")
"""The signals that a candidate may show: all but its own engagement, which is the label."""
SHOWABLE = (*CANDIDATE_SIGNALS, Columns.PREDICTED)
"""What a prompt may show: those, and what a critic predicts the engagement gain to be."""

_TABLE = "labelled_instances"


@dataclass(frozen=True)
class Candidate:
    """An item that may be recommended; never carries its engagement."""

    item_id: int
    title: str
    topics: tuple[str, ...]
    signals: Mapping[str, float] = field(hash=False)
    """`similarity`, `niche` (0 or 1), `trend` (count), `popularity` (count), `quality` (engagement scale), `recency`
    (0 to 1); `predicted` (gain) where the table has the critic's prediction."""


@dataclass(frozen=True)
class HistoryItem:
    """An item that the user engaged with before the query time."""

    item_id: int
    title: str
    topics: tuple[str, ...]
    engagement: float


@dataclass(frozen=True)
class Instance:
    """One ranking request: a user at a time, with a history and K candidates."""

    instance_id: int
    user_id: int
    query_time: int
    """Epoch seconds; everything shown is older."""
    history: tuple[HistoryItem, ...]
    """Oldest first, the most recent last; may be empty."""
    candidates: tuple[Candidate, ...]
    """In the order of the prompt."""
    query: str = ""
    """What the user asks for in words; empty where the context is the history."""


def read_instances(labelled_instances: pd.DataFrame, items: pd.DataFrame) -> list[Instance]:
    """Join the instances with what is known of their items.

    Args:
        labelled_instances: The table of that name, or `prompt_instances`; columns with labels are not read.
        items: The `items` table; it must hold every item of a history or a candidate list.

    Returns:
        One instance per row, in the order of the table.

    Raises:
        InputError: If a column is absent, an id is unknown or repeated, lists of one row differ in length, there is no
            candidate, or a number is not finite. The message names the table, the row's key, and the column.
    """
    _require_columns(
        labelled_instances,
        _TABLE,
        (
            Columns.INSTANCE_ID,
            Columns.USER_ID,
            Columns.QUERY_TIME,
            Columns.HISTORY_ITEMS,
            Columns.HISTORY_ENGAGEMENTS,
            Columns.CANDIDATES,
            Columns.QUERY,
            *CANDIDATE_SIGNALS,
        ),
    )
    names = [name for name in SHOWABLE if name in labelled_instances.columns]
    known = _known_items(items)
    ids = labelled_instances[Columns.INSTANCE_ID].tolist()
    _refuse_repeated(ids, f"table {_TABLE}, column {Columns.INSTANCE_ID}")
    columns = {name: labelled_instances[name].tolist() for name in labelled_instances.columns}
    instances = []
    for row, instance_id in enumerate(ids):
        place = f"table {_TABLE}, {Columns.INSTANCE_ID} {instance_id}"
        history_ids = _item_ids(columns[Columns.HISTORY_ITEMS][row], place, Columns.HISTORY_ITEMS, known)
        candidate_ids = _item_ids(columns[Columns.CANDIDATES][row], place, Columns.CANDIDATES, known)
        if not candidate_ids:
            raise InputError(f"{place}, column {Columns.CANDIDATES}: there is no candidate to rank")
        _refuse_repeated(candidate_ids, f"{place}, column {Columns.CANDIDATES}")
        engagements = _numbers(
            columns[Columns.HISTORY_ENGAGEMENTS][row], len(history_ids), place, Columns.HISTORY_ENGAGEMENTS
        )
        signals = [_numbers(columns[name][row], len(candidate_ids), place, name) for name in names]
        instances.append(
            Instance(
                instance_id=int(instance_id),
                user_id=int(columns[Columns.USER_ID][row]),
                query_time=int(columns[Columns.QUERY_TIME][row]),
                history=tuple(
                    HistoryItem(item, *known[item], engagement)
                    for item, engagement in zip(history_ids, engagements, strict=True)
                ),
                candidates=tuple(
                    Candidate(item, *known[item], dict(zip(names, values, strict=True)))
                    for item, *values in zip(candidate_ids, *signals, strict=True)
                ),
                query=_query(columns[Columns.QUERY][row], place),
            )
        )
    return instances


def _require_columns(table: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise InputError(f"table {name}: column {', '.join(absent)} is missing; make the table again")


def _refuse_repeated(values: Sequence[int], place: str) -> None:
    if len(set(values)) < len(values):
        seen: set[int] = set()
        repeated = next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise InputError(f"{place}: {repeated} occurs more than once; every id may stand there only once")


def _known_items(items: pd.DataFrame) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Title and topics by item id."""
    _require_columns(items, "items", (Columns.ITEM_ID, Columns.TITLE, Columns.TOPICS))
    ids = items[Columns.ITEM_ID].tolist()
    _refuse_repeated(ids, f"table items, column {Columns.ITEM_ID}")
    known = {}
    for item_id, title, topics in zip(ids, items[Columns.TITLE], items[Columns.TOPICS], strict=True):
        place = f"table items, {Columns.ITEM_ID} {item_id}"
        if not isinstance(title, str):
            raise InputError(f"{place}, column {Columns.TITLE}: a text is needed, found {title!r}")
        if not isinstance(topics, list | tuple | np.ndarray):
            raise InputError(
                f"{place}, column {Columns.TOPICS}: a list is needed (empty where there is none), found {topics!r}"
            )
        known[int(item_id)] = (title, tuple(str(topic) for topic in topics))
    return known


def _item_ids(
    cell: Sequence[int], place: str, column: str, known: Mapping[int, tuple[str, tuple[str, ...]]]
) -> list[int]:
    array = np.asarray(cell)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{place}, column {column}: a list of integer item ids is needed, found {cell!r}")
    ids: list[int] = array.tolist()
    unknown = [item for item in ids if item not in known]
    if unknown:
        raise InputError(
            f"{place}, column {column}: item {unknown[0]} is not in the table items "
            f"({len(unknown)} of {len(ids)} are not); make both tables from the same source"
        )
    return ids


def _query(cell: object, place: str) -> str:
    if not isinstance(cell, str):
        raise InputError(
            f"{place}, column {Columns.QUERY}: a text is needed, empty where there is none; found {cell!r}"
        )
    return cell


def _numbers(cell: Sequence[float], length: int, place: str, column: str) -> list[float]:
    array = np.asarray(cell)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise InputError(f"{place}, column {column}: a list of numbers is needed, found {cell!r}")
    if len(array) != length:
        raise InputError(f"{place}, column {column}: {length} numbers are needed, one per item; found {len(array)}")
    if not np.isfinite(array.astype(np.float64)).all():
        raise InputError(f"{place}, column {column}: every number must be finite")
    values: list[float] = array.astype(np.float64).tolist()
    return values
