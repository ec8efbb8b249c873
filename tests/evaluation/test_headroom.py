"""The headroom: the baselines where it knows as much, never what it is asked about, and whatever taste there is."""

import numpy as np
import pandas as pd
import pytest

from flexrec.baselines import baseline_rankings
from flexrec.baselines.settings import FittedSettings, ItemMeanSettings
from flexrec.critic.settings import FactorisationSettings
from flexrec.errors import InputError
from flexrec.evaluation.headroom import (
    METRICS,
    REFERENCE,
    ROWS,
    _own,
    compare_headroom,
    headroom_metrics,
)
from flexrec.evaluation.rankings import evaluate_rankings
from flexrec.ranking.metrics import ndcg
from flexrec.ranking.needs import EngagementRelevance, Factor, Need, Term

FITTED = FittedSettings(
    item_mean=ItemMeanSettings(strength=0.5),
    mf=FactorisationSettings(factors=2, bias_penalty=1.0, factor_penalty=1.0, iterations=10),
)
RESAMPLING = {"confidence": 0.95, "resamples": 200, "permutations": 500, "seed": 0}
ITEMS, K = 30, 5


def world(*, personal: float, observed: float = 0.3, users: int = 120, seed: int = 0) -> tuple[pd.DataFrame, ...]:
    """Two kinds of users, two kinds of items: labelled instances, their labels, training and held-out interactions.

    An engagement is 3, and `personal` more where the kinds agree and less where they do not. Times are events.
    """
    rng = np.random.default_rng(seed)
    rows, instances, labels = [], [], []
    for user in range(users):
        items = rng.permutation(ITEMS)
        engagements = 3 + personal * np.where((items + user) % 2, -1, 1) + rng.normal(0, 0.3, ITEMS)
        split = "train" if user < users // 2 else "test"
        seen = rng.random(ITEMS) < observed
        rows += [
            (user, int(item), user * ITEMS + place, float(value), split, bool(mark))
            for place, (item, value, mark) in enumerate(zip(items, engagements, seen, strict=True))
        ]
        if split == "train":
            continue
        asked, before = ITEMS - K, np.flatnonzero(seen[: ITEMS - K])[-2:]
        instances.append(
            {
                "instance_id": user,
                "user_id": user,
                "split": split,
                "query_time": user * ITEMS + asked,
                "history_items": items[before].tolist(),
                "history_engagements": engagements[before].tolist(),
                "candidates": items[asked:].tolist(),
                **{name: [0.0] * K for name in ("similarity", "niche", "trend", "popularity", "quality", "recency")},
            }
        )
        labels.append({"instance_id": user, "engagement": engagements[asked:].tolist()})
    columns = ["user_id", "item_id", "timestamp", "engagement", "split", "observed"]
    interactions = pd.DataFrame(rows, columns=columns).assign(event_id=lambda table: table["timestamp"])
    training = interactions["split"] == "train"
    return (
        pd.DataFrame(instances),
        pd.DataFrame(labels),
        interactions[training].reset_index(drop=True),
        interactions[~training].reset_index(drop=True),
    )


def measured(*tables: pd.DataFrame) -> pd.DataFrame:
    # a critic that takes the first candidate for the best
    said = {"mean": [np.arange(K, 0.0, -1)] * len(tables[0]), "variance": [np.ones(K)] * len(tables[0])}
    predictions = pd.DataFrame({"instance_id": tables[0]["instance_id"], **said})
    return headroom_metrics(*tables, predictions, gain="linear", threshold=4.0, fitted=FITTED, seed=0)


def test_with_what_the_baselines_know_it_is_the_baselines() -> None:
    held_out, labels, training, own = world(personal=1.0)
    found = measured(held_out, labels, training, own)
    need = Need(instruction="x", terms=(Term(factors=(Factor(signal="engagement"),)),), relevant=EngagementRelevance())
    rankings = baseline_rankings(
        held_out,
        pd.concat([training, own]),
        pd.DataFrame(),
        pd.DataFrame(),
        {"engagement": need},
        methods=["item_mean", "mf"],
        gain="linear",
        seed=0,
        fitted=FITTED,
    )
    expected = evaluate_rankings(rankings, held_out, labels, {"engagement": need}, kind="linear", threshold=4.0)
    for baseline, row in (("item_mean", REFERENCE), ("mf", "items_observed-user_shown")):
        pd.testing.assert_frame_equal(
            found[found["method"] == row].drop(columns="method").reset_index(drop=True),
            expected[expected["method"] == baseline].drop(columns="method").reset_index(drop=True),
        )


