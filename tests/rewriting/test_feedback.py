from flexrec.rewriting.feedback import expand
from flexrec.rewriting.settings import FeedbackSettings


def test_words_of_what_is_found_are_added(items, bm25):
    texts = dict(zip(items["item_id"], items["text"], strict=True))
    # "Halloween" finds one document: halloween, 1978, horror, each a third of it; its own word is not added again
    assert expand(["Halloween"], bm25, texts, FeedbackSettings(documents=5, terms=8)) == ["Halloween 1978 horror"]
    assert expand(["Halloween"], bm25, texts, FeedbackSettings(documents=5, terms=1)) == ["Halloween 1978"]
    assert expand(["Halloween"], bm25, texts, FeedbackSettings(terms=0)) == ["Halloween"]


def test_what_more_of_the_found_say_comes_first(items, bm25):
    texts = dict(zip(items["item_id"], items["text"], strict=True))
    (expanded,) = expand(["Alien Fly"], bm25, texts, FeedbackSettings(documents=5, terms=3))
    # both documents say horror, sci and fi; one each says 1979 or 1986
    assert sorted(expanded.split()[2:]) == ["fi", "horror", "sci"]


def test_a_query_that_finds_nothing_stays(items, bm25):
    texts = dict(zip(items["item_id"], items["text"], strict=True))
    assert expand(["unheardof", ""], bm25, texts, FeedbackSettings()) == ["unheardof", ""]
    assert expand([], bm25, texts, FeedbackSettings()) == []
