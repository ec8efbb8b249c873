import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.rewriting.requests import build_requests, likeness, read_requests
from flexrec.rewriting.settings import RequestSettings

LIMITS = {"train": 9, "validation": 9, "test": 9}
SETTINGS = RequestSettings.model_validate({"limits": LIMITS, "titles": 1, "per_user": 2, "relevant_gain": 0.25})
NO_QUERIES = pd.DataFrame({"user_id": [], "query": [], "split": []})


def made(observations, items, task, settings=SETTINGS, queries=NO_QUERIES, seed=0):
    return build_requests(observations, items, queries, task=task, settings=settings, seed=seed)


def test_likeness_by_hand():
    topics = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    years = np.array([1980.0, 1982.0, np.nan, 1980.0, 1990.0])
    # to the first: one topic of three and 2 of 5 years apart: 1/3 * 3/5; the same topics, year unknown: 1; no topic: 0;
    # ten years apart: 0
    np.testing.assert_allclose(likeness(topics, years, np.array([0]), 5.0), [0, 0.2, 1, 0, 0])
    # to the nearest of several; the last named one shares one topic of two with the third: 1/2
    np.testing.assert_allclose(likeness(topics, years, np.array([1, 4]), 5.0), [0.2, 0, 0.5, 0, 0])


def test_requests_name_liked_films_and_ask_for_what_is_like_them(observations, items, task):
    table = made(observations, items, task)
    assert table["request_id"].tolist() == list(range(len(table)))
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    for row in table.to_dict("records"):
        (named,) = row["named"]
        assert row["query"] == f"films like {titles[named]}"
        own = observations[(observations["user_id"] == row["user_id"]) & (observations["item_id"] == named)].iloc[0]
        assert own["engagement"] > task.engagement_midpoint
        assert own["observed"]
        assert own["split"] == row["split"]
        assert named not in row["documents"]
        assert max(row["gains"]) >= SETTINGS.relevant_gain
        assert row["relevant"] == [gain >= SETTINGS.relevant_gain for gain in row["gains"]]
    # an item without topics is like nothing
    assert not any(7 in [*row["named"], *row["documents"]] for row in table.to_dict("records"))
    assert table.groupby("user_id").size().max() <= 2


def test_titles_are_listed_as_people_do(observations, items, task):
    liked = observations.assign(engagement=5.0, observed=True)
    table = made(liked, items, task, SETTINGS.model_copy(update={"titles": 3}))
    title = items.set_index("item_id")["title"]
    for row in table.to_dict("records"):
        first, second, third = (title[item] for item in row["named"])
        assert row["query"] == f"films like {first}, {second} and {third}"
    assert table["named"].map(len).eq(3).all()


def test_nothing_unobserved_is_read(observations, items, task):
    """No leak: what training and prompts are made of does not know of unobserved interactions."""
    hidden = observations.copy()
    rng = np.random.default_rng(1)
    hidden.loc[~hidden["observed"], "engagement"] = rng.integers(1, 6, (~hidden["observed"]).sum()).astype(float)
    pd.testing.assert_frame_equal(made(observations, items, task), made(hidden, items, task))
    pd.testing.assert_frame_equal(
        made(observations, items, task), made(observations[observations["observed"]], items, task)
    )


def test_a_users_requests_do_not_depend_on_other_users(observations, items, task):
    table, alone = made(observations, items, task), observations[observations["user_id"] != 1]
    kept = table[table["user_id"] != 1].drop(columns="request_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, made(alone, items, task).drop(columns="request_id"))


def test_the_seed_decides(observations, items, task):
    pd.testing.assert_frame_equal(made(observations, items, task, seed=3), made(observations, items, task, seed=3))
    assert any(
        not made(observations, items, task).equals(made(observations, items, task, seed=seed)) for seed in (1, 2)
    )


def test_with_a_limit_every_user_comes_before_any_comes_again(observations, items, task):
    limited = SETTINGS.model_copy(update={"limits": SETTINGS.limits.model_copy(update={"train": 2})})
    alike = observations["item_id"].isin([1, 5, 6, 8])
    table = made(observations.assign(engagement=alike * 5.0), items, task, limited)
    train = table[table["split"] == "train"]
    assert sorted(train["user_id"]) == [0, 1]


def test_a_split_without_requests_is_refused(observations, items, task):
    with pytest.raises(InputError, match="split validation has no request"):
        made(observations[observations["split"] != "validation"], items, task)
    with pytest.raises(InputError, match="split train has no request"):
        made(observations.assign(engagement=1.0), items, task)


@pytest.fixture
def judged(observations, task):
    queries = pd.DataFrame({"user_id": range(6), "query": [f"query {user}" for user in range(6)], "split": None})
    return queries, task.model_copy(update={"context": "query"})


def test_judged_queries_bring_their_own_words_and_gains(observations, items, judged):
    queries, task = judged
    table = made(observations, items, task, queries=queries)
    assert table["query"].tolist() == [f"query {user}" for user in range(6)]
    assert table["named"].map(len).eq(0).all()
    row = table[table["split"] == "test"].iloc[0]
    own = observations[observations["user_id"] == row["user_id"]].set_index("item_id")
    assert sorted(row["documents"]) == sorted(own.index)
    assert row["gains"] == [2.0 ** own.loc[item, "engagement"] - 1 for item in row["documents"]]
    assert row["relevant"] == [own.loc[item, "engagement"] >= 5 for item in row["documents"]]


def test_of_training_queries_observed_judgments_alone_are_read(observations, items, judged):
    queries, task = judged
    table = made(observations, items, task, queries=queries)
    for row in table.to_dict("records"):
        own = observations[observations["user_id"] == row["user_id"]]
        known = own if row["split"] != "train" else own[own["observed"]]
        assert sorted(row["documents"]) == sorted(known["item_id"])
    changed = observations.copy()
    hidden = ~changed["observed"] & (changed["split"] == "train")
    changed.loc[hidden, "engagement"] = 5.0
    pd.testing.assert_frame_equal(table, made(changed, items, task, queries=queries))


def test_a_query_without_a_gain_is_left_out(observations, items, judged):
    queries, task = judged
    linear = task.model_copy(update={"gain": "linear"})
    none = observations.assign(engagement=observations["engagement"].where(observations["user_id"] != 0, 0.0))
    assert 0 not in made(none, items, linear, queries=queries)["user_id"].tolist()


def test_reading_back(observations, items, task, tmp_path):
    table = made(observations, items, task)
    table.to_parquet(tmp_path / "requests.parquet")
    again = read_requests(pd.read_parquet(tmp_path / "requests.parquet"), "test")
    assert again == read_requests(table, "test")
    one = again[0]
    assert one.relevant == {item for item, gain in one.gains.items() if gain >= SETTINGS.relevant_gain}
