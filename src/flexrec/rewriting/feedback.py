"""Expansion of a query by pseudo-relevance feedback: what rewriting reaches without a language model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from flexrec.rewriting.retrievers import Retriever, words_of
from flexrec.rewriting.settings import FeedbackSettings


def expand(
    queries: Sequence[str], retriever: Retriever, texts: Mapping[int, str], settings: FeedbackSettings
) -> list[str]:
    r"""Add to each query the words that are most likely in the documents that it finds.

    .. math:: P(t \mid R) = \sum_{d \in R} P(t \mid d) \, \frac{s(q, d)}{\sum_{d'} s(q, d')}

    over the first documents R, with P(t|d) the word's share of the document. The retriever takes words alone, so the
    words are added as they are: RM3 (Abdul-Jaleel et al., 2004) without the weights. What a query names is in its own
    words already, and is not added again. Equal likelihoods in alphabetical order.

    Args:
        queries: The queries.
        retriever: What is searched with.
        texts: Text of every document.
        settings: How many documents and words.

    Returns:
        The expanded queries; one that finds nothing stays as it is.
    """
    found = retriever.search(queries, settings.documents)
    used = sorted({int(item) for result in found for item in result.items})
    words = dict(zip(used, words_of([texts[item] for item in used]), strict=True)) if used else {}
    own = words_of(queries) if queries else []
    expanded = []
    for query, result, said in zip(queries, found, own, strict=True):
        # cosines may be negative
        scores = [max(float(score), 0.0) for score in result.scores]
        total = sum(scores)
        likelihood: defaultdict[str, float] = defaultdict(float)
        for item, score in zip(result.items, scores, strict=True):
            document = words[int(item)]
            for word in document:
                if total > 0 and word not in said:
                    likelihood[word] += score / total / len(document)
        added = sorted(likelihood, key=lambda word: (-likelihood[word], word))[: settings.terms]
        expanded.append(" ".join([query, *added]))
    return expanded
