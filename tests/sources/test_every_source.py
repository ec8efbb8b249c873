"""What every source must hold, from its raw files to labelled instances; a new source needs an entry in `RAW`."""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest
import yaml

from flexrec.ranking.columns import SPLITS, Columns
from flexrec.ranking.schemas import (
    DailyCounts,
    Instances,
    Interactions,
    Items,
    LabelledInstances,
    Observations,
    Queries,
    TrueLabels,
)
from flexrec.ranking.task import TaskSettings
from flexrec.retrieval.embedders import HashingSettings, embed_texts
from flexrec.retrieval.instances import build_instances
from flexrec.retrieval.signals import label_signals
from flexrec.retrieval.star import StarSettings
from flexrec.sources import SOURCES, source_of
from flexrec.sources.fabricator.esci import write_esci
from flexrec.sources.fabricator.kuairec import write_kuairec
from flexrec.sources.fabricator.movielens import write_ml_1m
from flexrec.sources.kuairec import SAMPLE_FILE
from flexrec.sources.kuairec_videos import CAPTIONS_FILE, CATEGORIES_FILE
from flexrec.sources.movielens import ML_100K_FOLDER
from flexrec.sources.sparsify import marked, sparsify
from flexrec.sources.tables import Tables, daily_counts_table, queries_table

DENSITY, SEED = 0.1, 3
COUNTS = {"train": 40, "validation": 12, "test": 12}


def ml_100k(folder: Path) -> Path:
    """The package that carries MovieLens-100K, with a made-up world in it."""
    with zipfile.ZipFile(write_ml_1m(folder, 0.002, 1)) as zipped:
        movies = zipped.read("ml-1m/movies.dat").decode("latin-1").splitlines()
        ratings = zipped.read("ml-1m/ratings.dat").decode("latin-1").splitlines()
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for number, title, genres in (line.split("::") for line in movies):
        items.append(f"{number}\t{title[:-7]}\t{title[-5:-1]}\t{genres.replace('|', ' ')}")
    events = ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *(r.replace("::", "\t") for r in ratings)]
    archive = folder / "carrier.whl"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(f"{ML_100K_FOLDER}/ml-100k.item", "\n".join(items) + "\n")
        zipped.writestr(f"{ML_100K_FOLDER}/ml-100k.inter", "\n".join(events) + "\n")
    return archive


def kuairec(folder: Path) -> Path:
    write_kuairec(folder, 0.0005, 1, truth=False)
    return source_of("kuairec", {"md5": ""}).fetch(folder)


def kuairec_sample(folder: Path) -> Path:
    """The side tables, and pairs without header and time."""
    whole = kuairec(folder)
    pairs = pd.read_csv(whole / "small_matrix.csv")[["user_id", "video_id", "watch_ratio"]]
    target = folder / "kuairec-sample"
    target.mkdir()
    pairs.groupby("user_id").sample(40, random_state=0).to_csv(target / SAMPLE_FILE, header=False, index=False)
    for name in (CATEGORIES_FILE, CAPTIONS_FILE):
        shutil.copy(whole / name, target / name)
    return target


