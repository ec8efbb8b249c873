"""ESCI: tables by hand, every rule about odd rows, the refusals, the real pieces, and the graph on made-up ones."""

import json
import os
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flexrec.errors import InputError
from flexrec.evaluation.task_report import expected_random_ndcg
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Interactions, Items, Queries
from flexrec.sources import SOURCES, esci, source_of
from flexrec.sources.esci import Esci
from flexrec.sources.fabricator.esci import EXAMPLES_FILE, PRODUCTS_FILE
from flexrec.sources.fetch import sha256_of
from flexrec.sources.sparsify import sparsify
from flexrec.sources.tables import Tables
from whole_project import WholeProject

REAL = Path(os.environ.get("FLEXREC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "esci"


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (REAL / name).is_file(),
        reason=f"{name}, a real piece of ESCI, is not here (FLEXREC_REAL_DATA names the folder above)",
    )


def examples(**changes: dict[int, object]) -> pd.DataFrame:
    """Six judgments; a change replaces the values of a column in rows."""
    frame = pd.DataFrame(
        {
            "example_id": [10, 11, 12, 13, 14, 15],
            "query": ["red mug", "red mug", "red mug", "lamp", "lamp", "taza"],
            "query_id": [7, 7, 7, 9, 9, 3],
            "product_id": ["B2", "B1", "B3", "B1", "B3", "B1"],
            "product_locale": ["us"] * 5 + ["es"],
            "esci_label": ["E", "S", "I", "C", "E", "E"],
            "small_version": [1, 1, 1, 1, 0, 1],
            "large_version": [1] * 6,
            "split": ["train", "train", "train", "test", "test", "train"],
        }
    )
    for column, values in changes.items():
        for row, value in values.items():
            frame[column] = frame[column].astype(object)
            frame.loc[row, column] = value
        frame[column] = frame[column].infer_objects()
    return frame


def products() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "product_id": ["B3", "B1", "B2", "B1", "B9"],
            "product_title": ["Lamp", "Mug  <b>", None, "Taza", "Never judged"],
            "product_description": [None] * 5,
            "product_bullet_point": ["bright\nwarm", None, "holds tea", None, None],
            "product_brand": [None, "Acme", "Acme", None, None],
            "product_color": ["white", None, "red", None, None],
            "product_locale": ["us", "us", "us", "es", "us"],
        }
    )


def read(folder: Path, judged: pd.DataFrame | None = None, sold: pd.DataFrame | None = None, **options) -> Tables:
    (examples() if judged is None else judged).to_parquet(folder / EXAMPLES_FILE)
    (products() if sold is None else sold).to_parquet(folder / PRODUCTS_FILE)
    tables = source_of("esci", options).read(folder, ibis.duckdb.connect())
    frame = tables.interactions.to_pandas().sort_values(Columns.EVENT_ID, ignore_index=True)
    return Tables(frame, tables.items, tables.queries, dropped=tables.dropped)


def judgments(tables: Tables) -> list[tuple]:
    frame = tables.interactions[[Columns.EVENT_ID, Columns.USER_ID, Columns.ITEM_ID, Columns.ENGAGEMENT]]
    return list(frame.itertuples(index=False, name=None))


def test_tables_by_hand(tmp_path) -> None:
    tables = read(tmp_path)
    # (locale, product) in order: es B1, us B1, us B2, us B3, us B9 are 0 to 4
    assert judgments(tables) == [(0, 7, 2, 1.0), (1, 7, 1, 0.1), (2, 7, 3, 0.0), (3, 9, 1, 0.01)]
    assert set(tables.interactions[Columns.TIMESTAMP]) == {0}
    assert tables.items.drop(columns=Columns.RELEASED).to_dict("list") == {
        Columns.ITEM_ID: [1, 2, 3],
        Columns.SOURCE_ID: ["B1", "B2", "B3"],
        Columns.TITLE: ["Mug <b>", "B2", "Lamp"],
        Columns.TEXT: [
            "Mug <b>. Brand: Acme", "B2. holds tea. Brand: Acme. Colour: red", "Lamp. bright warm. Colour: white",
        ],
        Columns.TOPICS: [["Acme"], ["Acme", "red"], ["white"]],
    }  # fmt: skip
    assert tables.queries is not None
    assert tables.queries[[Columns.USER_ID, Columns.QUERY]].to_numpy().tolist() == [[7, "red mug"], [9, "lamp"]]
    assert tables.queries[Columns.SPLIT].isna().tolist() == [True, False]
    assert tables.queries[Columns.SPLIT][1] == "test"
    assert tables.dropped == {
        "judgments of other locales than us, left out": 1,
        "judgments outside the small version, left out": 1,
        "products without a title, called by their id": 1,
    }
    Interactions.validate(tables.interactions)
    Items.validate(tables.items)
    Queries.validate(tables.queries)


