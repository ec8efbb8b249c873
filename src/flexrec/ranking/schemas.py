"""Pandera models of the project's tables, for the catalog's `validator:` on save and on load.

Strict: no column may be absent or extra. Harmless conversions are made (integer widths, float32, whole floats as
integers, text in object or categorical columns, row labels); anything that would change a value is refused. A list
cell may be a Python list or tuple (before saving) or a numpy array (read back from Parquet). A refusal is one
`InputError` that names table, column, row, key and rule.

The two tables that may be too large for memory are checked by the engine that holds them: columns and types always
(`validate_types`), values by one query when the table is written (`validate_values`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrorReason

from flexrec.errors import InputError
from flexrec.ranking.columns import SPLITS

if TYPE_CHECKING:
    import ibis

UNIT_NORM_TOLERANCE = 1e-3  # room for encoders that normalise in half precision
ORDER_TOLERANCE = 1e-6  # room for scores recomputed in float32

ListKind = Literal["ids", "finite", "non-negative", "flags", "finite or NaN", "texts"]


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
            raise InputError(cls._place(frame, name, row) + f"{dtype} is needed, found {_short(column.iloc[row])}")
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
        found = f"; found {_short(frame[column].iloc[rows[0]])}" if column is not None else ""
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


def _short(value: object) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- rules for columns of lists ----

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


def _lists(kind: ListKind, *columns: str) -> Any:
    def rule(cls: type[Table], cells: pd.Series) -> pd.Series:
        return _each(lambda cell: _is_list(cell, kind), cells)

    return pa.check(*columns, name=kind, error=_LIST_RULES[kind])(rule)


def _not_empty(*columns: str) -> Any:
    def rule(cls: type[Table], cells: pd.Series) -> pd.Series:
        return _each(lambda cell: len(cell) > 0, cells)

    return pa.check(*columns, name="not_empty", error="the list must not be empty")(rule)


def _distinct(*columns: str) -> Any:
    def rule(cls: type[Table], cells: pd.Series) -> pd.Series:
        return _each(lambda cell: len(set(np.asarray(cell).tolist())) == len(cell), cells)

    return pa.check(*columns, name="distinct", error="an id occurs more than once in the list")(rule)


def _rows(error: str, holds: Callable[..., bool], *columns: str) -> Any:
    """A rule over several cells of one row."""

    def rule(cls: type[Table], frame: pd.DataFrame) -> pd.Series:
        return _each(holds, *(frame[column] for column in columns))

    return pa.dataframe_check(name="_".join(columns), error=error)(rule)


def _same_length(*columns: str) -> Any:
    return _rows(
        f"{', '.join(columns)} must have the same length",
        lambda *cells: len({len(cell) for cell in cells}) == 1,
        *columns,
    )


def _disjoint(first: str, second: str) -> Any:
    return _rows(
        f"{first} and {second} must not share an item",
        lambda a, b: set(np.asarray(a).tolist()).isdisjoint(np.asarray(b).tolist()),
        first,
        second,
    )


def _finite(*columns: str) -> Any:
    def rule(cls: type[Table], values: pd.Series) -> pd.Series:
        return pd.Series(np.isfinite(values.to_numpy()), index=values.index)

    return pa.check(*columns, name="finite", error="a finite number is needed")(rule)


def _text(*columns: str) -> Any:
    def rule(cls: type[Table], values: pd.Series) -> pd.Series:
        return (values.str.strip() != "").astype(bool)

    return pa.check(*columns, name="text", error="a text is needed, this one is blank")(rule)


def _each(holds: Callable[..., bool], *columns: pd.Series) -> pd.Series:
    held = [holds(*cells) for cells in zip(*columns, strict=True)]
    return pd.Series(held, index=columns[0].index, dtype=bool)


# ---- tables ----


class Interactions(Table):
    """Every known event between a user and an item."""

    user_id: int
    item_id: int
    timestamp: int = pa.Field(ge=0, description="epoch seconds")
    engagement: float = pa.Field(description="rating, watch ratio, ...")
    event_id: int = pa.Field(unique=True, description="rank in (timestamp, file order)")

    _key = ("event_id",)
    _engagement = _finite("engagement")

    class Config:
        """Pandera's settings."""

        name = "interactions"

    @classmethod
    def validate_values(cls, table: "ibis.Table") -> None:
        """Check the values of an engine's table, all rules in one query.

        That `event_id` follows the time is not among them: it would take a sort, and the ids are made by one.

        Raises:
            InputError: Names the rule and the row with the lowest event_id that breaks it.
        """
        table = cls.validate_types(table)
        number = table["engagement"]
        rules = [(name, table[name].isnull(), "a value is missing") for name in table.columns]
        rules.append(("engagement", number.isnan() | number.isinf(), "a finite number is needed"))
        rules.append(("timestamp", table["timestamp"] < 0, "greater_than_or_equal_to(0)"))
        key = table["event_id"]
        counts = [table.count(where=broken).name(f"count_{place}") for place, (_, broken, _) in enumerate(rules)]
        firsts = [key.min(where=broken).name(f"first_{place}") for place, (_, broken, _) in enumerate(rules)]
        found = table.aggregate(counts + firsts).to_pandas().iloc[0]
        for place, (column, _, rule) in enumerate(rules):
            count, first = int(found[f"count_{place}"]), found[f"first_{place}"]
            if not count:
                continue
            where, value = "", ""
            if pd.notna(first):
                row = table.filter(key == int(first)).limit(1).to_pandas().iloc[0]
                where, value = f", event_id {int(first)}", f"; found {_short(row[column])}"
            more = f" ({count} rows break this rule)" if count > 1 else ""
            raise InputError(f"table {cls.table_name()}, column {column}{where}: {rule}{value}{more}")

    @classmethod
    def validate_numbers(cls, is_numbered: Callable[[str], bool]) -> None:
        """Refuse ids of events that are not 0, 1, 2, ..., each once.

        Args:
            is_numbered: Whether a column of the table is; how that is found depends on the engine.

        Raises:
            InputError: They are not.
        """
        if not is_numbered("event_id"):
            raise InputError(f"table {cls.table_name()}, column event_id: must be the rank of every row: 0, 1, 2, ...")

    @pa.dataframe_check(name="order", error="event_id must follow the timestamp (rank in time, then file order)")
    @classmethod
    def _in_order(cls, frame: pd.DataFrame) -> pd.Series:
        ordered = frame.sort_values("event_id")["timestamp"]
        return (ordered >= ordered.cummax()).reindex(frame.index)


