"""Metrics of rewrites, request by request, and their means with intervals and paired tests."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.summary import summarise
from flexrec.ranking.columns import Columns
from flexrec.rewriting.requests import REQUEST_ID, Request
from flexrec.rewriting.retrievers import Retriever
from flexrec.rewriting.rewards import result_ndcg, result_recall, search_for

REWRITE = "rewrite"
NEED = "query rewriting"
"""What stands where a table of rankings has a need."""

QUALITY: Mapping[str, tuple[Callable[[Sequence[int], Request, int], float], int]] = {
    "ndcg_at_10": (result_ndcg, 10),
    "ndcg_at_100": (result_ndcg, 100),
    "recall_at_10": (result_recall, 10),
}
"""Metric and its k; compared and tested between methods."""

INVALID = "invalid_rate"


def rewrites_table(method: str, requests: Sequence[Request], rewrites: Sequence[str | None]) -> pd.DataFrame:
    """One row per request: `method`, `request_id`, `rewrite` (empty where the form is wrong), `invalid` (0 or 1)."""
    return pd.DataFrame(
        {
            Columns.METHOD: method,
            REQUEST_ID: np.array([request.request_id for request in requests], dtype=np.int64),
            REWRITE: [text or "" for text in rewrites],
            Columns.INVALID: np.array([text is None for text in rewrites], dtype=np.int64),
        }
    )


def score_rewrites(rewrites: pd.DataFrame, requests: Sequence[Request], retriever: Retriever) -> pd.DataFrame:
    """Search with every rewrite and score what is found with the requests' gains.

    An answer of the wrong form finds nothing and scores 0, as in training.

    Args:
        rewrites: Rows of `rewrites_table`, of any number of methods.
        requests: Every request that occurs.
        retriever: What is searched with.

    Returns:
        One row per row of `rewrites` and in its order: `method`, `request_id`, `user_id`, the metrics of `QUALITY`
        in [0, 1], and `invalid_rate` (0 or 1).

    Raises:
        InputError: An unknown request.
    """
    known = {request.request_id: request for request in requests}
    if missing := [one for one in rewrites[REQUEST_ID].tolist() if one not in known]:
        raise InputError(f"rewrites: request {missing[0]} is none of the requests; make both tables in one run")
    asked = [known[one] for one in rewrites[REQUEST_ID].tolist()]
    deepest = max(k for _, k in QUALITY.values())
    results = search_for(asked, rewrites[REWRITE].tolist(), retriever, deepest)
    invalid = rewrites[Columns.INVALID].to_numpy(dtype=np.float64)
    table = rewrites[[Columns.METHOD, REQUEST_ID]].reset_index(drop=True)
    table[Columns.USER_ID] = np.array([request.user_id for request in asked], dtype=np.int64)
    for name, (metric, k) in QUALITY.items():
        values = [metric(result, request, k) for result, request in zip(results, asked, strict=True)]
        table[name] = np.where(invalid > 0, 0.0, np.array(values))
    return table.assign(**{INVALID: invalid})


def summarise_rewrites(
    scores: pd.DataFrame,
    *,
    references: Mapping[str, Sequence[str]],
    confidence: float,
    resamples: int,
    permutations: int,
    seed: int,
) -> pd.DataFrame:
    """Means with bootstrap intervals, and paired tests with users as the unit, as `flexrec.evaluation.summarise`.

    Args:
        scores: Table of `score_rewrites`.
        references: For each method that makes a claim, the methods it is compared with.
        confidence: Coverage of the intervals.
        resamples: Bootstrap resamples of the users.
        permutations: Sign flips of the paired test.
        seed: Of both.

    Returns:
        The columns of `flexrec.evaluation.summary.COLUMNS`; p values adjusted by Holm's method per metric.
    """
    return summarise(
        scores.rename(columns={REQUEST_ID: Columns.INSTANCE_ID}).assign(**{Columns.NEED: NEED}),
        references=references,
        confidence=confidence,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
        metrics=(*QUALITY, INVALID),
        tested=tuple(QUALITY),
    )
