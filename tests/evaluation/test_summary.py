import json

import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.evaluation import headline_metrics, summarise
from flexrec.evaluation.names import METRICS, QUALITY_METRICS
from flexrec.ranking.statistics import bootstrap_interval


def metrics_of(method: str, values: list[float], need: str = "trend", users: list[int] | None = None) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "method": method,
            "need": need,
            "instance_id": np.arange(len(values)),
            "user_id": users or list(range(len(values))),
        }
    )
    return table.assign(**dict.fromkeys(METRICS, 0.0)).assign(ndcg_at_5=values)


def pick(summary: pd.DataFrame, method: str, metric: str = "ndcg_at_5", reference: str | None = None) -> pd.Series:
    rows = summary[(summary["method"] == method) & (summary["metric"] == metric)]
    rows = rows[rows["reference"].isna()] if reference is None else rows[rows["reference"] == reference]
    assert len(rows) == 1
    return rows.iloc[0]


THREE = pd.concat(
    [
        metrics_of("low", [0.1, 0.2, 0.3]),
        metrics_of("middle", [0.2, 0.2, 0.2]),
        metrics_of("high", [0.5, 0.5, 0.5]),
    ]
)


def test_means_differences_and_tests_by_hand():
    summary = summarise(THREE, references={"high": ("low", "middle"), "middle": ("low",)}, seed=0)
    alone = pick(summary, "low")
    assert alone["mean"] == pytest.approx(0.2, abs=1e-12)
    assert (alone["n"], alone["users"]) == (3, 3)
    assert alone[["reference", "p", "p_holm", "difference", "difference_low", "difference_high"]].isna().all()

    ahead = pick(summary, "high", reference="low")
    # paired differences 0.4, 0.3, 0.2: the largest sum of 2^3 sign patterns, reached by two of them (all + and all -)
    assert ahead["difference"] == pytest.approx(0.3, abs=1e-12)
    assert ahead["p"] == pytest.approx(2 / 8, abs=1e-12)
    # every resample of the differences lies between the smallest and the largest
    assert 0.2 - 1e-12 <= ahead["difference_low"] < 0.3 < ahead["difference_high"] <= 0.4 + 1e-12
    constant = pick(summary, "high", reference="middle")
    assert constant[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([0.3] * 3)

    # differences 0.1, 0, -0.1 sum to 0, which every pattern reaches
    assert pick(summary, "middle", reference="low")["p"] == 1.0
    # Holm over the three p of this metric: 1/4 three times over, 1/4 kept at 3/4, then 1
    adjusted = [
        pick(summary, *pair).loc["p_holm"] for pair in (("high", "ndcg_at_5", "low"), ("middle", "ndcg_at_5", "low"))
    ]
    assert adjusted == pytest.approx([0.75, 1.0])


def test_a_row_per_reference_and_none_for_diagnostics():
    summary = summarise(THREE, references={"high": ("low", "middle")}, seed=0)
    assert len(summary) == 2 * len(METRICS) + len(METRICS) + len(QUALITY_METRICS)
    diagnostics = summary[~summary["metric"].isin(QUALITY_METRICS)]
    assert diagnostics["p"].isna().all()
    assert not summary.duplicated(["method", "metric", "reference"]).any()


def test_users_are_the_unit():
    # one user with three equal instances and one with one: mean (3 * 0 + 1) / 4
    table = metrics_of("m", [0.0, 0.0, 0.0, 1.0], users=[7, 7, 7, 8])
    row = pick(summarise(table, references={}, seed=0), "m")
    assert (row["mean"], row["n"], row["users"]) == (0.25, 4, 2)
    assert (row["low"], row["high"]) == (0.0, 1.0)


def test_interval_is_the_bootstrap_of_the_settings():
    values = np.random.default_rng(1).uniform(size=30)
    row = pick(summarise(metrics_of("m", list(values)), references={}, confidence=0.8, resamples=99, seed=5), "m")
    expected = bootstrap_interval(values, np.arange(30), confidence=0.8, resamples=99, seed=5)
    assert (row["mean"], row["low"], row["high"]) == expected


def test_deterministic_and_independent_of_row_order_and_company():
    generator = np.random.default_rng(2)
    table = pd.concat([metrics_of(name, list(generator.uniform(size=25))) for name in "abc"], ignore_index=True)
    summary = summarise(table, references={"a": ("b",)}, seed=1)
    pd.testing.assert_frame_equal(summary, summarise(table.copy(), references={"a": ("b",)}, seed=1))
    keys = ["method", "need", "metric"]
    shuffled = summarise(table.sample(frac=1, random_state=0), references={"a": ("b",)}, seed=1)
    pd.testing.assert_frame_equal(
        summary.sort_values(keys).reset_index(drop=True), shuffled.sort_values(keys).reset_index(drop=True)
    )
    without = summarise(table[table["method"] != "c"], references={"a": ("b",)}, seed=1)
    pd.testing.assert_frame_equal(summary[summary["method"] != "c"].reset_index(drop=True), without)


def test_a_reference_without_the_need_gives_no_comparison():
    table = pd.concat([THREE, metrics_of("high", [0.9, 0.8, 0.7], need="interest")])
    summary = summarise(table, references={"high": ("low",)}, seed=0)
    interest = summary[summary["need"] == "interest"]
    assert interest["reference"].isna().all()
    assert len(interest) == len(METRICS)


@pytest.mark.parametrize(
    ("references", "message"),
    [({"hgh": ("low",)}, "no method 'hgh'.*low, middle, high"), ({"high": ("lo",)}, "no method 'lo'")],
)
def test_refuses_unknown_names(references, message):
    with pytest.raises(InputError, match=message):
        summarise(THREE, references=references, seed=0)


def test_refuses_a_comparison_on_different_instances():
    table = THREE[(THREE["method"] != "low") | (THREE["instance_id"] != 2)]
    with pytest.raises(InputError, match=r"'high' and 'low'.*need 'trend' \(3 and 2, for example 2\)"):
        summarise(table, references={"high": ("low",)}, seed=0)


def test_survives_parquet(tmp_path):
    summary = summarise(THREE, references={"high": ("low",)}, seed=0)
    summary.to_parquet(tmp_path / "summary.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "summary.parquet"), summary)


def test_headline_metrics_are_plain_json():
    nested = headline_metrics(summarise(THREE, references={"high": ("low",)}, seed=0))
    assert json.loads(json.dumps(nested)) == nested
    assert nested["trend"]["high"]["ndcg_at_5"] == 0.5
    assert list(nested["trend"]) == ["low", "middle", "high"]
    assert set(nested["trend"]["low"]) == set(METRICS)
