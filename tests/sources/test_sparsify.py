import hashlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources import sparsify as module
from flexrec.sources.sparsify import marked
from flexrec.tabular import as_table, read_parquet, write_parquet


def sparsify(interactions, **settings):
    """The table `observations`, by event."""
    marks = module.sparsify(interactions, **settings)
    table = marked(as_table(interactions), marks)
    return table.order_by(Columns.EVENT_ID).to_pandas()


def interactions_of(sizes):
    """One user per size; event ids and items are shared out in turn."""
    users = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    count = len(users)
    return pd.DataFrame(
        {
            Columns.USER_ID: users.astype(np.int64),
            Columns.ITEM_ID: np.concatenate([np.arange(size) for size in sizes]).astype(np.int64),
            Columns.TIMESTAMP: np.arange(count, dtype=np.int64) + 10**9,
            Columns.ENGAGEMENT: (np.arange(count) % 5 + 1).astype(np.float64),
            Columns.EVENT_ID: np.arange(count, dtype=np.int64),
        }
    )


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def oracle(interactions, density, seed):
    """The definition, in plain Python: (observed event ids, users in the order in which splits are dealt)."""
    observed = set()
    for user, own in interactions.groupby(Columns.USER_ID)[Columns.EVENT_ID]:
        quota = max(1, math.floor(density * len(own) + 0.5))
        observed |= set(sorted(own, key=lambda event: md5(f"{seed}|{event}|{user}"))[:quota])
    users = sorted(interactions[Columns.USER_ID].unique(), key=lambda user: md5(f"{seed}|split|{user}"))
    return observed, users


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=25),
    density=st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 5),
)
def test_against_the_definition_in_plain_python(sizes, density, seed):
    interactions = interactions_of(sizes)
    result = sparsify(interactions, density=density, seed=seed)
    observed, users = oracle(interactions, density, seed)
    assert set(result.loc[result[Columns.OBSERVED], Columns.EVENT_ID]) == observed
    held_out = max(1, math.floor(0.1 * len(users) + 0.5))
    expected = ["train"] * (len(users) - 2 * held_out) + ["validation"] * held_out + ["test"] * held_out
    split_of = result.drop_duplicates(Columns.USER_ID).set_index(Columns.USER_ID)[Columns.SPLIT]
    assert split_of[users].tolist() == expected
    pd.testing.assert_frame_equal(result[list(interactions)], interactions)


def test_density_one_observes_everything():
    assert sparsify(interactions_of([3, 1, 7]), density=1.0, seed=0)[Columns.OBSERVED].all()


def test_quotas_and_exact_shares():
    result = sparsify(interactions_of([1, 4, 14, 15, 25] * 20), density=0.1, seed=3)
    # 0.1 * (1, 4, 14, 15, 25) = .1, .4, 1.4, 1.5, 2.5 -> rounded half up 0, 0, 1, 2, 3 -> at least 1: 1, 1, 1, 2, 3
    assert result.groupby(Columns.USER_ID)[Columns.OBSERVED].sum().tolist() == [1, 1, 1, 2, 3] * 20
    assert result.drop_duplicates(Columns.USER_ID)[Columns.SPLIT].value_counts().to_dict() == {
        "train": 80,
        "validation": 10,
        "test": 10,
    }
    assert (result.groupby(Columns.USER_ID)[Columns.SPLIT].nunique() == 1).all()


def test_row_order_does_not_matter_and_the_seed_does():
    interactions = interactions_of([20] * 30)
    first = sparsify(interactions, density=0.2, seed=1)
    shuffled = sparsify(interactions.sample(frac=1, random_state=0), density=0.2, seed=1)
    pd.testing.assert_frame_equal(first, shuffled)
    other = sparsify(interactions, density=0.2, seed=2)
    assert (first[Columns.OBSERVED] != other[Columns.OBSERVED]).any()
    assert (first[Columns.SPLIT] != other[Columns.SPLIT]).any()


def test_engagement_plays_no_part():
    interactions = interactions_of([20] * 30)
    changed = interactions.assign(engagement=-1.0)
    kept = [Columns.EVENT_ID, Columns.OBSERVED, Columns.SPLIT]
    pd.testing.assert_frame_equal(
        sparsify(interactions, density=0.2, seed=1)[kept], sparsify(changed, density=0.2, seed=1)[kept]
    )


