import numpy as np
import pytest
from pydantic import ValidationError

from flexrec.ranking.columns import Columns
from flexrec.sources import SOURCES
from flexrec.sources.fabricated import DAY, Fabricated


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    source = SOURCES["fabricated"]()
    tables = source.read(source.fetch(tmp_path_factory.mktemp("raw")), None)
    return tables.interactions, tables.items


def test_size_of_the_default_world(tables):
    interactions, items = tables
    assert interactions[Columns.USER_ID].nunique() == 120
    assert len(items) == 200
    assert items[Columns.TITLE].is_unique
    per_user = interactions.groupby(Columns.USER_ID).size()
    assert per_user.between(24, 48).all()
    assert per_user.min() < 28 < 44 < per_user.max()
    span = interactions[Columns.TIMESTAMP].max() - interactions[Columns.TIMESTAMP].min()
    assert 55 * DAY < span <= 60 * DAY


def test_titles_pass_through_the_real_parser(tables):
    titles = tables[1][Columns.TITLE]
    assert titles.str.startswith("The ").any()
    assert not titles.str.contains(", The").any()
    assert titles.str.contains("Électric|Café|Señor").any()  # latin-1


def test_ratings_use_the_whole_scale_and_follow_quality(tables):
    interactions, _ = tables
    shares = interactions[Columns.ENGAGEMENT].value_counts(normalize=True)
    assert set(shares.index) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert shares.max() < 0.5
    # item means differ by more than chance: variance between items against that of shuffled ratings
    between = interactions.groupby(Columns.ITEM_ID)[Columns.ENGAGEMENT].mean().var()
    shuffled = interactions.assign(
        engagement=np.random.default_rng(0).permutation(interactions[Columns.ENGAGEMENT].to_numpy())
    )
    assert between > 2 * shuffled.groupby(Columns.ITEM_ID)[Columns.ENGAGEMENT].mean().var()


def test_items_have_bursts(tables):
    interactions, _ = tables
    busiest = interactions[Columns.ITEM_ID].value_counts().index[:20]

    def mean_peak(timestamps):
        """Mean over the busiest items of the largest share of an item's ratings in one of ten windows of six days."""
        window = (timestamps - timestamps.min()) // (6 * DAY)
        own = [window[interactions[Columns.ITEM_ID] == item] for item in busiest]
        return np.mean([part.value_counts(normalize=True).max() for part in own])

    timestamps = interactions[Columns.TIMESTAMP]
    shuffled = timestamps.sample(frac=1, random_state=0).set_axis(timestamps.index)
    assert mean_peak(timestamps) > 1.4 * mean_peak(shuffled)


def test_same_settings_same_bytes_other_seed_other_world(tmp_path):
    small = Fabricated(users=10, items=40, fewest=5, most=8)
    first = small.fetch(tmp_path / "a").read_bytes()
    assert small.fetch(tmp_path / "b").read_bytes() == first
    assert Fabricated(users=10, items=40, fewest=5, most=8, seed=1).fetch(tmp_path / "c").read_bytes() != first
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_more_ratings_than_items_are_refused():
    with pytest.raises(ValidationError, match="fewest <= most <= items"):
        Fabricated(items=40, fewest=24, most=48)
