import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test
from flexrec.reporting.style import metric_label
from flexrec.rewriting.evaluation import rewrites_table, score_rewrites, summarise_rewrites
from flexrec.rewriting.report import (
    FEEDBACK,
    ORIGINAL,
    TRAINED,
    UNTRAINED,
    costs_of,
    gallery,
    headline,
    report_markdown,
    report_text,
    rewriting_curves_figure,
    sentences,
)
from flexrec.rewriting.requests import Request

REQUESTS = [
    Request(number, number // 2, "words", {1: 1.0, 6: 0.5}, frozenset({1}), frozenset({2})) for number in range(6)
]
OPTIONS = {"confidence": 0.95, "resamples": 200, "permutations": 200, "seed": 0}


@pytest.fixture
def rewrites() -> pd.DataFrame:
    words = {
        ORIGINAL: ["Alien"] * 6,
        FEEDBACK: ["Fly"] * 6,
        UNTRAINED: [None, "Alien", None, "Grease", "Fly", "Fly"],
        TRAINED: ["Alien Fly", "Alien Fly", "Fly", "*Alien* <b>|Fly|", None, "Alien Fly"],
    }
    return pd.concat([rewrites_table(name, REQUESTS, texts) for name, texts in words.items()], ignore_index=True)


def test_scores_of_rewrites(rewrites, bm25):
    scores = score_rewrites(rewrites, REQUESTS, bm25).set_index(["method", "request_id"])
    # "Alien" finds film 1 alone: DCG 1 of 1 + 0.5 / log2(3)
    assert scores.loc[(ORIGINAL, 0), "ndcg_at_10"] == pytest.approx(1 / (1 + 0.5 / np.log2(3)))
    assert scores.loc[(ORIGINAL, 0), "recall_at_10"] == 1.0
    assert scores.loc[(TRAINED, 0), "ndcg_at_10"] == pytest.approx(1.0)
    # the wrong form finds nothing and is counted
    assert scores.loc[(UNTRAINED, 0)].tolist() == [0, 0.0, 0.0, 0.0, 1.0]
    assert scores.loc[(UNTRAINED, slice(None)), "invalid_rate"].mean() == pytest.approx(2 / 6)
    assert scores.loc[(TRAINED, 5), "user_id"] == 2


def test_a_rewrite_of_an_unknown_request_is_refused(rewrites, bm25):
    with pytest.raises(InputError, match="request 5 is none of the requests"):
        score_rewrites(rewrites, REQUESTS[:5], bm25)


def test_the_summary_is_made_of_the_common_statistics(rewrites, bm25):
    scores = score_rewrites(rewrites, REQUESTS, bm25)
    summary = summarise_rewrites(scores, references={TRAINED: (ORIGINAL, UNTRAINED)}, **OPTIONS)
    own = scores[scores["method"] == TRAINED]
    row = summary[(summary["method"] == TRAINED) & (summary["metric"] == "ndcg_at_10")].set_index("reference")
    expected = bootstrap_interval(
        own["ndcg_at_10"].to_numpy(), own["user_id"].to_numpy(), confidence=0.95, resamples=200, seed=0
    )
    assert tuple(row.loc[ORIGINAL, ["mean", "low", "high"]]) == pytest.approx(expected)
    tests = [
        paired_test(own["ndcg_at_10"].to_numpy(), scores.loc[scores["method"] == other, "ndcg_at_10"].to_numpy(),
                    own["user_id"].to_numpy(), resamples=200, seed=0)
        for other in (ORIGINAL, UNTRAINED)
    ]  # fmt: skip
    assert row.loc[[ORIGINAL, UNTRAINED], "p"].tolist() == tests
    assert row.loc[[ORIGINAL, UNTRAINED], "p_holm"].tolist() == holm(tests).tolist()
    assert summary.loc[summary["metric"] == "invalid_rate", "p"].isna().all()
    assert headline(summary)["query_rewriting"][UNTRAINED]["invalid_rate"] == pytest.approx(2 / 6)
    pd.testing.assert_frame_equal(
        summary, summarise_rewrites(scores, references={TRAINED: (ORIGINAL, UNTRAINED)}, **OPTIONS)
    )


def test_different_requests_are_not_compared(rewrites, bm25):
    scores = score_rewrites(rewrites, REQUESTS, bm25)
    less = scores.drop(index=scores.index[0])
    with pytest.raises(InputError, match="different instances"):
        summarise_rewrites(less, references={TRAINED: (ORIGINAL,)}, **OPTIONS)


def test_the_gallery_goes_from_loss_to_gain(rewrites, bm25):
    scores = score_rewrites(rewrites, REQUESTS, bm25)
    shown = gallery(rewrites, scores, 3)
    ids = list(dict.fromkeys(shown["request_id"]))
    by_method = scores.pivot(index="request_id", columns="method", values="ndcg_at_10")
    gained = (by_method[TRAINED] - by_method[ORIGINAL])[ids].tolist()
    assert gained == sorted(gained)
    assert ids[0] == 4  # of the wrong form
    assert shown["method"].tolist() == [ORIGINAL, FEEDBACK, UNTRAINED, TRAINED] * 3
    assert shown[(shown["request_id"] == 4) & (shown["method"] == TRAINED)]["invalid"].all()
    assert gallery(rewrites, scores, 0).empty


def test_the_report_shows_rewrites_as_text_and_nothing_else(rewrites, bm25):
    scores = score_rewrites(rewrites, REQUESTS, bm25)
    summary = summarise_rewrites(scores, references={TRAINED: (ORIGINAL, FEEDBACK, UNTRAINED)}, **OPTIONS)
    shown = gallery(rewrites, scores, 6)
    markdown = report_markdown(summary, shown, {"dataset": "x"})
    assert "\\*Alien\\* &lt;b&gt;\\|Fly\\|" in markdown
    assert "<b>" not in markdown
    assert "*wrong form*" in markdown
    for part in ("NDCG@10", metric_label("ndcg_at_100"), "p vs original", "invalid"):
        assert part in markdown, part
    text = report_text(summary, shown)
    assert "*Alien* <b>|Fly|" in text
    (sentence,) = sentences(summary)
    assert "6 requests of 3 users" in sentence
    assert sentence.count("p ") == 3


def test_the_curves_are_drawn():
    curves = pd.DataFrame({"step": [0, 1, 1], "metric": ["validation/ndcg_at_10", "validation/ndcg_at_10", "reward"],
                           "value": [0.1, 0.25, -1.0]})  # fmt: skip
    figure = rewriting_curves_figure(curves)
    assert len(figure.data) == 2
    assert "0.100 to 0.250" in figure.layout.title.text
    counted = pd.DataFrame(
        {"step": [1, 2, 2], "metric": ["cost/updates", "cost/updates", "reward"], "value": [1.0, 2, 3]}
    )
    assert costs_of(counted) == {"updates": 2}
    assert costs_of(curves) == {}
    assert "No training curves" in rewriting_curves_figure(curves[:0]).layout.annotations[0].text