def test_the_larger_version_and_another_locale(tmp_path) -> None:
    larger = read(tmp_path, small_version=False)
    assert judgments(larger)[4] == (4, 9, 3, 1.0)
    # ids do not depend on what is taken
    assert larger.items[Columns.ITEM_ID].tolist() == [1, 2, 3]
    spanish = read(tmp_path, locale="es")
    assert judgments(spanish) == [(0, 3, 0, 1.0)]
    assert spanish.items[Columns.TITLE].tolist() == ["Taza"]


def test_queries_with_too_few_judged_products(tmp_path) -> None:
    tables = read(tmp_path, fewest_judged=3)
    assert judgments(tables) == [(0, 7, 2, 1.0), (1, 7, 1, 0.1), (2, 7, 3, 0.0)]
    assert tables.queries is not None
    assert tables.queries[Columns.USER_ID].tolist() == [7]
    assert tables.dropped["judgments of queries with fewer than 3 judged products, left out"] == 1
    # a judgment that does not count does not help
    with pytest.raises(
        InputError, match="no judgment is left for locale us and queries with 3 judged products or more"
    ):
        read(tmp_path, examples(product_id={1: "B2"}), fewest_judged=3)


@pytest.mark.parametrize(
    ("change", "rule", "count", "expected"),
    [
        ({"query": {1: " \n"}}, "judgments with a blank query, dropped", 1, [(7, 2, 1.0), (7, 3, 0.0), (9, 1, 0.01)]),
        ({"query": {1: None}}, "judgments with a blank query, dropped", 1, [(7, 2, 1.0), (7, 3, 0.0), (9, 1, 0.01)]),
        (
            {"product_id": {1: "B7"}},
            "judgments of a product that is not in the products' file, dropped",
            1,
            [(7, 2, 1.0), (7, 3, 0.0), (9, 1, 0.01)],
        ),
        # the first of the two judgments of (7, B2) stays
        (
            {"product_id": {1: "B2"}},
            "judgments of a pair judged before, dropped",
            1,
            [(7, 2, 1.0), (7, 3, 0.0), (9, 1, 0.01)],
        ),
        (
            {"query": {2: "a red mug"}},
            "queries with several texts, called by the first",
            1,
            [(7, 2, 1.0), (7, 1, 0.1), (7, 3, 0.0), (9, 1, 0.01)],
        ),
        (
            {"split": {2: "test"}},
            "queries with judgments in both splits, taken for testing",
            1,
            [(7, 2, 1.0), (7, 1, 0.1), (7, 3, 0.0), (9, 1, 0.01)],
        ),
    ],
)
def test_what_is_odd_is_resolved_and_counted(tmp_path, change, rule, count, expected) -> None:
    tables = read(tmp_path, examples(**change))
    assert [row[1:] for row in judgments(tables)] == expected
    assert tables.dropped[rule] == count
    assert tables.queries is not None
    assert tables.queries[Columns.QUERY].tolist() == ["red mug", "lamp"]
    if "split" in change:
        assert tables.queries[Columns.SPLIT].tolist() == ["test", "test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"esci_label": {1: "exact"}}, r"example 11 \(query 7, product B1\): esci_label exact is none of E, S, C, I"),
        ({"esci_label": {4: None}}, r"example 14 \(query 9, product B3\): esci_label is missing"),
        ({"product_id": {0: None}}, r"example 10 .*: product_id is missing"),
        ({"split": {3: "dev"}}, r"example 13 .*: split dev is none of train, test"),
        ({"small_version": {3: 2}}, r"example 13 .*: small_version 2 is none of 0, 1"),
        ({"product_locale": {2: None}}, r"example 12 .*: product_locale is missing"),
        ({"example_id": {1: 10}}, r"an example_id occurs twice \(6 rows, 5 ids\)"),
        ({"query_id": {1: 7.5}}, r"column query_id: whole numbers are needed, the type is float64"),
        ({"query_id": {1: "x", **dict.fromkeys((0, 2, 3, 4, 5), "y")}}, r"column query_id: whole numbers are needed"),
        ({"esci_label": dict.fromkeys(range(6), 1)}, r"column esci_label: text is needed, the type is int64"),
    ],
)  # fmt: skip
def test_bad_judgments(tmp_path, change, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, examples(**change))
    assert EXAMPLES_FILE in str(caught.value)


