import re

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from flexrec.planted.answers import Answers
from flexrec.planted.page import planted_page, planted_text
from flexrec.planted.results import BEST, COMMON, area, summarise_planted
from flexrec.planted.settings import PlantedSettings, ReportedStatistics
from flexrec.planted.study import IDEAL, JOINT

STATISTICS = ReportedStatistics(resamples=200, significant=0.3)
POOLED, PER_RANK = "swap causal, pooled", "swap causal, per rank"


def curve(experiment: str, variant: str, heights: list[float], *, choice="", setting="", need="interest", **more):
    """Of every seed a curve that stands at its height, from 0 at the start."""
    metric = more.get("metric", "ndcg_at_5")
    rows = [
        (experiment, setting, choice, variant, 0.01, seed, need, tokens // 10, tokens, metric, value)
        for seed, height in enumerate(heights)
        for tokens, value in ((0, 0.0), (10, height), (20, height))
    ]
    columns = ["experiment", "setting", "choice", "variant", "rate"]
    return pd.DataFrame(rows, columns=[*columns, "seed", "need", "step", "tokens", "metric", "value"])


def number(experiment: str, variant: str, metric: str, values: list[float], **more) -> pd.DataFrame:
    return curve(experiment, variant, values, metric=metric, **more).query("tokens == 20")


def test_the_area_under_a_curve():
    points = pd.DataFrame({"name": "a", "tokens": [20, 0, 10], "value": [1.0, 0.0, 1.0]})
    # trapezoids: 10 * (0 + 1) / 2 + 10 * (1 + 1) / 2 = 15, over 20 tokens
    assert area(points, ["name"])["value"].tolist() == [0.75]


def test_means_and_tests_over_seeds():
    curves = pd.concat(
        [
            curve("rewards", POOLED, [0.4, 0.5, 0.6], choice=BEST),
            curve("rewards", PER_RANK, [0.5, 0.6, 0.7], choice=BEST),
            curve("rewards", "independent, pooled", [0.3, 0.6, 0.5], choice=BEST),
            curve("rewards", "independent, per rank", [0.2, 0.3, 0.4], choice=BEST),
        ]
    )
    results = summarise_planted(curves, STATISTICS)
    rows = results[results["measure"] == "final ndcg_at_5"].set_index(["variant", "reference"])
    assert rows.loc[(PER_RANK, POOLED), "mean"] == pytest.approx(0.6)
    assert rows.loc[(PER_RANK, POOLED), "difference"] == pytest.approx(0.1)
    assert rows.loc[(PER_RANK, POOLED), "difference_low"] == pytest.approx(0.1)
    # of 8 sign patterns two are as extreme as all alike
    assert rows.loc[(PER_RANK, POOLED), "p"] == 2 / 8
    # per rank is compared with the first, and with the same reward pooled
    assert set(rows.loc["independent, per rank"].index) == {POOLED, "independent, pooled"}
    # differences -.1, +.1, -.1: all patterns are as extreme
    assert rows.loc[("independent, pooled", POOLED), "p"] == 1
    # Holm over the four: .25 * 4, .25 * 3 and so on, never falling
    np.testing.assert_allclose(rows["p_holm"].dropna(), 1)
    # of heights h the area is .75 h
    areas = results[results["measure"] == "area ndcg_at_5"].set_index("variant")["mean"]
    assert areas[POOLED].item() == pytest.approx(0.375)
    assert results[results["measure"] == "start ndcg_at_5"]["reference"].isna().all()


def test_a_policy_asked_for_a_need_is_compared_with_the_one_trained_for_it():
    curves = pd.concat(
        [
            curve("transfer", variant, [height, height + 0.01], need=need)
            for variant, need, height in (
                ("a", "a", 0.8), ("a", "b", 0.3), ("b", "a", 0.2), ("b", "b", 0.9), (JOINT, "a", 0.7), (JOINT, "b", 0.8)
            )
        ]
    )  # fmt: skip
    rows = summarise_planted(curves, STATISTICS).query("measure == 'final ndcg_at_5'")
    compared = rows.dropna(subset=["reference"]).set_index(["variant", "need"])
    assert compared["reference"].to_dict() == {("b", "a"): "a", (JOINT, "a"): "a", ("a", "b"): "b", (JOINT, "b"): "b"}
    assert compared.loc[("b", "a"), "difference"] == pytest.approx(-0.6)


# ---- the page ----


@pytest.fixture
def settings(project_root) -> PlantedSettings:
    text = (project_root / "conf" / "base" / "parameters_planted.yml").read_text(encoding="utf-8")
    return PlantedSettings.model_validate(yaml.safe_load(text)["planted"] | {"statistics": STATISTICS.model_dump()})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("rewards", {"rates": [0.1, 0.2, 0.1]}, "0.1 stands twice in `rates`"),
        ("uncertainty", {"critics": [{"name": "even"}, {"name": "even", "spread": 1}]}, "even stands twice"),
        ("uncertainty", {"noises": [0.3, 0.3]}, "0.3 stands twice in `noises`"),
        ("uncertainty", {"scopes": ["none", "group", "group"]}, "group stands twice in `scopes`"),
        ("uncertainty", {"scopes": ["group", "none"]}, "the first of the scopes is what the others are compared with"),
        ("uncertainty", {"low": 6.0}, "the smallest weight, 6, is above the largest, 5"),
        ("gradients", {"start": [0, 0]}, "0 stands twice in `start`"),
        ("gradients", {"variants": [{}, {}]}, "swap causal, pooled stands twice in `variants`"),
    ],
)
def test_what_could_not_be_told_apart_is_refused_before_training(settings, part, change, message):
    given = settings.model_dump()
    with pytest.raises(ValidationError, match=re.escape(message)):
        PlantedSettings.model_validate(given | {part: given[part] | change})


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results of every experiment, with differences of known sign on 5 seeds (p = 2 / 32)."""
    lowest, low, high = ([height + step / 100 for step in range(5)] for height in (0.4, 0.5, 0.6))
    parts = []
    for experiment in ("rewards", "tail", "reasoning"):
        for choice in (BEST, COMMON):
            for metric in ("ndcg_at_5", "ndcg_at_k"):
                parts.append(curve(experiment, POOLED, low, choice=choice, metric=metric))
                parts.append(curve(experiment, PER_RANK, high, choice=choice, metric=metric))
                parts.append(curve(experiment, "sequence", lowest, choice=choice, metric=metric))
            for variant in (POOLED, PER_RANK):
                for rank, spread in enumerate([0.4, 0.2, 0.1], start=1):
                    name = f"advantage/std_at_rank_{rank:02d}"
                    parts.append(number(experiment, variant, name, [spread] * 5, choice=choice, need=""))
                    name = name.replace("advantage", "reward")
                    parts.append(number(experiment, variant, name, [spread] * 5, choice=choice, need=""))
    for setting, ahead in (("exact, 8 requests", high), ("noisy, 8 requests", lowest), ("even, 8 requests", low)):
        parts.append(curve("showing", POOLED, low, choice=BEST, setting=setting))
        parts.append(curve("showing", "32 lists shown", ahead, choice=BEST, setting=setting))
    for critic, helped in (("uneven", high), ("even", low)):
        parts.append(curve("uncertainty", "none", low, setting=critic))
        parts.append(curve("uncertainty", "group", helped, setting=critic))
        for scope, spread in (("none", 0.0), ("group", 0.125)):
            for name in ("low", "high", "spread_in_group", "spread_between_groups", "overestimation"):
                parts.append(number("uncertainty", scope, f"weight/{name}", [spread] * 5, setting=critic, need=""))
    for variant, need, heights in (("a", "a", high), ("a", "b", low), ("b", "a", low), ("b", "b", high)):
        parts.append(curve("transfer", variant, heights, need=need))
        parts.append(curve("transfer", JOINT, high, need=need)) if variant == need else None
    for variant, tau in (("a", 0.9), ("b", 0.7), (JOINT, 0.3), (IDEAL, 0.1)):
        parts.append(number("transfer", variant, "tau/b", [tau] * 5, need="a"))
    for variant, cosine in ((POOLED, 0.3), (PER_RANK, 0.4)):
        for metric in ("alignment", "alignment of a batch"):
            parts.append(number("gradients", variant, metric, [cosine] * 5, setting="after 0 steps"))
    results = summarise_planted(pd.concat(parts, ignore_index=True), STATISTICS)
    rates = pd.DataFrame(
        [
            ("rewards", "", POOLED, 0.01, 0.4, True, False),
            ("rewards", "", PER_RANK, 0.05, 0.5, True, True),
            ("showing", "exact, 8 requests", "32 lists shown", 0.001, 0.5, True, True),
        ],
        columns=["experiment", "setting", "variant", "rate", "area", "best", "edge"],
    )
    return results, rates


def test_the_page_says_what_was_measured(settings, study):
    results, rates = study
    page = planted_page(results, rates, settings)
    # areas .75 * .62 and .75 * .52
    sentence = (
        f"NDCG@5, mean over the training, each at its own best learning rate, against *{POOLED}*: "
        f"above it: {PER_RANK} (+0.075); below it: sequence (-0.075); no difference found: none."
    )
    assert sentence in page
    assert "above the same reward pooled: swap causal, per rank (+0.075)" in page
    assert f"The best rate is the smallest or largest that was tried for {PER_RANK} (0.05)." in page
    assert f"{POOLED} ahead of others, own best rate: holds for sequence (-0.075); the other way round for none" in page
    assert "helps: uneven (+0.075); harms: none; no difference found: even (+0.000)." in page
    assert "Standard deviation of the weights: 0.12 to 0.12 within a group" in page
    assert "NDCG@5 untrained 0.000, on the need trained for 0.620, on another 0.520." in page
    assert "no difference found: a (+0.000), b (+0.000)" in page
    assert "ideal lists 0.10, the joint policy 0.30, policies of one need 0.80" in page
    # .4 at rank 1, .1 at rank 3
    assert f"Spread of the advantage at rank 1 over that at the last rank with any: {POOLED} 4 (rank 3)" in page
    assert f"after 0 steps: {PER_RANK} 0.400, {POOLED} 0.300." in page
    for measure, difference in (("NDCG@5, mean over the training", 0.075), ("NDCG@5 at the end", 0.1)):
        assert (
            f"{measure}, *32 lists shown* against *{POOLED}*: ahead: exact, 8 requests ({difference:+.3f}); "
            f"behind: noisy, 8 requests ({-difference:+.3f}); no difference found: even, 8 requests (+0.000)."
        ) in page
    assert "tried for 32 lists shown (0.001; exact, 8 requests)." in page
    # where it began, the mean over the training, where it ended
    row = next(line for line in page.splitlines() if line.startswith("| noisy, 8 requests | 32 lists shown |"))
    assert [cell.split(" [")[0] for cell in row.split(" | ")[2:7]] == ["0.01", "0.000", "0.315", "0.420", "-0.100"]
    assert "warmed up with 20 steps of 32 shown lists (rate 0.012), and train on 256 or 4,096 requests" in page
    assert page.count("\n## ") == 7
    # every line of a table has as many cells as its heading
    for table in [block for block in page.split("\n\n") if block.startswith("|")]:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_too_few_seeds_to_find_anything_are_said(settings, study):
    """5 seeds: the smallest p is 2 / 32, and rewards have two tests at each choice of the rate."""
    results, rates = study
    assert "so that no difference can be found" not in planted_page(results, rates, settings)
    strict = settings.model_copy(update={"statistics": settings.statistics.model_copy(update={"significant": 0.125})})
    page = planted_page(results, rates, strict)
    assert "*rewards*: with 5 seeds no p falls below 0.12 by Holm's correction" in page
    # one more than that and the smallest can be told
    loose = strict.statistics.model_copy(update={"significant": 0.126})
    assert "*rewards*" not in " ".join(Answers(results, rates, loose).few_seeds())
    # a larger family beside it, in which none can be: in the others they still can
    more = results[(results["experiment"] == "rewards") & (results["measure"] == "area ndcg_at_5")]
    wider = pd.concat([results, more[more["choice"] == BEST].assign(variant="another")], ignore_index=True)
    assert "*rewards*" not in " ".join(Answers(wider, rates, loose).few_seeds())


def test_weights_over_a_batch_are_told_with_their_sign(settings, study):
    results, rates = study
    batch = results[(results["experiment"] == "uncertainty") & (results["variant"] == "group")]
    over = (batch["measure"] == "weight/overestimation").to_numpy()
    moved = batch.assign(variant="batch").copy()
    moved.loc[over, "mean"] = [-0.5, 1.0]
    page = planted_page(pd.concat([results, moved], ignore_index=True), rates, settings)
    assert "weighted over the batch, the mean of IDCG over its true value changes by -0.50 to +1.00." in page


def test_the_other_way_round_the_page_says_so(settings, study):
    results, rates = study
    swapped = results.assign(difference=-results["difference"])
    text = planted_text(swapped, rates, settings.statistics)
    assert f"above it: sequence (+0.075); below it: {PER_RANK} (-0.075)" in text
    assert "holds for none; the other way round for sequence (+0.075)" in text
    assert "helps: none; harms: uneven (-0.075)" in text
    assert "ahead: noisy, 8 requests (+0.075); behind: exact, 8 requests (-0.075)" in text
    assert "*" not in text


def test_what_is_not_significant_is_no_difference(settings, study):
    results, rates = study
    text = planted_text(results, rates, settings.statistics.model_copy(update={"significant": 0.01}))
    assert (
        "above it: none; below it: none; no difference found: swap causal, per rank (+0.075), sequence (-0.075)" in text
    )
