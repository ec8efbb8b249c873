"""Requests in words, and which documents answer them.

A dataset of queries (ESCI) brings both. Of any other, requests are made: "films like A and B", where A and B are films
that one user was seen to like. What answers such a request is a matter of what the items are (topics and time), not
of who likes them: interactions name the request and judge nothing. So a request of a training user and one of a test
user differ in nothing but their films, and no unobserved interaction is read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from flexrec.errors import InputError
from flexrec.prompting.templates import fill_template
from flexrec.ranking.columns import SPLITS, Columns
from flexrec.ranking.gains import engagement_gain
from flexrec.ranking.task import TaskSettings
from flexrec.rewriting.settings import RequestSettings
from flexrec.tabular import Table, as_table

logger = logging.getLogger(__name__)

REQUEST_ID, DOCUMENTS, RELEVANT, NAMED = "request_id", "documents", "relevant", "named"


@dataclass(frozen=True)
class Request:
    """Words, and what answers them.

    Attributes:
        request_id: Number of the request.
        user_id: Who asks; the unit of resampling.
        text: The words.
        gains: Gain > 0 by document; all other documents have none.
        relevant: Documents that count as relevant.
        named: Documents that the request names. They are no part of any result: the user knows them.
    """

    request_id: int
    user_id: int
    text: str
    gains: Mapping[int, float]
    relevant: frozenset[int]
    named: frozenset[int] = frozenset()


def build_requests(
    observations: Table | pd.DataFrame,
    items: pd.DataFrame,
    queries: pd.DataFrame,
    *,
    task: TaskSettings,
    settings: RequestSettings,
    seed: int,
) -> pd.DataFrame:
    """Make or choose the requests of every split.

    With a context of queries: the queries and the gains of their judgments, of training queries the observed ones
    alone. Otherwise: up to `per_user` requests of each user, every one naming `titles` different items among the
    user's observed interactions with an engagement above the dataset's midpoint. Every user's first request comes
    before any user's second; the draws depend on the seed and the user alone.

    Args:
        observations: The common table with `observed` and `split`.
        items: The common table.
        queries: The common table; empty where nobody asks in words.
        task: Entry of the dataset.
        settings: How requests are made, and how many.
        seed: Of the choices.

    Returns:
        One row per request, numbered by split and user: `request_id`, `user_id`, `split`, `query` (the words),
        `documents` (items with a gain > 0), `gains` and `relevant` (aligned with them), `named`.

    Raises:
        InputError: A split without any request.
    """
    table = as_table(observations)
    made = (
        _judged(table, queries, task, settings, seed)
        if task.context == "query"
        else _alike(table, items, task, settings, seed)
    )
    counts = made[Columns.SPLIT].value_counts()
    for split in SPLITS:
        if not counts.get(split, 0):
            raise InputError(
                f"split {split} has no request: nobody in it likes {settings.titles} items with topics, or no judged "
                "item has a gain. Lower `query_rewrite.requests.titles` or `relevant_gain`, or observe more."
            )
    order = {split: place for place, split in enumerate(SPLITS)}
    made = made.sort_values(
        [Columns.SPLIT, Columns.USER_ID],
        key=lambda column: column.map(order) if column.name == Columns.SPLIT else column,
        kind="stable",
        ignore_index=True,
    )
    made.insert(0, REQUEST_ID, np.arange(len(made), dtype=np.int64))
    logger.info("requests: %s", ", ".join(f"{counts[split]} {split}" for split in SPLITS))
    return made


def example_rewrites(
    items: pd.DataFrame, count: int, *, task: TaskSettings, settings: RequestSettings, seed: int
) -> list[tuple[str, str]]:
    """Made-up requests with a rewrite each: the topics and years of the items that they name, and nothing else.

    They show what a rewrite may look like. The items are drawn at random among those with topics; nobody's liking
    of them, and nothing of what answers a request, is looked at. A dataset of queries has none.

    Args:
        items: The common table.
        count: How many.
        task: Entry of the dataset.
        settings: How requests are made.
        seed: Of the draw.

    Returns:
        Pairs of a request and its rewrite.
    """
    if task.context == "query":
        return []
    described = items[items[Columns.TOPICS].map(len) > 0].sort_values(Columns.ITEM_ID, ignore_index=True)
    rows = np.random.default_rng(seed).permutation(len(described))
    pairs = []
    for place in range(min(count, len(rows) // settings.titles)):
        named = described.iloc[rows[place * settings.titles : (place + 1) * settings.titles]]
        topics = dict.fromkeys(str(topic) for topics in named[Columns.TOPICS] for topic in topics)
        years = dict.fromkeys(f"{year:.0f}" for year in named[Columns.RELEASED] if year == year)
        titles = [str(title) for title in named[Columns.TITLE]]
        pairs.append((_words(titles, task, settings), " ".join([*topics, *years])))
    return pairs


def read_requests(table: pd.DataFrame, split: str) -> list[Request]:
    """The requests of one split, in the order of the table."""
    rows = table[table[Columns.SPLIT] == split].to_dict("records")
    return [
        Request(
            int(row[REQUEST_ID]),
            int(row[Columns.USER_ID]),
            str(row[Columns.QUERY]),
            {int(item): float(gain) for item, gain in zip(row[DOCUMENTS], row[Columns.GAINS], strict=True)},
            frozenset(int(item) for item, flag in zip(row[DOCUMENTS], row[RELEVANT], strict=True) if flag),
            frozenset(int(item) for item in row[NAMED]),
        )
        for row in rows
    ]


def likeness(
    topics: Bool[np.ndarray, "m t"], years: Float[np.ndarray, " m"], named: Int[np.ndarray, " n"], span: float
) -> Float[np.ndarray, " m"]:
    r"""How much every item is like one of the named ones.

    .. math:: g_d = \max_{s} \frac{|T_d \cap T_s|}{|T_d \cup T_s|} \cdot \max\Bigl(0, 1 - \frac{|y_d - y_s|}{span}\Bigr)

    The Jaccard index of the topics T (Jaccard, 1912), falling to 0 with the distance of the years y. A year that is
    not known is near to every other.

    Args:
        topics: Which topics each item has.
        years: Of release; NaN where unknown.
        named: Row numbers of the named items.
        span: Years apart from which nothing is alike.

    Returns:
        Values in [0, 1]; 0 for the named items themselves.
    """
    both = (topics[:, None, :] & topics[None, named, :]).sum(-1)
    either = (topics[:, None, :] | topics[None, named, :]).sum(-1)
    apart = np.abs(years[:, None] - years[None, named])
    near = np.clip(1.0 - np.where(np.isnan(apart), 0.0, apart) / span, 0.0, None)
    gains = (np.divide(both, either, out=np.zeros(both.shape), where=either > 0) * near).max(axis=1)
    gains[named] = 0.0
    return gains


def _alike(table: Table, items: pd.DataFrame, task: TaskSettings, settings: RequestSettings, seed: int) -> pd.DataFrame:
    """Requests for what is like a user's liked items."""
    catalogue = items.sort_values(Columns.ITEM_ID, ignore_index=True)
    ids = catalogue[Columns.ITEM_ID].to_numpy(dtype=np.int64)
    topics = _topic_flags(catalogue)
    years = catalogue[Columns.RELEASED].to_numpy(dtype=np.float64)
    row_of = {int(item): row for row, item in enumerate(ids)}
    liked = table.filter(table[Columns.OBSERVED] & (table[Columns.ENGAGEMENT] > task.engagement_midpoint))
    frame = liked.select(Columns.USER_ID, Columns.ITEM_ID, Columns.EVENT_ID, Columns.SPLIT).to_pandas()
    frame = frame.sort_values([Columns.USER_ID, Columns.EVENT_ID], ignore_index=True)
    with_topics = [bool(topics[row_of[int(item)]].any()) for item in frame[Columns.ITEM_ID]]
    frame = frame[np.array(with_topics, dtype=bool)]
    drawn: dict[str, list[tuple[int, float, int, list[int]]]] = {split: [] for split in SPLITS}
    for key, part in frame.groupby(Columns.USER_ID, sort=True):
        user, split = int(str(key)), str(part[Columns.SPLIT].iloc[0])
        # a generator per user: no other user's data can change the draw; the mask makes negative ids valid seeds
        rng = np.random.default_rng([seed, user & 0xFFFF_FFFF_FFFF_FFFF])
        shuffled = rng.permutation(part[Columns.ITEM_ID].to_numpy(dtype=np.int64))
        for turn in range(min(settings.per_user, len(shuffled) // settings.titles)):
            names = shuffled[turn * settings.titles : (turn + 1) * settings.titles].tolist()
            drawn[split].append((turn, float(rng.random()), user, names))
    rows = []
    unanswered = 0
    for split in SPLITS:
        taken = 0
        for _turn, _key, user, names in sorted(drawn[split]):
            if taken == getattr(settings.limits, split):
                break
            gains = likeness(topics, years, np.array([row_of[item] for item in names]), settings.years)
            if gains.max() < settings.relevant_gain:
                unanswered += 1
                continue
            taken += 1
            found = np.flatnonzero(gains > 0.0)
            titles = [str(catalogue[Columns.TITLE][row_of[item]]) for item in names]
            rows.append(
                {
                    Columns.USER_ID: user,
                    Columns.SPLIT: split,
                    Columns.QUERY: _words(titles, task, settings),
                    DOCUMENTS: ids[found].tolist(),
                    Columns.GAINS: gains[found].tolist(),
                    RELEVANT: (gains[found] >= settings.relevant_gain).tolist(),
                    NAMED: names,
                }
            )
    if unanswered:
        logger.info("%d requests left out: nothing is alike enough to what they name", unanswered)
    return _frame(rows)


def _judged(
    table: Table, queries: pd.DataFrame, task: TaskSettings, settings: RequestSettings, seed: int
) -> pd.DataFrame:
    """Queries with their judged items; of training queries what is observed alone."""
    import ibis

    users = table.group_by(Columns.USER_ID).aggregate(split=table[Columns.SPLIT].min()).to_pandas()
    split_of = dict(zip(users[Columns.USER_ID].tolist(), users["split"], strict=True))
    words = dict(zip(queries[Columns.USER_ID].tolist(), queries[Columns.QUERY], strict=True))
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for split in SPLITS:
        asked = np.array(sorted(user for user in words if split_of.get(user) == split), dtype=np.int64)
        chosen += rng.permutation(asked)[: getattr(settings.limits, split)].tolist()
    wanted = ibis.memtable(pd.DataFrame({Columns.USER_ID: np.array(chosen, dtype=np.int64)}))
    allowed = table.filter(table[Columns.OBSERVED] | (table[Columns.SPLIT] != SPLITS[0]))
    judgments = (
        allowed.semi_join(wanted, Columns.USER_ID)
        .select(Columns.USER_ID, Columns.ITEM_ID, Columns.ENGAGEMENT)
        .to_pandas()
        .sort_values([Columns.USER_ID, Columns.ITEM_ID], ignore_index=True)
    )
    rows = []
    for key, part in judgments.groupby(Columns.USER_ID, sort=True):
        user = int(str(key))
        engagement = part[Columns.ENGAGEMENT].to_numpy(dtype=np.float64)
        gains = engagement_gain(engagement, task.gain)
        found = gains > 0.0
        if not found.any():
            continue
        rows.append(
            {
                Columns.USER_ID: user,
                Columns.SPLIT: str(split_of[user]),
                Columns.QUERY: str(words[user]),
                DOCUMENTS: part[Columns.ITEM_ID].to_numpy(dtype=np.int64)[found].tolist(),
                Columns.GAINS: gains[found].tolist(),
                RELEVANT: (engagement[found] >= task.relevant_engagement).tolist(),
                NAMED: [],
            }
        )
    if len(rows) < len(chosen):
        logger.info("%d queries left out: no judged item has a gain", len(chosen) - len(rows))
    return _frame(rows)


def _frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = [Columns.USER_ID, Columns.SPLIT, Columns.QUERY, DOCUMENTS, Columns.GAINS, RELEVANT, NAMED]
    return pd.DataFrame(rows, columns=columns)


def _words(titles: Sequence[str], task: TaskSettings, settings: RequestSettings) -> str:
    """A request for what is like some titles, listed as people do: "A", "A and B", "A, B and C"."""
    listed = " and ".join(part for part in (", ".join(titles[:-1]), titles[-1]) if part)
    return fill_template(settings.template, {"items": task.items_name, "titles": listed})


def _topic_flags(items: pd.DataFrame) -> Bool[np.ndarray, "m t"]:
    names = sorted({str(topic) for topics in items[Columns.TOPICS] for topic in topics})
    column = {name: place for place, name in enumerate(names)}
    flags = np.zeros((len(items), len(names)), dtype=bool)
    for row, topics in enumerate(items[Columns.TOPICS]):
        for topic in topics:
            flags[row, column[str(topic)]] = True
    return flags