def test_bad_files(tmp_path) -> None:
    with pytest.raises(
        InputError, match=f"{PRODUCTS_FILE}: column product_brand is missing; the columns are product_id"
    ):
        read(tmp_path, sold=products().rename(columns={"product_brand": "brand"}))
    with pytest.raises(InputError, match=f"{EXAMPLES_FILE}: column split is missing"):
        read(tmp_path, examples().drop(columns="split"))
    with pytest.raises(InputError, match=r"product B1 of locale us has no id or occurs more than once \(2 rows\)"):
        read(tmp_path, sold=pd.concat([products(), products()[1:2]]))
    with pytest.raises(InputError, match="no judgment is left for locale jp and queries with 1 judged"):
        read(tmp_path, locale="jp")
    with pytest.raises(InputError, match="no judgment is left"):
        read(tmp_path, examples()[:0])
    (tmp_path / EXAMPLES_FILE).write_bytes((tmp_path / EXAMPLES_FILE).read_bytes()[:-20])
    with pytest.raises(
        InputError, match=rf"{EXAMPLES_FILE}: cannot be read \(.*\); move it away so that it is fetched"
    ):
        Esci().read(tmp_path, ibis.duckdb.connect())
    (tmp_path / EXAMPLES_FILE).unlink()
    with pytest.raises(InputError, match=f"{EXAMPLES_FILE}: no such file; the folder of ESCI holds"):
        Esci().read(tmp_path, ibis.duckdb.connect())
    with pytest.raises(InputError, match="locale: Input should be 'us', 'es' or 'jp'"):
        source_of("esci", {"locale": "fr"})


def test_files_are_verified(tmp_path, monkeypatch) -> None:
    read_folder = tmp_path / "esci"
    read_folder.mkdir()
    read(read_folder)
    digest = sha256_of(read_folder / EXAMPLES_FILE)
    with pytest.raises(InputError, match=f"its SHA-256 is {digest}, expected {esci.FILES[EXAMPLES_FILE]}"):
        Esci().fetch(tmp_path)
    # files put there by hand are taken as they are, if they are the right ones
    monkeypatch.setattr(esci, "FILES", {name: sha256_of(read_folder / name) for name in esci.FILES})
    assert Esci().fetch(tmp_path) == read_folder
    assert [len(value) for value in esci.FILES.values()] == [64, 64]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    return source_of("fabricated-esci", {"scale": 0.004}).fetch(tmp_path_factory.mktemp("raw"))


