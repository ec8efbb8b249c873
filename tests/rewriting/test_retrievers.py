import math

import numpy as np
import pandas as pd
import pytest

from flexrec.retrieval.embedders import HashingSettings, embed_texts
from flexrec.rewriting.retrievers import Bm25Retriever, DenseRetriever, make_retriever, words_of
from flexrec.rewriting.settings import Bm25Settings, DenseSettings

CORPUS = ["red apple red", "green apple", "green pear tree tree tree", "stone"]


def by_the_formula(query, documents, k1, b):
    """ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 (1 - b + b |d| / mean |d|)), summed over the query's words."""
    split = [document.split() for document in documents]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for word in query.split():
            holding = sum(word in other for other in split)
            if word not in words:
                continue
            idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
            frequency = words.count(word)
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(words) / mean))
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.75), (2.0, 0.0), (1.2, 1.0)])
@pytest.mark.parametrize("query", ["red", "green apple", "tree tree stone", "apple unknown red"])
def test_bm25_is_the_formula(query, k1, b):
    retriever = Bm25Retriever(np.arange(4), CORPUS, Bm25Settings(k1=k1, b=b))
    (found,) = retriever.search([query], 4)
    expected = by_the_formula(query, CORPUS, k1, b)
    assert len(found.items) == (expected > 0).sum()
    np.testing.assert_allclose(found.scores, expected[found.items], rtol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_one_score_by_hand():
    # "red": in 1 of 4 documents, twice in the first, which has 3 words of 11 / 4 on average
    # ln(1 + 3.5 / 1.5) * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2.75)) = 1.20397 * 0.60942 = 0.73372
    (found,) = Bm25Retriever(np.arange(4), CORPUS, Bm25Settings()).search(["red"], 4)
    assert found.items.tolist() == [0]
    assert found.scores[0] == pytest.approx(0.73372, abs=1e-5)


def test_ties_stand_in_the_order_of_the_ids():
    retriever = Bm25Retriever(
        np.array([3, 5, 8, 9]), ["same words", "other thing", "same words", "same words"], Bm25Settings()
    )
    for k, expected in ((1, [3]), (2, [3, 8]), (9, [3, 8, 9])):
        assert retriever.search(["words"], k)[0].items.tolist() == expected


@pytest.mark.parametrize("query", ["", "   ", "?!", "the of and", "unheardof", "\u0000"])
def test_a_query_that_says_nothing_finds_nothing(query, bm25):
    assert [len(part) for part in bm25.search([query], 5)[0]] == [0, 0]
    assert bm25.search([], 5) == []


def test_words_are_what_is_indexed():
    assert words_of(["The Sci-Fi of Children's 1995"]) == [["sci", "fi", "children", "1995"]]
    assert words_of(["The end"], "none") == [["the", "end"]]


def test_dense_is_the_cosine_of_the_embedder(items):
    embedder = HashingSettings(dimensions=64)
    texts = items["text"].tolist()
    vectors = embed_texts(texts, embedder)
    retriever = DenseRetriever(items["item_id"].to_numpy(), vectors, embedder)
    queries = ["Horror Sci-Fi 1979", "", "Grease", "..."]
    found = retriever.search(queries, 3)
    assert [len(result.items) for result in found] == [3, 0, 3, 0]
    for query, result in zip(queries, found, strict=True):
        if len(result.items):
            cosines = vectors.astype(np.float64) @ embed_texts([query], embedder)[0].astype(np.float64)
            best = np.argsort(-cosines.astype(np.float32), kind="stable")[:3]
            assert result.items.tolist() == items["item_id"].to_numpy()[best].tolist()
            np.testing.assert_allclose(result.scores, cosines[best], atol=1e-6)


def test_either_is_made_from_tables_in_any_order(items):
    embedder = HashingSettings(dimensions=64)
    embeddings = pd.DataFrame(
        {"item_id": items["item_id"], "embedding": list(embed_texts(items["text"].tolist(), embedder))}
    )
    for settings in (Bm25Settings(), DenseSettings()):
        given = make_retriever(settings, items, embeddings, embedder)
        shuffled = make_retriever(settings, items[::-1], embeddings[::-1], embedder)
        for query in ("Horror 1978", "Sci-Fi"):
            first, second = given.search([query], 8)[0], shuffled.search([query], 8)[0]
            assert first.items.tolist() == second.items.tolist()
            assert first.scores.tolist() == second.scores.tolist()