class Items(Table):
    """What is known of every item."""

    item_id: int = pa.Field(unique=True)
    source_id: str = pa.Field(description="the maker's own id")
    title: str = pa.Field(description="short, shown in prompts")
    text: str = pa.Field(description="for the text encoder")
    topics: object = pa.Field(description="list of texts, may be empty")
    released: float = pa.Field(nullable=True, description="year, with a fraction where the day is known; NaN: unknown")

    _key = ("item_id",)
    _topics = _lists("texts", "topics")
    _title = _text("title")

    class Config:
        """Pandera's settings."""

        name = "items"

    @pa.check("released", name="released", error="a finite year is needed, or NaN where it is unknown")
    @classmethod
    def _finite_year(cls, values: pd.Series) -> pd.Series:
        return pd.Series(~np.isinf(values.to_numpy()), index=values.index)


class Queries(Table):
    """The texts of users that ask in words; empty where a dataset has none."""

    user_id: int = pa.Field(unique=True)
    query: str
    split: str = pa.Field(isin=SPLITS, nullable=True, description="missing: dealt by the seed")

    _key = ("user_id",)
    _query = _text("query")

    class Config:
        """Pandera's settings."""

        name = "queries"


class DailyCounts(Table):
    """The platform's own plays per item and day; empty where a dataset has none."""

    item_id: int
    timestamp: int = pa.Field(ge=0, description="epoch seconds of the day's begin, UTC")
    count: int = pa.Field(ge=0)

    _key = ("item_id", "timestamp")

    class Config:
        """Pandera's settings."""

        name = "daily_counts"
        unique: ClassVar[list[str]] = ["item_id", "timestamp"]