def test_a_table_of_an_engine(tmp_path, duckdb_engine):
    interactions = interactions_of([5, 6, 7, 8])
    write_parquet(as_table(interactions), tmp_path / "interactions.parquet", duckdb_engine)
    table = read_parquet(tmp_path / "interactions.parquet", duckdb_engine)
    pd.testing.assert_frame_equal(sparsify(table, density=0.5, seed=0), sparsify(interactions, density=0.5, seed=0))


@pytest.mark.parametrize("margin", [-2.0, 0.0, 5.0, 1000.0])
def test_the_margin_saves_time_and_changes_nothing(monkeypatch, margin):
    # without a margin the low digests are too few for some user, and everything is sorted
    interactions = interactions_of([3, 10, 40, 100, 150, 200, 400])
    monkeypatch.setattr(module, "MARGIN", margin)
    for seed in range(3):
        observed, _ = oracle(interactions, 0.1, seed)
        result = sparsify(interactions, density=0.1, seed=seed)
        assert set(result.loc[result[Columns.OBSERVED], Columns.EVENT_ID]) == observed


def test_the_share_that_is_enough_for_a_quota():
    quota, size = np.array([1, 10, 200, 7, 1]), np.array([3, 100, 2000, 7, 1])
    share = module._enough(quota, size.astype(float))
    # by definition: so far above what is to be expected of it does the quota not lie
    spread = module.MARGIN * np.sqrt(size * share * (1 - share))
    np.testing.assert_allclose(size * share - spread, quota, atol=1e-9)
    assert [module._text_of(one) for one in (0.0, 0.1, 1 - 2**-32, 1.0)] == ["00000000", "19999999", "ffffffff", "g"]


def queries_of(splits):
    return pd.DataFrame({Columns.USER_ID: range(1, len(splits) + 1), Columns.QUERY: "a", Columns.SPLIT: splits})


def test_given_splits_are_kept_and_the_rest_is_dealt():
    interactions = interactions_of([2] * 20)
    given = ["train"] + [None] * 19
    result = sparsify(interactions, density=0.5, seed=0, queries=queries_of(given))
    split_of = result.drop_duplicates(Columns.USER_ID).set_index(Columns.USER_ID)[Columns.SPLIT]
    assert split_of[1] == "train"
    # of 19 users a tenth is 1.9, rounded 2
    assert split_of.loc[2:].value_counts().to_dict() == {"train": 15, "validation": 2, "test": 2}


def test_nobody_is_dealt_to_a_test_split_that_is_given():
    given = ["test"] * 5 + [None] * 18
    result = sparsify(interactions_of([2] * 23), density=0.5, seed=0, queries=queries_of(given))
    split_of = result.drop_duplicates(Columns.USER_ID).set_index(Columns.USER_ID)[Columns.SPLIT]
    assert set(split_of.loc[:5]) == {"test"}
    # of 18 users 0.1 / 0.9 is 2
    assert split_of.loc[6:].value_counts().to_dict() == {"train": 16, "validation": 2}


def test_all_splits_given():
    given = ["train", "validation", "test"]
    result = sparsify(interactions_of([2, 2, 2]), density=0.5, seed=0, queries=queries_of(given))
    assert result.drop_duplicates(Columns.USER_ID)[Columns.SPLIT].tolist() == given


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_density_out_of_range(density):
    with pytest.raises(InputError, match="density"):
        sparsify(interactions_of([3, 3, 3]), density=density, seed=0)


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_out_of_range(shares):
    with pytest.raises(InputError, match="shares"):
        sparsify(interactions_of([3, 3, 3]), density=0.5, seed=0, shares=shares)


def test_too_few_users():
    with pytest.raises(InputError, match="2 users are too few"):
        sparsify(interactions_of([3, 3]), density=0.5, seed=0)


def test_a_split_may_be_left_out():
    result = sparsify(interactions_of([3, 3]), density=0.5, seed=0, shares=(1.0, 0.0, 0.0))
    assert set(result[Columns.SPLIT]) == {"train"}
