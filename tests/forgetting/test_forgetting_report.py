"""Rates, perplexities and tests by hand."""

import json
import math

import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.forgetting.report import compare_models, forgetting_figure, forgetting_text
from flexrec.forgetting.settings import ForgettingSettings

SETTINGS = ForgettingSettings(resamples=500, permutations=5000)
PASSED = {
    "untrained": [1, 1, 1, 1, 1, 1, 1, 0],
    "warmed_up": [1, 1, 1, 1, 1, 1, 1, 0],
    "flexrec": [0, 0, 0, 0, 0, 0, 1, 1],
}
LOSS = {"untrained": [1.0, 2.0, 3.0], "warmed_up": [1.5, 2.5, 3.5], "flexrec": [1.0, 2.0, 3.0]}


def answers(passed=PASSED) -> pd.DataFrame:
    kinds = ["lowercase", "title"] * 4
    return pd.DataFrame(
        [
            {
                "model": model,
                "prompt": n,
                "kind": kinds[n],
                "passed": bool(value),
                "on_topic": (None, False)[n] if n < 2 else True,
                "cut": n == 0,
            }
            for model, values in passed.items()
            for n, value in enumerate(values)
        ]
    ).astype({"on_topic": "boolean"})


def windows(loss=LOSS) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": model, "window": n, "loss": value, "kl": 0.0 if model == "untrained" else 0.1 * n}
            for model, values in loss.items()
            for n, value in enumerate(values)
        ]
    )


@pytest.fixture(scope="module")
def results() -> dict:
    return compare_models(answers(), windows(), SETTINGS, seed=0)


def test_means_by_hand(results):
    assert results["pass_rate"]["untrained"]["mean"] == 7 / 8
    assert results["pass_rate"]["flexrec"]["mean"] == 2 / 8
    # mean loss 2 and 2.5
    assert results["perplexity"]["untrained"]["mean"] == pytest.approx(math.exp(2.0))
    assert results["perplexity"]["warmed_up"]["mean"] == pytest.approx(math.exp(2.5))
    assert results["kl"]["untrained"] == {"mean": 0, "low": 0, "high": 0}
    assert results["kl"]["flexrec"]["mean"] == pytest.approx(0.1)
    assert (results["on_topic"]["flexrec"], results["cut"]["flexrec"]) == (6 / 7, 1 / 8)
    # prompts 0, 2, 4, 6 are of the first kind, of which flexrec passes 6 alone, as 7 of the second
    assert results["by_kind"] == {
        "lowercase": {"untrained": 1.0, "warmed_up": 1.0, "flexrec": 0.25},
        "title": {"untrained": 0.75, "warmed_up": 0.75, "flexrec": 0.25},
    }
    for spread in results["pass_rate"].values():
        assert 0 <= spread["low"] <= spread["mean"] <= spread["high"] <= 1


def test_comparisons_by_hand(results):
    compared = results["compared"]
    assert {model: list(others) for model, others in compared.items()} == {
        "warmed_up": ["untrained"],
        "flexrec": ["untrained", "warmed_up"],
    }
    rate = compared["flexrec"]["untrained"]["pass_rate"]
    # 6 lost, 1 gained
    assert (rate["difference"], rate["lost"], rate["gained"]) == (-5 / 8, 6, 1)
    # McNemar's exact test: of 7 discordant prompts, at most 1 or at least 6 on one side: 2 * (1 + 7) / 2^7
    assert rate["p"] == pytest.approx(2 * 8 / 128)
    # three tests of p 1/8, 1/8 and 1: Holm 3/8, 3/8, 1
    assert rate["p_holm"] == pytest.approx(3 / 8)
    same = compared["warmed_up"]["untrained"]["pass_rate"]
    assert (same["difference"], same["p"], same["p_holm"], same["lost"], same["gained"]) == (0, 1, 1, 0, 0)
    loss = compared["warmed_up"]["untrained"]["loss"]
    # every piece half a nat worse; of 2^3 signs two are as extreme
    assert (loss["difference"], loss["low"], loss["high"]) == (0.5, 0.5, 0.5)
    assert loss["p"] == pytest.approx(0.25)


def test_the_rows_may_come_in_any_order(results):
    shuffled = answers().sample(frac=1, random_state=1)
    shuffled = pd.concat([shuffled[shuffled["model"] == model] for model in PASSED])
    assert compare_models(shuffled, windows(), SETTINGS, seed=0) == results


def test_results_are_plain_json(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_different_prompts_cannot_be_compared():
    short = answers().query("model != 'flexrec' or prompt < 7")
    with pytest.raises(InputError, match="flexrec and untrained do not have the same prompts"):
        compare_models(short, windows(), SETTINGS, seed=0)


def test_the_text_says_it(results):
    text = forgetting_text(results)
    row = next(line for line in text.splitlines() if line.split()[:1] == ["FlexRec"])
    assert "0.250 [" in row
    assert "7.39 [" in row
    assert "FlexRec against untrained: 6 instructions lost, 1 gained, -0.625 [" in text
    assert "(Holm p 0.375)" in text
    assert "warmed-up against untrained: 0 instructions lost, 0 gained, +0.000 [" in text
    assert "loss on held-out text, in nats per token, +0.500 [+0.500, +0.500]" in text
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 110


def test_the_figure_shows_it(results):
    figure = forgetting_figure(results)
    shown = [(trace.y[0], trace.x[0]) for trace in figure.data]
    assert shown[:3] == [("untrained", 0.875), ("warmed-up", 0.875), ("FlexRec", 0.25)]
    assert [x for _, x in shown[3:]] == pytest.approx([math.exp(2), math.exp(2.5), math.exp(2)])
    assert "FlexRec follows 25% of the instructions, perplexity 7.39" in figure.layout.title.text.replace("<br>", " ")
