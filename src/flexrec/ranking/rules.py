"""Rules that the tables' columns keep; attributes of a pandera model."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa

ListKind = Literal["ids", "finite", "non-negative", "flags", "finite or NaN", "texts"]

_LIST_RULES: dict[str, str] = {
    "ids": "a list of integer ids is needed",
    "finite": "a list of finite numbers is needed",
    "non-negative": "a list of finite numbers, none negative, is needed",
    "flags": "a list of 0 and 1 is needed",
    "finite or NaN": "a list of numbers (NaN where unknown, never infinite) is needed",
    "texts": "a list of texts is needed",
}


def _is_list(cell: object, kind: ListKind) -> bool:
    """Whether a cell is a flat list of the kind."""
    if not isinstance(cell, list | tuple | np.ndarray):
        return False
    if kind == "texts":
        return all(isinstance(value, str) for value in cell)
    try:
        array = np.asarray(cell)
    except ValueError:  # lists of unequal length inside the list
        return False
    if array.ndim != 1:
        return False
    if array.size == 0:
        return True
    if kind == "ids":
        return array.dtype.kind in "iu"
    if array.dtype.kind not in "iuf":
        return False
    if kind == "finite or NaN":
        return not bool(np.isinf(array).any())
    if kind == "non-negative":
        return bool((np.isfinite(array) & (array >= 0)).all())
    if kind == "flags":
        return bool(((array == 0) | (array == 1)).all())
    return bool(np.isfinite(array).all())


def lists(kind: ListKind, *columns: str) -> Any:
    """Every cell is a flat list of a kind."""

    def rule(cls: type, cells: pd.Series) -> pd.Series:
        return each(lambda cell: _is_list(cell, kind), cells)

    return pa.check(*columns, name=kind, error=_LIST_RULES[kind])(rule)


def not_empty(*columns: str) -> Any:
    """No list is empty."""

    def rule(cls: type, cells: pd.Series) -> pd.Series:
        return each(lambda cell: len(cell) > 0, cells)

    return pa.check(*columns, name="not_empty", error="the list must not be empty")(rule)


def distinct(*columns: str) -> Any:
    """No list holds an id twice."""

    def rule(cls: type, cells: pd.Series) -> pd.Series:
        return each(lambda cell: len(set(np.asarray(cell).tolist())) == len(cell), cells)

    return pa.check(*columns, name="distinct", error="an id occurs more than once in the list")(rule)


def rows(error: str, holds: Callable[..., bool], *columns: str) -> Any:
    """A rule over several cells of one row."""

    def rule(cls: type, frame: pd.DataFrame) -> pd.Series:
        return each(holds, *(frame[column] for column in columns))

    return pa.dataframe_check(name="_".join(columns), error=error)(rule)


def same_length(*columns: str) -> Any:
    """The lists of one row have the same length."""
    return rows(
        f"{', '.join(columns)} must have the same length",
        lambda *cells: len({len(cell) for cell in cells}) == 1,
        *columns,
    )


def disjoint(first: str, second: str) -> Any:
    """The lists of one row share no item."""
    return rows(
        f"{first} and {second} must not share an item",
        lambda a, b: set(np.asarray(a).tolist()).isdisjoint(np.asarray(b).tolist()),
        first,
        second,
    )


def finite(*columns: str) -> Any:
    """Every number is finite."""

    def rule(cls: type, values: pd.Series) -> pd.Series:
        return pd.Series(np.isfinite(values.to_numpy()), index=values.index)

    return pa.check(*columns, name="finite", error="a finite number is needed")(rule)


def text(*columns: str) -> Any:
    """No text is blank."""

    def rule(cls: type, values: pd.Series) -> pd.Series:
        return (values.str.strip() != "").astype(bool)

    return pa.check(*columns, name="text", error="a text is needed, this one is blank")(rule)


def each(holds: Callable[..., bool], *columns: pd.Series) -> pd.Series:
    """Whether the cells of each row keep a rule."""
    held = [holds(*cells) for cells in zip(*columns, strict=True)]
    return pd.Series(held, index=columns[0].index, dtype=bool)
