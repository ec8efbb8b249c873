"""Retrievers behind one protocol: words in, the best documents out. Nothing of how they work is told to the policy."""

import logging
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.ranking.columns import Columns
from flexrec.retrieval.embedders import EmbedderSettings, embed_texts, prepare_embedder
from flexrec.retrieval.search import ExactSearch, search_all
from flexrec.rewriting.settings import Bm25Settings, RetrieverSettings

_WORD = re.compile(r"\w")


class Found(NamedTuple):
    """What a query finds, best first."""

    items: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]


class Retriever(Protocol):
    """A search over documents."""

    def search(self, queries: Sequence[str], k: int) -> list[Found]:
        """The up to `k` best documents of each query.

        Equal scores stand in the order of the item ids. A query that says nothing (no word, or no word that occurs)
        finds nothing.
        """


def words_of(texts: Sequence[str], stopwords: Literal["en", "none"] = "en") -> list[list[str]]:
    """The words of each text as BM25 counts them: lower case, of two characters or more, without stop words."""
    import bm25s

    chosen = "en" if stopwords == "en" else None
    words = bm25s.tokenize(list(texts), stopwords=chosen, return_ids=False, show_progress=False)
    return [[str(word) for word in line] for line in words]


class Bm25Retriever:
    r"""BM25 over the words of the documents, in Lucene's form.

    .. math:: s(q, d) = \sum_{t \in q} \ln\Bigl(1 + \frac{N - n_t + 0.5}{n_t + 0.5}\Bigr)
        \frac{f_{t,d}}{f_{t,d} + k_1 (1 - b + b\,|d| / \overline{|d|})}

    A word that the query repeats counts as often as it stands there.

    Source: Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework"; the form of Kamphuis et al. (2020),
    computed by bm25s (arXiv 2407.03618).

    Args:
        ids: Item of each document, ascending.
        texts: The documents.
        settings: k1, b and stop words.
    """

    def __init__(self, ids: Int[np.ndarray, " m"], texts: Sequence[str], settings: Bm25Settings) -> None:
        import bm25s

        # it tells of every index, whatever the project's log is set to
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._ids, self._stopwords = np.asarray(ids, dtype=np.int64), settings.stopwords
        self._index = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene", backend="numpy")
        self._index.index(words_of(texts, settings.stopwords), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[Found]:
        """See `Retriever.search`."""
        return [self._search(words, k) for words in words_of(queries, self._stopwords)] if queries else []

    def _search(self, words: list[str], k: int) -> Found:
        known = [word for word in words if word in self._index.vocab_dict]
        if not known:
            return Found(self._ids[:0], np.zeros(0))
        scores = np.asarray(self._index.get_scores(known), dtype=np.float64)
        matching = np.flatnonzero(scores > 0.0)
        best = matching[np.argsort(-scores[matching], kind="stable")][:k]
        return Found(self._ids[best], scores[best])


class DenseRetriever:
    """Cosine of a query's embedding with those of the documents.

    Args:
        ids: Item of each document, ascending.
        vectors: Their embeddings, float32, unit norm.
        embedder: What embedded them.
    """

    def __init__(
        self, ids: Int[np.ndarray, " m"], vectors: Float[np.ndarray, "m d"], embedder: EmbedderSettings
    ) -> None:
        prepare_embedder(embedder)
        self._ids, self._vectors, self._embedder = np.asarray(ids, dtype=np.int64), vectors, embedder

    def search(self, queries: Sequence[str], k: int) -> list[Found]:
        """See `Retriever.search`."""
        nothing = Found(self._ids[:0], np.zeros(0))
        said = [row for row, query in enumerate(queries) if _WORD.search(query)]
        found = [nothing] * len(queries)
        if said:
            asked = embed_texts([queries[row] for row in said], self._embedder)
            rows, cosines = search_all(asked, self._vectors, min(k, len(self._ids)), ExactSearch())
            for place, row in enumerate(said):
                found[row] = Found(self._ids[rows[place]], cosines[place].astype(np.float64))
        return found


def make_retriever(
    settings: RetrieverSettings, items: pd.DataFrame, embeddings: pd.DataFrame, embedder: EmbedderSettings
) -> Retriever:
    """The retriever over all items of a dataset.

    Args:
        settings: Which one.
        items: The common table; its `text` is what BM25 reads.
        embeddings: `item_embeddings`, what the dense one compares with.
        embedder: What made them.
    """
    if isinstance(settings, Bm25Settings):
        documents = items.sort_values(Columns.ITEM_ID, ignore_index=True)
        return Bm25Retriever(documents[Columns.ITEM_ID].to_numpy(), documents[Columns.TEXT].tolist(), settings)
    table = embeddings.sort_values(Columns.ITEM_ID, ignore_index=True)
    vectors = np.stack([np.asarray(vector, dtype=np.float32) for vector in table[Columns.EMBEDDING]])
    return DenseRetriever(table[Columns.ITEM_ID].to_numpy(), vectors, embedder)
