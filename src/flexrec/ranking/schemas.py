"""Pandera models of the project's tables, for the catalog's `validator:` on save and on load.

Strict: no column may be absent or extra. Harmless conversions are made (integer widths, float32, whole floats as
integers, text in object or categorical columns, row labels); anything that would change a value is refused. A list
cell may be a Python list or tuple (before saving) or a numpy array (read back from Parquet). A refusal is one
`InputError` that names table, column, row, key and rule.

The two tables that may be too large for memory are checked by the engine that holds them: columns and types always
(`validate_types`), values by one query when the table is written (`validate_values`).
"""

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pandera.pandas as pa

from flexrec.errors import InputError
from flexrec.ranking import rules
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.ranking.table import Table, short

if TYPE_CHECKING:
    import ibis

UNIT_NORM_TOLERANCE = 1e-3  # room for encoders that normalise in half precision
ORDER_TOLERANCE = 1e-6  # room for scores recomputed in float32


class Interactions(Table):
    """Every known event between a user and an item."""

    user_id: int
    item_id: int
    timestamp: int = pa.Field(ge=0, description="epoch seconds")
    engagement: float = pa.Field(description="rating, watch ratio, ...")
    event_id: int = pa.Field(unique=True, description="rank in (timestamp, file order)")

    _key = ("event_id",)
    _engagement = rules.finite("engagement")

    class Config:
        """Pandera's settings."""

        name = "interactions"

    @classmethod
    def validate_values(cls, table: "ibis.Table") -> None:
        """Check the values of an engine's table, all rules in one query, or two where one is broken.

        That `event_id` follows the time is not among them: it would take a sort, and the ids are made by one.

        Raises:
            InputError: Names the rule and the row with the lowest event_id that breaks it.
        """
        table = cls.validate_types(table)
        number = table["engagement"]
        rules = [(name, table[name].isnull(), "a value is missing") for name in table.columns]
        rules.append(("engagement", number.isnan() | number.isinf(), "a finite number is needed"))
        rules.append(("timestamp", table["timestamp"] < 0, "greater_than_or_equal_to(0)"))
        # one condition first: to count by rule takes several times as long
        broken = functools.reduce(operator.or_, (broken for _, broken, _ in rules))
        if not int(table.count(where=broken).execute()):
            return
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
                where, value = f", event_id {int(first)}", f"; found {short(row[column])}"
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
    _topics = rules.lists("texts", "topics")
    _title = rules.text("title")

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
    _query = rules.text("query")

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
                f"found {short(first['split'])} ({found['wrong']} users)"
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

    _embedding = rules.lists("finite", "embedding")
    _some = rules.not_empty("embedding")

    @pa.check("embedding", name="size", error="every embedding must have the same number of dimensions")
    @classmethod
    def _one_size(cls, cells: pd.Series) -> pd.Series:
        return rules.each(lambda cell: len(cell) == len(cells.iloc[0]), cells)

    @pa.check("embedding", name="norm", error="an embedding must have norm 1")
    @classmethod
    def _unit_norm(cls, cells: pd.Series) -> pd.Series:
        return rules.each(
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
    _ids = rules.lists("ids", "history_items", "candidates")
    _engagements = rules.lists("finite", "history_engagements")
    _some = rules.not_empty("candidates")
    _unique = rules.distinct("candidates")
    _history_length = rules.same_length("history_items", "history_engagements")
    _new = rules.disjoint("history_items", "candidates")


class Instances(_Requests):
    """Ranking requests with the retriever's candidates, best first."""

    similarities: object = pa.Field(description="the retriever's score, not increasing")

    _scores = rules.lists("finite", "similarities")
    _length = rules.same_length("candidates", "similarities")
    _best_first = rules.rows(
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

    _finite = rules.lists("finite", "similarity", "quality")
    _flags = rules.lists("flags", "niche")
    _counts = rules.lists("non-negative", "trend", "popularity", "recency")
    _labels = rules.lists("finite or NaN", "observed_engagement")
    _length = rules.same_length(
        "candidates",
        "similarity",
        "niche",
        "trend",
        "popularity",
        "quality",
        "recency",
        "observed_engagement",
    )
    _no_leak = rules.rows(
        "observed_engagement must be NaN for validation and test instances (labels would leak)",
        lambda split, cell: split == "train" or bool(np.isnan(np.asarray(cell, dtype=np.float64)).all()),
        "split",
        "observed_engagement",
    )

    class Config:
        """Pandera's settings."""

        name = "labelled_instances"


class PromptInstances(LabelledInstances):
    """What prompts are made of: labelled instances, with the critic's prediction where a prompt shows it."""

    predicted: object = pa.Field(description="the critic's mean gain; the column may be absent")

    _predictions = rules.lists("finite", "predicted")
    _predicted_length = rules.same_length("candidates", "predicted")

    class Config:
        """Pandera's settings."""

        name = "prompt_instances"

    @classmethod
    def validate(cls, check_obj: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        """Check a table; arguments and errors as those of every table."""
        # not a subclass of its own validation: without the column it is the other table
        if isinstance(check_obj, pd.DataFrame) and Columns.PREDICTED not in check_obj.columns:
            return LabelledInstances.validate(check_obj, *arguments, **options)
        return super().validate(check_obj, *arguments, **options)


class TrueLabels(Table):
    """Engagement of every candidate of the held-out instances."""

    instance_id: int = pa.Field(unique=True)
    engagement: object = pa.Field(description="aligned with the candidates of labelled_instances")

    _key = ("instance_id",)
    _labels = rules.lists("finite", "engagement")
    _some = rules.not_empty("engagement")

    class Config:
        """Pandera's settings."""

        name = "true_labels"


class Gains(Table):
    """True gains of the held-out instances."""

    instance_id: int
    need: str
    gains: object = pa.Field(description="aligned with the candidates of labelled_instances")

    _key = ("instance_id", "need")
    _need = rules.text("need")
    _gains = rules.lists("non-negative", "gains")
    _some = rules.not_empty("gains")

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
    _mean = rules.lists("finite", "mean")
    _variance = rules.lists("non-negative", "variance")
    _some = rules.not_empty("mean")
    _length = rules.same_length("mean", "variance")

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
    _need = rules.text("need")
    _values = rules.lists("non-negative", "mean", "variance")
    _some = rules.not_empty("mean")
    _length = rules.same_length("mean", "variance")

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
    _names = rules.text("method", "need")
    _ids = rules.lists("ids", "ranking", "input_order")
    _some = rules.not_empty("ranking")
    _unique = rules.distinct("ranking")
    _permutation = rules.rows(
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
    _names = rules.text("method", "need")
    _rates = rules.finite("invalid_rate", "repeated_rate")

    class Config:
        """Pandera's settings."""

        name = "instance_metrics"
        unique: ClassVar[list[str]] = ["method", "need", "instance_id"]