class Observations(Interactions):
    """The interactions, with what training may read and whom it may read."""

    observed: bool
    split: str = pa.Field(isin=SPLITS)

    class Config:
        """Pandera's settings."""

        name = "observations"

    @classmethod
    def validate_marks(cls, observed: "ibis.Table", splits: "ibis.Table") -> None:
        """Check what is added to the interactions: `observed` (event_id) and `splits` (user_id, split).

        Raises:
            InputError: An event or a user occurs twice, a split is unknown, or nothing is observed.
        """
        name, event, user = cls.table_name(), observed["event_id"], splits["user_id"]
        events = observed.aggregate(rows=event.count(), distinct=event.nunique()).to_pandas().iloc[0]
        if not 0 < events["rows"] == events["distinct"]:
            raise InputError(
                f"table {name}, column observed: {events['rows']} events, {events['distinct']} of them distinct"
            )
        wrong = splits["split"].isnull() | ~splits["split"].isin(SPLITS)
        users = splits.aggregate(rows=splits.count(), distinct=user.nunique(), wrong=splits.count(where=wrong))
        found = users.to_pandas().iloc[0]
        if found["wrong"]:
            first = splits.filter(wrong).order_by("user_id").limit(1).to_pandas().iloc[0]
            raise InputError(
                f"table {name}, column split, user_id {first['user_id']}: isin({list(SPLITS)}); "
                f"found {_short(first['split'])} ({found['wrong']} users)"
            )
        if found["rows"] != found["distinct"]:
            raise InputError(f"table {name}, column split: a user must be in one split only")

    @pa.dataframe_check(name="one_split", error="a user must be in one split only")
    @classmethod
    def _one_split(cls, frame: pd.DataFrame) -> pd.Series:
        return frame["split"] == frame.groupby("user_id")["split"].transform("first")


class _Embeddings(Table):
    """Unit vectors of texts."""

    embedding: object = pa.Field(description="float32, unit norm")

    _embedding = _lists("finite", "embedding")
    _some = _not_empty("embedding")

    @pa.check("embedding", name="size", error="every embedding must have the same number of dimensions")
    @classmethod
    def _one_size(cls, cells: pd.Series) -> pd.Series:
        return _each(lambda cell: len(cell) == len(cells.iloc[0]), cells)

    @pa.check("embedding", name="norm", error="an embedding must have norm 1")
    @classmethod
    def _unit_norm(cls, cells: pd.Series) -> pd.Series:
        return _each(
            lambda cell: bool(abs(np.linalg.norm(np.asarray(cell, dtype=np.float64)) - 1.0) <= UNIT_NORM_TOLERANCE),
            cells,
        )


class ItemEmbeddings(_Embeddings):
    """Text embeddings of the items."""

    item_id: int = pa.Field(unique=True)

    _key = ("item_id",)

    class Config:
        """Pandera's settings."""

        name = "item_embeddings"


class QueryEmbeddings(_Embeddings):
    """Text embeddings of the queries; empty where a dataset has none."""

    user_id: int = pa.Field(unique=True)

    _key = ("user_id",)

    class Config:
        """Pandera's settings."""

        name = "query_embeddings"


class _Requests(Table):
    """The columns that instances have before and after labelling."""

    instance_id: int = pa.Field(unique=True)
    user_id: int
    split: str = pa.Field(isin=SPLITS)
    query_time: int = pa.Field(ge=0, description="epoch seconds")
    history_items: object = pa.Field(description="oldest first, most recent last")
    history_engagements: object = pa.Field()
    candidates: object = pa.Field()
    query: str = pa.Field(description="what is asked in words; empty where the context is the history")

    _key = ("instance_id",)
    _ids = _lists("ids", "history_items", "candidates")
    _engagements = _lists("finite", "history_engagements")
    _some = _not_empty("candidates")
    _unique = _distinct("candidates")
    _history_length = _same_length("history_items", "history_engagements")
    _new = _disjoint("history_items", "candidates")


class Instances(_Requests):
    """Ranking requests with the retriever's candidates, best first."""

    similarities: object = pa.Field(description="the retriever's score, not increasing")

    _scores = _lists("finite", "similarities")
    _length = _same_length("candidates", "similarities")
    _best_first = _rows(
        "similarities must not increase (the retriever's order, best first)",
        lambda cell: bool((np.diff(np.asarray(cell, dtype=np.float64)) <= ORDER_TOLERANCE).all()),
        "similarities",
    )

    class Config:
        """Pandera's settings."""

        name = "instances"


class LabelledInstances(_Requests):
    """Ranking requests in the order of the prompt, with the candidates' signals and the observed labels of training."""

    similarity: object = pa.Field()
    niche: object = pa.Field(description="0 or 1")
    trend: object = pa.Field(description="count")
    popularity: object = pa.Field(description="count")
    quality: object = pa.Field(description="shrunken mean engagement")
    recency: object = pa.Field(description="1 / (1 + age in years), 0 where the year is unknown")
    observed_engagement: object = pa.Field(description="NaN where unobserved; all NaN outside training")

    _finite = _lists("finite", "similarity", "quality")
    _flags = _lists("flags", "niche")
    _counts = _lists("non-negative", "trend", "popularity", "recency")
    _labels = _lists("finite or NaN", "observed_engagement")
    _length = _same_length(
        "candidates",
        "similarity",
        "niche",
        "trend",
        "popularity",
        "quality",
        "recency",
        "observed_engagement",
    )
    _no_leak = _rows(
        "observed_engagement must be NaN for validation and test instances (labels would leak)",
        lambda split, cell: split == "train" or bool(np.isnan(np.asarray(cell, dtype=np.float64)).all()),
        "split",
        "observed_engagement",
    )

    class Config:
        """Pandera's settings."""

        name = "labelled_instances"