def test_a_made_up_world(made_up) -> None:
    connection = ibis.duckdb.connect()
    tables = Esci().read(made_up, connection)
    interactions = connection.to_pandas(tables.interactions.order_by(Columns.EVENT_ID))
    Interactions.validate(interactions)
    raw = pd.read_parquet(made_up / EXAMPLES_FILE)
    kept = raw[(raw["product_locale"] == "us") & (raw["small_version"] == 1)].reset_index(drop=True)
    # an independent reading: same judgments in the same order
    gains = kept["esci_label"].map({"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0})
    assert interactions[Columns.ENGAGEMENT].tolist() == gains.tolist()
    assert interactions[Columns.USER_ID].tolist() == kept["query_id"].tolist()
    named = tables.items.set_index(Columns.ITEM_ID)[Columns.SOURCE_ID]
    assert named.loc[interactions[Columns.ITEM_ID]].tolist() == kept["product_id"].tolist()
    assert set(tables.items[Columns.ITEM_ID]) == set(interactions[Columns.ITEM_ID])
    # bullets are missing in 15% of the products and colours in 33%, and nothing else happens to them
    sold = pd.read_parquet(made_up / PRODUCTS_FILE)
    assert sold["product_color"].isna().mean() == pytest.approx(0.33, abs=0.03)
    assert (tables.items[Columns.TEXT].str.strip() != "").all()


def test_the_official_split_and_the_seed(made_up) -> None:
    tables = Esci(small_version=False).read(made_up, ibis.duckdb.connect())
    raw = pd.read_parquet(made_up / EXAMPLES_FILE).query("product_locale == 'us'")
    test = set(raw.loc[raw["split"] == "test", "query_id"])
    dealt = []
    for seed in (0, 1):
        marks = sparsify(tables.interactions, density=1.0, seed=seed, queries=tables.queries)
        splits = marks.splits.to_pandas().set_index(Columns.USER_ID)[Columns.SPLIT]
        assert set(splits.index[splits == "test"]) == test
        validation = set(splits.index[splits == "validation"])
        # 10 of the 90 per cent that are no test users in the usual deal
        assert len(validation) / (len(splits) - len(test)) == pytest.approx(1 / 9, abs=0.01)
        dealt.append(validation)
    assert dealt[0] != dealt[1]


def test_instances_of_the_made_up_world(fork_server, tmp_path) -> None:
    project = WholeProject(tmp_path / "project", fork_server)
    smaller = {"fabricated-esci": {"source_options": {"scale": 0.003}}}
    asked = {"dataset": "fabricated-esci", "need": "search", "density": 1.0, "datasets": smaller}
    project.run(asked, pipeline_names=["data"])
    labelled = project.load("labelled_instances", asked)
    assert (labelled[Columns.QUERY].str.strip() != "").all()
    assert {len(row) for row in labelled[Columns.HISTORY_ITEMS]} == {0}
    assert {len(row) for row in labelled[Columns.CANDIDATES]} == {12}
    interactions = project.load("interactions", asked).to_pandas()
    judged = interactions.groupby(Columns.USER_ID)[Columns.ITEM_ID].agg(set)
    for user, row in zip(labelled[Columns.USER_ID], labelled[Columns.CANDIDATES], strict=True):
        assert set(np.asarray(row).tolist()) <= judged[user]
    # queries with fewer products than K are left out
    assert judged.map(len).min() >= 12
    gains = project.load("true_gains", asked)
    assert set(np.concatenate(gains[Columns.GAINS].tolist())) <= {1.0, 0.1, 0.01, 0.0}


def test_the_registry_has_both() -> None:
    assert issubclass(SOURCES["fabricated-esci"], SOURCES["esci"])


# ---- the real pieces ----


@needs_real("vespa_test-sample.parquet")
def test_the_real_sample(tmp_path) -> None:
    judged = pd.read_parquet(REAL / "vespa_test-sample.parquet")
    with pa.input_stream(REAL / "vespa_sample-products.jsonl.zstd", compression="zstd") as stream:
        fields = [json.loads(line)["fields"] for line in stream.read().decode().splitlines()]
    sold = pd.DataFrame(fields).rename(columns={"bullets": "bullet_point"}).add_prefix("product_")
    tables = read(tmp_path, judged, sold)
    # one query of the official test split with 16 judged products: 3 E, 6 S, 7 I
    assert sorted(tables.interactions[Columns.ENGAGEMENT]) == [0.0] * 7 + [0.1] * 6 + [1.0] * 3
    assert tables.queries is not None
    assert tables.queries.to_numpy().tolist() == [[535, "06 bmw 325i radio oem not navigation system", "test"]]
    assert tables.dropped == {}
    assert len(tables.items) == 16
    # no colour is told of six of them
    assert tables.items[Columns.TEXT].str.contains(r"\. Colour: ").sum() == 10
    first = tables.items.set_index(Columns.SOURCE_ID).loc["B08VSJGP1N"]
    assert first[Columns.TITLE].startswith("Apple Carplay Double Din Car Stereo, Rimoody 7 Inch")
    assert "\n" not in first[Columns.TEXT]


@needs_real("underspec-analysis_esci_200.csv")
@pytest.mark.parametrize("small_version", [True, False])
def test_two_hundred_real_judgments(tmp_path, small_version) -> None:
    """Real queries, one judged product each, with every text; the grades are spelt out there, and no split is told."""
    pieces = pd.read_csv(REAL / "underspec-analysis_esci_200.csv", keep_default_na=False)
    judged = pieces[[name for name in examples().columns if name != "split"]].assign(split="train")
    judged["esci_label"] = judged["esci_label"].str[0]
    # in another order than by id, as no order is promised
    tables = read(tmp_path, judged[::-1], pieces[list(products().columns)], small_version=small_version)
    taken = pieces[pieces["small_version"] == 1] if small_version else pieces
    assert len(taken) == (75 if small_version else 200)
    taken = taken.sort_values("example_id")
    gains = {"Exact": 1.0, "Substitute": 0.1, "Complement": 0.01, "Irrelevant": 0.0}
    frame = Interactions.validate(tables.interactions)
    assert frame[Columns.ENGAGEMENT].tolist() == taken["esci_label"].map(gains).tolist()
    assert frame[Columns.USER_ID].tolist() == taken["query_id"].tolist()
    items = Items.validate(tables.items).set_index(Columns.ITEM_ID)
    named = items.loc[frame[Columns.ITEM_ID]]
    assert named[Columns.SOURCE_ID].tolist() == taken["product_id"].tolist()
    # ids are places among all products of the file, whatever is taken
    order = sorted(pieces["product_id"])
    assert frame[Columns.ITEM_ID].tolist() == [order.index(product) for product in taken["product_id"]]
    assert tables.queries is not None
    asked = Queries.validate(tables.queries).set_index(Columns.USER_ID)[Columns.QUERY]
    assert asked.to_dict() == dict(zip(taken["query_id"], taken["query"], strict=True))
    for product, text in zip(taken.to_dict("records"), named[Columns.TEXT], strict=True):
        said = [product[f"product_{name}"] for name in ("title", "bullet_point")]
        said += [f"Brand: {product['product_brand']}", f"Colour: {product['product_color']}"]
        # with descriptions of hundreds of lines, markup and emoji beside it, none of which is read
        assert text == ". ".join(" ".join(part.split()) for part in said)
    left_out = {"judgments outside the small version, left out": 125} if small_version else {}
    assert tables.dropped == left_out


@needs_real("opensearch_esci_us_judgments.json")
def test_real_judgments_of_a_hundred_and_fifty_queries(tmp_path) -> None:
    """6,678 real judgments of the official depth, without any text of a product: called by their ids."""
    lists = json.loads((REAL / "opensearch_esci_us_judgments.json").read_text(encoding="utf-8"))["judgmentRatings"]
    grades = {100.0: "E", 10.0: "S", 1.0: "C", 0.0: "I"}
    rows = [
        (number, entry["query"], rating["docId"], grades[float(rating["rating"])])
        for number, entry in enumerate(lists)
        for rating in entry["ratings"]
    ]
    judged = pd.DataFrame(rows, columns=["query_id", "query", "product_id", "esci_label"]).reset_index(
        names="example_id"
    )
    judged = judged.assign(product_locale="us", small_version=1, split="train")
    ids = sorted(set(judged["product_id"]))
    sold = pd.DataFrame({"product_id": ids, "product_locale": "us"})
    for name in ("title", "bullet_point", "brand", "color"):
        sold[f"product_{name}"] = pd.Series([None] * len(ids), dtype="string")
    tables = read(tmp_path, judged, sold, fewest_judged=44)
    sizes = judged.drop_duplicates(["query_id", "product_id"]).groupby("query_id").size()
    deep = judged[judged["query_id"].map(sizes >= 44)].drop_duplicates(["query_id", "product_id"])
    assert (len(lists), len(judged)) == (150, 6678)
    assert sorted(judgments(tables)) == [
        (place, query, ids.index(product), {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}[label])
        for place, (query, product, label) in enumerate(
            zip(deep["query_id"], deep["product_id"], deep["esci_label"], strict=True)
        )
    ]
    again, few = len(judged) - sizes.sum(), sizes[sizes < 44].sum()
    expected = {
        "judgments of a pair judged before, dropped": again,
        "judgments of queries with fewer than 44 judged products, left out": few,
        "products without a title, called by their id": deep["product_id"].nunique(),
    }
    assert tables.dropped == {rule: count for rule, count in expected.items() if count}
    # they have 40 to 78 products each; a random order of all of them scores what docs/protocol.md says
    assert (sizes.min(), sizes.max(), int((sizes < 44).sum())) == (40, 78, 103)
    graded = judged.drop_duplicates(["query_id", "product_id"])
    gains = graded["esci_label"].map({"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}).groupby(graded["query_id"])
    scores = [[float(expected_random_ndcg(own.to_numpy(), k)) for k in (5, 10, 30)] for _, own in gains]
    assert np.mean(scores, axis=0) == pytest.approx([0.534, 0.543, 0.649], abs=5e-4)
    assert tables.items[Columns.TITLE].tolist() == tables.items[Columns.SOURCE_ID].tolist()
