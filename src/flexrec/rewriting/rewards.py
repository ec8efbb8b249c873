"""What a rewrite is worth: NDCG of what a retriever finds with it, and whether the answer has its form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from flexrec.ranking.metrics import ndcg, recall
from flexrec.rewriting.requests import Request
from flexrec.rewriting.retrievers import Found, Retriever
from flexrec.rewriting.settings import RewardSettings


@dataclass(frozen=True)
class Outcome:
    """The two parts of a reward; their sum is the reward.

    Attributes:
        retrieval: NDCG of what is retrieved, in [0, 1]; 0 where the form is wrong.
        form: What the form of the answer adds.
    """

    retrieval: float
    form: float


def search_for(requests: Sequence[Request], queries: Sequence[str], retriever: Retriever, k: int) -> list[list[int]]:
    """The first `k` documents for each request, found with the query given for it; equal queries are searched once.

    What a request names is left out of its result.
    """
    named = max((len(request.named) for request in requests), default=0)
    different = list(dict.fromkeys(queries))
    results: dict[str, Found] = dict(zip(different, retriever.search(different, k + named), strict=True))
    return [
        [item for item in results[query].items.tolist() if item not in request.named][:k]
        for request, query in zip(requests, queries, strict=True)
    ]


def result_gains(result: Sequence[int], request: Request, k: int) -> Float[np.ndarray, " n"]:
    """Gains in the order of a result: k places (0 where nothing was found), then what was not found, for the ideal."""
    first = [request.gains.get(item, 0.0) for item in result[:k]]
    rest = [gain for item, gain in request.gains.items() if item not in set(result[:k])]
    return np.array([*first, *([0.0] * (k - len(first))), *rest])


def result_relevance(result: Sequence[int], request: Request, k: int) -> Bool[np.ndarray, " n"]:
    """The same of the relevance."""
    first = [item in request.relevant for item in result[:k]]
    return np.array([*first, *([False] * (k - len(first))), *([True] * len(request.relevant - set(result[:k])))])


def result_ndcg(result: Sequence[int], request: Request, k: int) -> float:
    """NDCG@k of a result; the ideal is over all documents (`flexrec.ranking.metrics.ndcg`)."""
    return float(ndcg(result_gains(result, request, k), k))


def result_recall(result: Sequence[int], request: Request, k: int) -> float:
    """Share of the relevant documents among the first k of a result (`flexrec.ranking.metrics.recall`)."""
    return float(recall(result_relevance(result, request, k), k))


class RewriteReward:
    r"""The reward of Rec-R1.

    .. math:: r = \begin{cases} \mathrm{NDCG@}k + r_{form} & \text{the form is right} \\ r_{wrong} & \text{it is not}
        \end{cases}

    Source: arXiv 2503.24289, with +0.1 and -2.

    Args:
        requests: What the rows of a call are.
        retriever: The black box.
        settings: k and the values of the form.
    """

    def __init__(self, requests: Sequence[Request], retriever: Retriever, settings: RewardSettings) -> None:
        self._requests, self._retriever, self._settings = requests, retriever, settings

    def __call__(self, rows: Sequence[int], rewrites: Sequence[str | None]) -> list[Outcome]:
        """The outcome of each rewrite; None stands for an answer of the wrong form.

        Args:
            rows: Which request each rewrite is of.
            rewrites: The rewritten queries.
        """
        settings = self._settings
        written = [(self._requests[row], text) for row, text in zip(rows, rewrites, strict=True) if text is not None]
        asked = [request for request, _ in written]
        results = iter(search_for(asked, [text for _, text in written], self._retriever, settings.cutoff))
        return [
            Outcome(0.0, settings.wrong_form)
            if text is None
            else Outcome(result_ndcg(next(results), self._requests[row], settings.cutoff), settings.right_form)
            for row, text in zip(rows, rewrites, strict=True)
        ]