class TrueLabels(Table):
    """Engagement of every candidate of the held-out instances."""

    instance_id: int = pa.Field(unique=True)
    engagement: object = pa.Field(description="aligned with the candidates of labelled_instances")

    _key = ("instance_id",)
    _labels = _lists("finite", "engagement")
    _some = _not_empty("engagement")

    class Config:
        """Pandera's settings."""

        name = "true_labels"


class Gains(Table):
    """True gains of the held-out instances."""

    instance_id: int
    need: str
    gains: object = pa.Field(description="aligned with the candidates of labelled_instances")

    _key = ("instance_id", "need")
    _need = _text("need")
    _gains = _lists("non-negative", "gains")
    _some = _not_empty("gains")

    class Config:
        """Pandera's settings."""

        name = "gains"
        unique: ClassVar[list[str]] = ["instance_id", "need"]


class CriticPredictions(Table):
    """The critic's engagement gain of every candidate."""

    instance_id: int = pa.Field(unique=True)
    mean: object = pa.Field(description="engagement gain")
    variance: object = pa.Field(description="its squared unit")

    _key = ("instance_id",)
    _mean = _lists("finite", "mean")
    _variance = _lists("non-negative", "variance")
    _some = _not_empty("mean")
    _length = _same_length("mean", "variance")

    class Config:
        """Pandera's settings."""

        name = "critic_predictions"


class TrainingGains(Table):
    """The gains that training reads: observed labels, else the critic, composed by the need."""

    instance_id: int
    need: str
    mean: object
    variance: object = pa.Field(description="0 where observed")

    _key = ("instance_id", "need")
    _need = _text("need")
    _values = _lists("non-negative", "mean", "variance")
    _some = _not_empty("mean")
    _length = _same_length("mean", "variance")

    class Config:
        """Pandera's settings."""

        name = "training_gains"
        unique: ClassVar[list[str]] = ["instance_id", "need"]


class Rankings(Table):
    """One permutation of the candidates per method, need and instance."""

    method: str
    need: str
    instance_id: int
    ranking: object = pa.Field(description="item ids, best first, always complete")
    input_order: object = pa.Field(description="the same ids in the order of the prompt")
    invalid: int = pa.Field(ge=0, description="ids in the answer that are not candidates")
    repeated: int = pa.Field(ge=0)
    missing: int = pa.Field(ge=0)

    _key = ("method", "need", "instance_id")
    _names = _text("method", "need")
    _ids = _lists("ids", "ranking", "input_order")
    _some = _not_empty("ranking")
    _unique = _distinct("ranking")
    _permutation = _rows(
        "ranking and input_order must hold the same ids",
        lambda a, b: sorted(np.asarray(a).tolist()) == sorted(np.asarray(b).tolist()),
        "ranking",
        "input_order",
    )

    class Config:
        """Pandera's settings."""

        name = "rankings"
        unique: ClassVar[list[str]] = ["method", "need", "instance_id"]


class InstanceMetrics(Table):
    """The metrics of every ranking."""

    method: str
    need: str
    instance_id: int
    user_id: int
    ndcg_at_5: float = pa.Field(in_range=(0.0, 1.0))
    ndcg_at_10: float = pa.Field(in_range=(0.0, 1.0))
    ndcg_at_30: float = pa.Field(in_range=(0.0, 1.0), description="at min(30, K)")
    recall_at_5: float = pa.Field(in_range=(0.0, 1.0))
    precision_at_5: float = pa.Field(in_range=(0.0, 1.0))
    mrr_at_5: float = pa.Field(in_range=(0.0, 1.0))
    kendall_tau: float = pa.Field(in_range=(-1.0, 1.0), description="with the order of the prompt")
    invalid_rate: float = pa.Field(ge=0.0, description="per candidate; an answer may name more than K ids")
    repeated_rate: float = pa.Field(ge=0.0)
    missing_rate: float = pa.Field(in_range=(0.0, 1.0))

    _key = ("method", "need", "instance_id")
    _names = _text("method", "need")
    _rates = _finite("invalid_rate", "repeated_rate")

    class Config:
        """Pandera's settings."""

        name = "instance_metrics"
        unique: ClassVar[list[str]] = ["method", "need", "instance_id"]