def test_the_critic_is_its_own_prediction() -> None:
    held_out, labels, training, own = world(personal=1.0)
    found = measured(held_out, labels, training, own).query("method == 'critic'")
    engagements = np.array(labels["engagement"].to_list())
    assert found["ndcg_at_10"].to_numpy() == pytest.approx(ndcg(engagements))


def test_what_is_known_of_the_user_by_hand() -> None:
    held_out = pd.DataFrame(
        {"user_id": [7, 7, 8], "query_time": [20, 40, 20], "candidates": [[1, 2], [3, 9], [1, 2]]}, index=[5, 6, 7]
    )
    own = pd.DataFrame(
        [(7, 1, 10, 1.0, True), (7, 3, 15, 2.0, True), (7, 4, 16, 3.0, False), (7, 5, 20, 4.0, True)],
        columns=["user_id", "item_id", "timestamp", "engagement", "observed"],
    )
    # item 1 is a candidate of the first request, item 3 of the second; item 4 is hidden, item 5 not before time 20
    known = _own(held_out, own, "linear", hindsight=False)
    assert (known.owners.tolist(), known.items.tolist(), known.gains.tolist()) == (
        [0, 1, 1],
        [3, 1, 5],
        [2.0, 1.0, 4.0],
    )
    known = _own(held_out, own, "exponential", hindsight=True)
    assert (known.owners.tolist(), known.items.tolist()) == ([0, 0, 0, 1, 1, 1], [3, 4, 5, 1, 4, 5])
    assert known.gains.tolist() == [3.0, 7.0, 15.0, 1.0, 7.0, 15.0]


def test_the_candidates_labels_are_never_read() -> None:
    held_out, labels, training, own = world(personal=1.0)
    asked = own.merge(held_out[["user_id", "candidates"]].explode("candidates"), on="user_id")
    events = asked.loc[asked["item_id"] == asked["candidates"], "event_id"]
    other = own.assign(engagement=own["engagement"].where(~own["event_id"].isin(events), 99.0))
    assert (other["engagement"] == 99.0).sum() == K * len(held_out)
    pd.testing.assert_frame_equal(
        measured(held_out, labels, training, own), measured(held_out, labels, training, other)
    )


def test_it_finds_taste_where_there_is_some_and_none_where_there_is_none() -> None:
    everything = "items_all-user_everything"
    found = compare_headroom(measured(*world(personal=1.0)), RESAMPLING)
    assert (found["instances"], found["users"]) == (60, 60)
    assert set(found["rows"]) == {row.name for row in ROWS}
    rows = {name: row["ndcg_at_5"] for name, row in found["rows"].items()}
    # taste is all there is: the order is nearly ideal, and knowing less of the user is worth less
    assert rows[everything]["mean"] > 0.98
    assert rows[everything]["difference"] > rows["items_all-user_shown"]["difference"] > 0.02
    assert rows[everything]["difference_low"] > 0
    assert rows[everything]["p_holm"] < 0.05
    assert rows[everything]["difference"] == pytest.approx(rows[everything]["mean"] - rows[REFERENCE]["mean"])
    assert "difference" not in rows[REFERENCE]
    assert set(found["rows"][everything]) == set(METRICS)

    flat = compare_headroom(measured(*world(personal=0.0)), RESAMPLING)["rows"]
    assert abs(flat[everything]["ndcg_at_5"]["difference"]) < 0.01


def test_nothing_to_ask_or_to_learn_from_is_refused() -> None:
    held_out, labels, training, own = world(personal=1.0, users=8)
    with pytest.raises(InputError, match="no instance of a held-out user; lower K or raise the density"):
        measured(held_out.iloc[:0], labels, training, own)
    with pytest.raises(InputError, match="no interaction of a training user is observed; raise the density"):
        measured(held_out, labels, training.assign(observed=False), own)
