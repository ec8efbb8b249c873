"""Every column name of the project's tables, written once."""


class Columns:
    """Column names; `docs/architecture.md` lists which table holds which."""

    # interactions and observations
    USER_ID = "user_id"
    ITEM_ID = "item_id"
    TIMESTAMP = "timestamp"
    ENGAGEMENT = "engagement"
    EVENT_ID = "event_id"
    OBSERVED = "observed"
    SPLIT = "split"

    # items
    SOURCE_ID = "source_id"
    TITLE = "title"
    TEXT = "text"
    TOPICS = "topics"
    RELEASED = "released"
    EMBEDDING = "embedding"

    # queries, and the text that stands for a history in an instance
    QUERY = "query"

    # daily_counts
    COUNT = "count"

    # instances
    INSTANCE_ID = "instance_id"
    QUERY_TIME = "query_time"
    HISTORY_ITEMS = "history_items"
    HISTORY_ENGAGEMENTS = "history_engagements"
    CANDIDATES = "candidates"
    SIMILARITIES = "similarities"

    # signals of the candidates of labelled instances
    SIMILARITY = "similarity"
    NICHE = "niche"
    TREND = "trend"
    POPULARITY = "popularity"
    QUALITY = "quality"
    RECENCY = "recency"
    OBSERVED_ENGAGEMENT = "observed_engagement"

    # beside them where the prompt shows it: the critic's mean gain
    PREDICTED = "predicted"

    # gains, predictions
    NEED = "need"
    GAINS = "gains"
    MEAN = "mean"
    VARIANCE = "variance"

    # rankings and metrics
    METHOD = "method"
    RANKING = "ranking"
    INPUT_ORDER = "input_order"
    INVALID = "invalid"
    REPEATED = "repeated"
    MISSING = "missing"


SPLITS = ("train", "validation", "test")