def own(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    users, songs = np.repeat(np.arange(30), 40), np.concatenate([rng.permutation(60)[:40] for _ in range(30)])
    plays = {"user_id": users, "item_id": songs, "engagement": rng.integers(1, 6, 1200)}
    pd.DataFrame({**plays, "timestamp": 1_700_000_000 + rng.permutation(1200)}).to_csv(
        folder / "interactions.csv", index=False
    )
    titles = [f"song {number % 7} {number}" for number in range(60)]
    pd.DataFrame({"item_id": range(60), "title": titles}).to_csv(folder / "items.csv", index=False)
    return folder


@dataclass(frozen=True)
class Raw:
    """Raw files of a source: its options, and what writes them; None where the source itself does."""

    options: Mapping[str, object]
    write: Callable[[Path], Path] | None


RAW = {
    "ml-100k": Raw({}, ml_100k),
    "ml-1m": Raw({}, lambda folder: write_ml_1m(folder, 0.002, 0)),
    "fabricated": Raw({"users": 40, "items": 100}, None),
    "kuairec": Raw({"language": "original"}, kuairec),
    "kuairec-sample": Raw({"language": "english"}, kuairec_sample),
    "fabricated-kuairec": Raw({"matrix": "big", "scale": 0.001}, None),
    "esci": Raw({"small_version": False}, lambda folder: write_esci(folder, 0.001, 0)),
    "fabricated-esci": Raw({"scale": 0.001}, None),
    "own": Raw({"timestamp_unit": "seconds"}, own),
}


@dataclass(frozen=True)
class World:
    """Everything that comes of one source's raw files."""

    name: str
    raw: Path
    connection: ibis.BaseBackend
    tables: Tables
    interactions: pd.DataFrame
    observations: pd.DataFrame
    task: TaskSettings
    instances: pd.DataFrame
    labelled: pd.DataFrame
    true_labels: pd.DataFrame


def frame_of(table: ibis.Table | pd.DataFrame, connection: ibis.BaseBackend) -> pd.DataFrame:
    frame = table if isinstance(table, pd.DataFrame) else connection.to_pandas(table)
    return frame.sort_values(Columns.EVENT_ID, ignore_index=True)


def labels_of(
    observations: pd.DataFrame, tables: Tables, task: TaskSettings
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """instances, labelled_instances and true_labels."""
    queries = queries_table(tables.queries)
    instances, _ = build_instances(
        observations,
        embedded(tables.items, Columns.ITEM_ID, Columns.TEXT),
        candidates=6,
        history=3,
        instances_per_user=2,
        limits=COUNTS,
        seed=SEED,
        star=StarSettings(),
        queries=queries,
        query_embeddings=embedded(queries, Columns.USER_ID, Columns.QUERY),
    )
    labelled, true_labels = label_signals(
        instances,
        observations,
        tables.items,
        trend_window_days=2.0,
        quality_strength=3.0,
        quality_midpoint=task.engagement_midpoint,
        seed=SEED,
        daily_counts=tables.daily_counts,
    )
    return instances, labelled, true_labels


def embedded(table: pd.DataFrame, key: str, text: str) -> pd.DataFrame:
    texts = table[text].tolist()
    vectors = embed_texts(texts, HashingSettings(dimensions=32)) if texts else np.empty((0, 32))
    return pd.DataFrame({key: table[key], Columns.EMBEDDING: list(vectors)})


@pytest.fixture(scope="module", params=sorted(SOURCES))
def world(request, tmp_path_factory) -> World:
    name = request.param
    assert name in RAW, f"write small raw files for the source {name} in RAW"
    folder = tmp_path_factory.mktemp(name)
    source = source_of(name, RAW[name].options)
    write = RAW[name].write
    raw = source.fetch(folder) if write is None else write(folder)
    connection = ibis.duckdb.connect(threads=2)
    tables = source.read(raw, connection)
    interactions = frame_of(tables.interactions, connection)
    table = ibis.memtable(interactions)
    queries = queries_table(tables.queries)
    observations = marked(table, sparsify(table, density=DENSITY, seed=SEED, queries=queries)).to_pandas()
    observations = observations.sort_values(Columns.EVENT_ID, ignore_index=True)
    conf = Path(__file__).parents[2] / "conf" / "base" / "datasets.yml"
    entries = yaml.safe_load(conf.read_text(encoding="utf-8"))["datasets"].values()
    task = TaskSettings.model_validate(next(entry for entry in entries if entry["source"] == name))
    labels = labels_of(observations, tables, task)
    return World(name, raw, connection, tables, interactions, observations, task, *labels)


class TestEverySource:
    def test_schema(self, world):
        Interactions.validate(world.interactions)
        Items.validate(world.tables.items)
        Queries.validate(queries_table(world.tables.queries))
        DailyCounts.validate(daily_counts_table(world.tables.daily_counts))
        Observations.validate(world.observations)
        Instances.validate(world.instances)
        LabelledInstances.validate(world.labelled)
        TrueLabels.validate(world.true_labels)
        assert world.interactions[Columns.EVENT_ID].tolist() == list(range(len(world.interactions)))
        assert not world.interactions.duplicated([Columns.USER_ID, Columns.ITEM_ID]).any()
        assert (world.interactions[Columns.ENGAGEMENT] >= 0).all()
        assert (world.tables.items[Columns.TEXT].str.strip() != "").all()
        assert set(world.interactions[Columns.ITEM_ID]) <= set(world.tables.items[Columns.ITEM_ID])
        assert all(rule and isinstance(rows, int) for rule, rows in world.tables.dropped.items())

    def test_reading_again_gives_the_same(self, world):
        connection = ibis.duckdb.connect(threads=1)
        again = source_of(world.name, RAW[world.name].options).read(world.raw, connection)
        pd.testing.assert_frame_equal(frame_of(again.interactions, connection), world.interactions)
        pd.testing.assert_frame_equal(again.items, world.tables.items)
        pd.testing.assert_frame_equal(queries_table(again.queries), queries_table(world.tables.queries))
        pd.testing.assert_frame_equal(
            daily_counts_table(again.daily_counts), daily_counts_table(world.tables.daily_counts)
        )
        assert again.dropped == world.tables.dropped

    def test_the_same_share_of_every_user_is_observed(self, world):
        users = world.observations.groupby(Columns.USER_ID)[Columns.OBSERVED].agg(["size", "sum"])
        expected = np.maximum(1, np.floor(DENSITY * users["size"] + 0.5))
        assert (users["sum"] == expected).all()

    def test_splits_are_disjoint_and_none_is_empty(self, world):
        users = world.observations.groupby(Columns.USER_ID)[Columns.SPLIT].agg(["nunique", "first"])
        assert (users["nunique"] == 1).all()
        assert set(users["first"]) == set(SPLITS)
        assert set(world.labelled[Columns.SPLIT]) == set(SPLITS)

    def test_every_candidate_has_a_true_label(self, world):
        labels = world.interactions.set_index([Columns.USER_ID, Columns.ITEM_ID])[Columns.ENGAGEMENT]
        rows = world.labelled.set_index(Columns.INSTANCE_ID)
        for instance in world.true_labels.itertuples():
            row = rows.loc[instance.instance_id]
            pairs = [(row[Columns.USER_ID], item) for item in row[Columns.CANDIDATES]]
            assert labels.loc[pairs].tolist() == list(instance.engagement)
        train = rows[rows[Columns.SPLIT] == "train"]
        for row in train.itertuples():
            assert labels.index.isin([(row.user_id, item) for item in row.candidates]).sum() == len(row.candidates)

    def test_a_history_is_observed_and_before_the_query(self, world):
        seen = world.observations[world.observations[Columns.OBSERVED]]
        before = {
            user: dict(zip(own[Columns.ITEM_ID], own[Columns.TIMESTAMP], strict=True))
            for user, own in seen.groupby("user_id")
        }
        for row in world.labelled.itertuples():
            own = before[row.user_id]
            assert all(own[item] < row.query_time for item in row.history_items)
            if world.task.context == "query":
                assert len(row.history_items) == 0
                assert row.query
            else:
                assert row.query == ""
                # what is known is not asked again
                assert not {item for item, time in own.items() if time < row.query_time} & set(row.candidates)

    def test_no_unobserved_label_reaches_an_instance(self, world):
        changed = world.observations.copy()
        unseen = ~changed[Columns.OBSERVED]
        changed.loc[unseen, Columns.ENGAGEMENT] = changed.loc[unseen, Columns.ENGAGEMENT] + 1.0
        _, labelled, true_labels = labels_of(changed, world.tables, world.task)
        pd.testing.assert_frame_equal(labelled, world.labelled)
        # the change is one that the evaluation sees
        assert not true_labels.equals(world.true_labels)

    def test_no_label_of_a_held_out_user_reaches_an_instance(self, world):
        held_out = world.labelled[Columns.SPLIT] != "train"
        observed = world.labelled.loc[held_out, Columns.OBSERVED_ENGAGEMENT]
        assert observed.map(lambda labels: bool(np.isnan(np.asarray(labels, dtype=float)).all())).all()
