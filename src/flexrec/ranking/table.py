"""What all tables have in common: how they are checked, and how a broken rule is told."""

from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrorReason

from flexrec.errors import InputError

if TYPE_CHECKING:
    import ibis


class Table(pa.DataFrameModel):
    """Base of the models: what all tables have in common."""

    _key: ClassVar[tuple[str, ...]] = ()
    """Columns that name a row in a message."""

    class Config:
        """Pandera's settings."""

        strict = True

    @classmethod
    def validate(
        cls,
        check_obj: pd.DataFrame,
        head: int | None = None,
        tail: int | None = None,
        sample: int | None = None,
        random_state: int | None = None,
        lazy: bool = False,
        inplace: bool = False,
    ) -> Any:
        """Check a table; the arguments are pandera's.

        Args:
            check_obj: The table; it is not modified.
            head: Check only the first rows, `tail` the last, `sample` a random sample seeded by `random_state`.
            tail: See `head`.
            sample: See `head`.
            random_state: See `head`.
            lazy: No effect: the first broken rule is reported, since later rules take earlier ones for granted.
            inplace: No effect.

        Returns:
            The table with harmless conversions made and rows numbered from 0.

        Raises:
            InputError: If the table breaks a rule.
        """
        if not isinstance(check_obj, pd.DataFrame):
            raise InputError(f"table {cls.table_name()}: a pandas DataFrame is needed, not {type(check_obj).__name__}")
        if not check_obj.columns.is_unique:
            raise InputError(f"table {cls.table_name()}: a column occurs twice in {list(check_obj.columns)}")
        columns = cls.to_schema().columns
        frame = check_obj.reset_index(drop=True)
        for name in [*columns, *frame.columns]:
            if name not in frame.columns or name not in columns:
                fault = "missing" if name in columns else "not expected"
                raise InputError(
                    cls._place(frame, str(name), None) + f"the column is {fault}; the columns are {', '.join(columns)}"
                )
        for name, column in columns.items():
            frame[name] = cls._converted(frame, name, _dtype_name(column.dtype))
        try:
            return super().validate(frame, head, tail, sample, random_state)
        except SchemaError as error:
            raise InputError(cls._explained(error, frame)) from error

    @classmethod
    def validate_types(cls, table: "ibis.Table") -> "ibis.Table":
        """Check the columns and types of an engine's table; no value is read.

        Returns:
            The table with its columns in the model's order and types.

        Raises:
            InputError: A column is missing, not expected, or of a type that would have to change values.
        """
        columns = cls.to_schema().columns
        for name in [*columns, *table.columns]:
            if name not in table.columns or name not in columns:
                fault = "missing" if name in columns else "not expected"
                raise InputError(
                    f"table {cls.table_name()}, column {name}: the column is {fault}; "
                    f"the columns are {', '.join(columns)}"
                )
        wanted = {name: _dtype_name(column.dtype) for name, column in columns.items()}
        for name, dtype in wanted.items():
            found = table[name].type()
            fits = {"int64": found.is_integer, "float64": found.is_numeric, "bool": found.is_boolean}
            if not fits.get(dtype, found.is_string)():
                raise InputError(f"table {cls.table_name()}, column {name}: {dtype} is needed, the type is {found}")
        # a type that is right already is not cast
        return table.select(
            [
                table[name]
                if dtype in ("bool", "str") or str(table[name].type()) == dtype
                else table[name].cast(dtype).name(name)
                for name, dtype in wanted.items()
            ]
        )

    @classmethod
    def table_name(cls) -> str:
        """Name of the table in messages, as in the catalog."""
        return str(cls.to_schema().name)

    @classmethod
    def _converted(cls, frame: pd.DataFrame, name: str, dtype: str) -> pd.Series:
        """The column in the type of the model, or an error that names the first value that does not fit."""
        column = frame[name]
        if str(column.dtype) == dtype:
            return column
        if dtype == "object":
            if len(column) > 0:
                raise InputError(cls._place(frame, name, None) + f"lists are needed, found the type {column.dtype}")
            return column.astype(object)
        if column.isna().any() and dtype in ("int64", "bool"):
            row = int(np.flatnonzero(column.isna())[0])
            raise InputError(cls._place(frame, name, row) + "a value is missing")
        if dtype == "str":
            fits = column.map(lambda value: isinstance(value, str)).astype(bool) | column.isna()
        elif dtype == "bool":
            fits = column.map(lambda value: isinstance(value, bool | np.bool_)).astype(bool)
        elif pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            number = float if dtype == "float64" else int
            fits = column.map(lambda value: _is_number(value, number)).astype(bool)
        elif dtype == "int64":
            # beyond 2^53 a float no longer tells neighbouring integers apart
            limit = 2**53 if pd.api.types.is_float_dtype(column) else 2**63 - 1
            fits = (column % 1 == 0) & (column <= limit) & (column >= -limit)
        else:
            return column.astype(cast(Any, dtype))
        if not fits.all():
            row = int(np.flatnonzero(~fits.to_numpy(dtype=bool))[0])
            raise InputError(cls._place(frame, name, row) + f"{dtype} is needed, found {short(column.iloc[row])}")
        return column.astype(cast(Any, dtype))

    @classmethod
    def _place(cls, frame: pd.DataFrame, column: str | None, row: int | None) -> str:
        """`table t, column c, row r (key value): `, as far as known."""
        parts = [f"table {cls.table_name()}"]
        if column is not None:
            parts.append(f"column {column}")
        if row is not None:
            keys = [f"{key} {frame[key].iloc[row]}" for key in cls._key]
            parts.append(f"row {row}" + (f" ({', '.join(keys)})" if keys else ""))
        return ", ".join(parts) + ": "

    @classmethod
    def _explained(cls, error: SchemaError, frame: pd.DataFrame) -> str:
        """One sentence for a broken rule."""
        reason = error.reason_code
        column = str(error.schema.name) if isinstance(error.schema, pa.Column) else None
        rule = str(getattr(error.check, "error", None) or error.check)
        if reason == SchemaErrorReason.SERIES_CONTAINS_NULLS:
            rule = "a value is missing"
        elif reason in (SchemaErrorReason.SERIES_CONTAINS_DUPLICATES, SchemaErrorReason.DUPLICATES):
            what = column or ", ".join(cls.to_schema().unique or ())
            rule = f"{what} must be unique, this value occurs more than once"
        cases = error.failure_cases
        # a rule that itself fails names no row
        if not isinstance(cases, pd.DataFrame) or "index" not in cases or cases["index"].isna().any():
            return cls._place(frame, column, None) + rule
        rows = sorted({int(row) for row in cases["index"]})
        found = f"; found {short(frame[column].iloc[rows[0]])}" if column is not None else ""
        more = f" ({len(rows)} rows break this rule)" if len(rows) > 1 else ""
        return cls._place(frame, column, rows[0]) + rule + found + more


def _dtype_name(dtype: Any) -> str:
    """pandas' name of a model's type; `str` whatever stores the text."""
    name = str(dtype)
    return "str" if name.startswith("str") else name


def _is_number(value: object, number: type[int] | type[float]) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | np.integer) or (number is float and isinstance(value, float | np.floating))


def short(value: object) -> str:
    """A value in a message, at most 80 characters of it."""
    text = repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
    return text if len(text) <= 80 else text[:77] + "..."
