"""Predictions by neighbours: by hand on a 4 x 4 matrix, and against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest

from flexrec.critic.neighbours import neighbour_gains
from flexrec.critic.settings import NeighbourSettings
from flexrec.errors import InputError

ALONE = NeighbourSettings(count=40, shrinkage=0.0, mean_strength=1.0)


def observations(rows: dict[int, dict[int, float]]) -> pd.DataFrame:
    """Observed interactions of training users: gains by user and item."""
    table = pd.DataFrame(
        [(user, item, float(gain)) for user, seen in rows.items() for item, gain in seen.items()],
        columns=["user_id", "item_id", "engagement"],
    )
    return table.assign(event_id=range(len(table)), timestamp=0, observed=True, split="train")


def asking(user: int, candidates: list[int], history: dict[int, float] | None = None) -> pd.DataFrame:
    seen = history or {}
    row = {"instance_id": 0, "user_id": user, "candidates": candidates, "history_items": list(seen)}
    return pd.DataFrame([row | {"history_engagements": [float(value) for value in seen.values()]}])


# user 1 = (3, 4, ., .), 2 = (., 4, 3, .), 3 = (3, ., 4, .), 4 = (., ., ., 2); the first three have norm 5
WORLD = {1: {10: 3, 20: 4}, 2: {20: 4, 30: 3}, 3: {10: 3, 30: 4}, 4: {40: 2}}


def by_users(instances: pd.DataFrame, settings: NeighbourSettings = ALONE, world: dict = WORLD) -> list[float]:
    return neighbour_gains(instances, observations(world), "linear", settings, by="users")[0].tolist()


def by_items(instances: pd.DataFrame, settings: NeighbourSettings = ALONE) -> list[float]:
    return neighbour_gains(instances, observations(WORLD), "linear", settings, by="items")[0].tolist()


def test_by_users_by_hand() -> None:
    # cosines of user 1: 4 * 4 / 25 = .64 with 2, 3 * 3 / 25 = .36 with 3, 0 with 4
    # item 30: (.64 * 3 + .36 * 4) / (.64 + .36) = 3.36
    # item 40: no neighbour has it. Its shrunken mean among others: they gained 4, 3, 3, 4, 2, on average 3.2;
    # (2 + 1 * 3.2) / (1 + 1) = 2.6. Item 50: nobody has it, 3.2 remains
    assert by_users(asking(1, [30, 40, 50])) == pytest.approx([3.36, 2.6, 3.2])
    # the nearest alone is user 2
    assert by_users(asking(1, [30]), ALONE.model_copy(update={"count": 1})) == pytest.approx([3.0])
    # item 30's mean among others is (3 + 4 + 3.2) / 3 = 3.4; (3.36 + .5 * 3.4) / 1.5
    assert by_users(asking(1, [30]), ALONE.model_copy(update={"shrinkage": 0.5})) == pytest.approx([5.06 / 1.5])


def test_by_items_by_hand() -> None:
    # item 10 = (3, 0, 3, 0), 20 = (4, 4, 0, 0), 30 = (0, 3, 4, 0): cosines of 30 are 12 / (5 sqrt 18) with 10 and
    # 12 / (5 sqrt 32) with 20; (3 / (3 sqrt 2) + 4 / (4 sqrt 2)) / (1 / (3 sqrt 2) + 1 / (4 sqrt 2)) = 2 / (7 / 12)
    assert by_items(asking(1, [30, 40, 50])) == pytest.approx([24 / 7, 2.6, 3.2])
    # the nearer of the two is 10, of which user 1 gained 3
    assert by_items(asking(1, [30]), ALONE.model_copy(update={"count": 1})) == pytest.approx([3.0])


def test_a_gain_of_zero_is_a_label() -> None:
    world = WORLD | {2: {20: 4, 30: 0}}
    # user 2 = (., 4, 0, .): cosine 16 / (5 * 4) = .8, and a 0 that counts: .36 * 4 / (.8 + .36)
    assert by_users(asking(1, [30]), world=world) == pytest.approx([1.44 / 1.16])
    assert np.isnan(by_users(asking(2, [30]), world=world)).all()


def test_a_user_that_is_not_in_training_is_known_by_its_history() -> None:
    # the history of user 9 is what user 1 observed; nobody is left out of the means
    stranger = asking(9, [30, 20], {10: 3, 20: 4})
    values = by_users(stranger)
    assert values[0] == pytest.approx(3.36)
    assert math.isnan(values[1])
    assert by_items(stranger)[0] == pytest.approx(24 / 7)
    # without any, the mean remains: item 30 gained 3 and 4, all seven together 23; (7 + 23 / 7) / 3
    for predict in (by_users, by_items):
        assert predict(asking(9, [30])) == pytest.approx([(7 + 23 / 7) / 3])


@pytest.mark.parametrize("predict", [by_users, by_items])
def test_no_prediction_reads_its_own_label(predict) -> None:
    values = predict(asking(1, [10, 30, 20]))
    assert np.isnan(values).tolist() == [True, False, True]


def plain(world, row: dict, candidate: int, settings: NeighbourSettings, by: str) -> float:
    """The formula, one dictionary after the other."""
    seen = world.observations.query("observed and split == 'train'")
    gains: dict[int, dict[int, float]] = {}
    for user, item, rating in zip(seen["user_id"], seen["item_id"], seen["engagement"], strict=True):
        gains.setdefault(user, {})[item] = 2.0**rating - 1
    user = row["user_id"]
    own = gains.get(user)
    if own is None:
        own = {i: 2.0**r - 1 for i, r in zip(row["history_items"], row["history_engagements"], strict=True)}
    if candidate in own:
        return math.nan

    def cosine(a: dict[int, float], b: dict[int, float]) -> float:
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        return sum(a[key] * b[key] for key in a.keys() & b.keys()) / norms if norms else 0.0

    others = {name: table for name, table in gains.items() if name != user}
    everything = [gain for table in others.values() for gain in table.values()]
    of_item = [table[candidate] for table in others.values() if candidate in table]
    average = sum(everything) / len(everything)
    mean = (sum(of_item) + settings.mean_strength * average) / (len(of_item) + settings.mean_strength)
    if by == "users":
        found = [(cosine(own, table), name, table[candidate]) for name, table in others.items() if candidate in table]
    else:
        vectors: dict[int, dict[int, float]] = {}
        for name, table in gains.items():
            for item, gain in table.items():
                vectors.setdefault(item, {})[name] = gain
        mine = vectors.get(candidate, {})
        found = [(cosine(mine, vectors.get(item, {})), item, gain) for item, gain in own.items()]
    nearest = sorted((entry for entry in found if entry[0] > 0), key=lambda entry: (-entry[0], entry[1]))
    nearest = nearest[: settings.count]
    if not nearest:
        return mean
    total = sum(weight for weight, *_ in nearest) + settings.shrinkage
    return (sum(weight * gain for weight, _, gain in nearest) + settings.shrinkage * mean) / total


@pytest.mark.parametrize("by", ["users", "items"])
@pytest.mark.parametrize("count", [2, 40])
def test_against_plain_loops(world, by, count) -> None:
    settings = NeighbourSettings(count=count, shrinkage=0.3, mean_strength=4.0)
    made = neighbour_gains(world.labelled_instances, world.observations, "exponential", settings, by=by)
    rows = world.labelled_instances.to_dict("records")
    wanted = [[plain(world, row, item, settings, by) for item in row["candidates"]] for row in rows]
    assert 10 < np.isnan(wanted).sum() < 0.5 * np.size(wanted)
    np.testing.assert_allclose(np.stack(made), wanted, rtol=1e-9)


@pytest.mark.parametrize("by", ["users", "items"])
def test_hidden_labels_change_nothing(world, by) -> None:
    hidden = ~world.observations["observed"] | (world.observations["split"] != "train")
    spoilt = world.observations.assign(engagement=world.observations["engagement"].mask(hidden, 5.0))
    settings = NeighbourSettings()
    tables = (world.observations, spoilt)
    before, after = (
        neighbour_gains(world.labelled_instances, table, "exponential", settings, by=by) for table in tables
    )
    np.testing.assert_array_equal(np.stack(before), np.stack(after))


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match="no interaction of a training user is observed"):
        by_users(asking(1, [10]), world={1: {}})
    assert neighbour_gains(asking(1, [10]).head(0), observations(WORLD), "linear", ALONE, by="users") == []
