"""Seeded mutations of Parquet files: the right tables, or one clear refusal, and nothing else (test_mutations.py)."""

import collections
import math

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Queries
from flexrec.sources import esci, source_of
from flexrec.sources.fabricator.esci import EXAMPLES_FILE, PRODUCTS_FILE
from flexrec.sources.fetch import sha256_of
from flexrec.sources.tables import Tables
from raw_readings import Row, Thing, Things, check, check_items, clear, interactions_of, line, number, own_items
from raw_worlds import COUNTS, PAIRS, TIMES, fresh

CELLS = (
    None,
    "",
    " ",
    "x",
    "E",
    "test",
    -1,
    0,
    7,
    2**62,
    -(2**63),
    1.5,
    math.nan,
    math.inf,
    1e308,
    True,
    b"\xff",
    "\x00",
    "y" * 100_000,
)


def mutate_table(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """One mutation of a table: columns renamed, dropped or doubled, rows repeated, swapped or cut, values replaced."""
    names = table.column_names
    name = str(rng.choice(names))
    row, other = (int(n) for n in rng.integers(0, table.num_rows, 2))
    order = list(range(table.num_rows))
    match int(rng.integers(0, 9)):
        case 0:
            return table.rename_columns(["renamed" if column == name else column for column in names])
        case 1:
            return table.drop_columns([name])
        case 2:
            order[row], order[other] = order[other], order[row]
            return table.take(order)
        case 3:
            return table.take([*order, row])
        case 4:
            return table.slice(row)
        case _:
            cells = table.column(name).to_pylist()
            value = CELLS[int(rng.integers(0, len(CELLS)))]
            cells[row] = value
            kinds = [table.schema.field(name).type, pa.float64(), pa.string(), pa.int64()]
            for kind in kinds:
                try:
                    column = pa.array(cells, type=kind)
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeDecodeError, TypeError):
                    continue
                return table.set_column(names.index(name), name, column)
            texts = pa.array([None if cell is None else str(cell) for cell in cells])
            return table.set_column(names.index(name), name, texts)


def esci_world() -> dict[str, pa.Table]:
    labels = "ESCI"
    pairs = [(query, product) for query in range(4) for product in range(5)]
    return {
        EXAMPLES_FILE: pa.table(
            {
                "example_id": list(range(20)),
                "query": [f"query {query}" for query, _ in pairs],
                "query_id": [query for query, _ in pairs],
                "product_id": [f"B{product}" for _, product in pairs],
                "product_locale": ["us"] * 20,
                "esci_label": [labels[(query + product) % 4] for query, product in pairs],
                "small_version": [1] * 20,
                "split": ["test" if query == 3 else "train" for query, _ in pairs],
            }
        ),
        PRODUCTS_FILE: pa.table(
            {
                "product_id": [f"B{product}" for product in range(5)],
                "product_title": [f"Product {product}" for product in range(5)],
                "product_bullet_point": ["one\ntwo", None, "three", None, "four"],
                "product_brand": ["Acme", None, None, "Acme", "Bolt"],
                "product_color": [None, "red", None, None, "blue"],
                "product_locale": ["us"] * 5,
            }
        ),
    }


def esci_naive(tables: dict[str, pa.Table]) -> list[Row]:
    """By plain Python: (query, place of the product among all, gain, 0)."""
    sold = tables[PRODUCTS_FILE].select(["product_locale", "product_id"]).to_pylist()
    order = sorted((row["product_locale"], row["product_id"]) for row in sold)
    places = {key: place for place, key in enumerate(order)}
    gains = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
    return [
        (row["query_id"], places.get((row["product_locale"], row["product_id"]), -1), gains[row["esci_label"]], 0)
        for row in tables[EXAMPLES_FILE].to_pylist()
    ]


def esci_things(tables: dict[str, pa.Table]) -> Things:
    """Every judged product: title, bullet points, brand and colour, as far as known."""
    sold = {(row["product_locale"], row["product_id"]): row for row in tables[PRODUCTS_FILE].to_pylist()}
    places = {key: place for place, key in enumerate(sorted(sold))}
    found: Things = {}
    for row in tables[EXAMPLES_FILE].to_pylist():
        key = (row["product_locale"], row["product_id"])
        if line(row["query"]) == "" or key not in sold or key[0] != "us" or row["small_version"] != 1:
            continue
        fields = {name: line(sold[key][f"product_{name}"]) for name in ("title", "bullet_point", "brand", "color")}
        title, bullets, brand, colour = fields.values()
        title = title or key[1]
        marks = [f"Brand: {brand}"] * bool(brand) + [f"Colour: {colour}"] * bool(colour)
        text = ". ".join(filter(None, [title, bullets, *marks]))
        topics = list(filter(None, (brand, colour)))
        found[places[key]] = Thing(key[1], title.__eq__, lambda _, text=text: text, topics)
    return found


def esci_queries(tables: dict[str, pa.Table]) -> dict[int, tuple[str, bool]]:
    """The first text of every query with a judged product, and whether any of its judgments is of the test split."""
    sold = {(row["product_locale"], row["product_id"]) for row in tables[PRODUCTS_FILE].to_pylist()}
    found: dict[int, tuple[str, bool]] = {}
    for row in sorted(tables[EXAMPLES_FILE].to_pylist(), key=lambda row: row["example_id"]):
        key = (row["product_locale"], row["product_id"])
        if line(row["query"]) == "" or key not in sold or key[0] != "us" or row["small_version"] != 1:
            continue
        text, test = found.get(row["query_id"], (row["query"], False))
        found[row["query_id"]] = (text, test or row["split"] == "test")
    return found


@pytest.fixture(scope="module")
def connection():
    return ibis.duckdb.connect()


def read_or_refused(source, tables, folder, connection, outcomes) -> Tables | None:
    """What a source makes of tables; None where it refuses them, in clear words."""
    for name, table in tables.items():
        pq.write_table(table, folder / name)
    try:
        read = source.read(folder, connection)
        interactions_of(read)
    except InputError as error:
        clear(error)
        outcomes["refused"] += 1
        return None
    outcomes["read"] += 1
    return read


def test_mutations_of_esci(tmp_path, connection) -> None:
    rng = np.random.default_rng([4, 100])
    source = source_of("esci", {})
    original = esci_world()
    outcomes = collections.Counter()
    for turn in range(COUNTS["esci"]):
        victim = EXAMPLES_FILE if turn % 2 else PRODUCTS_FILE
        tables = {**original, victim: mutate_table(original[victim], rng)}
        if (read := read_or_refused(source, tables, fresh(tmp_path), connection, outcomes)) is None:
            continue
        assert read.queries is not None
        Queries.validate(read.queries)
        check(read, esci_naive(tables), ("judgments",))
        check_items(read.items, esci_things(tables))
        asked = zip(*(read.queries[name] for name in (Columns.USER_ID, Columns.QUERY, Columns.SPLIT)), strict=True)
        assert {user: (query, split == "test") for user, query, split in asked} == esci_queries(tables)
    assert min(outcomes["read"], outcomes["refused"]) > 0.15 * COUNTS["esci"], outcomes


def test_bytes_of_esci_are_never_taken_for_others(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "esci"
    folder.mkdir()
    for name, table in esci_world().items():
        pq.write_table(table, folder / name)
    monkeypatch.setattr(esci, "FILES", {name: sha256_of(folder / name) for name in esci.FILES})
    source = source_of("esci", {})
    assert source.fetch(tmp_path) == folder
    rng = np.random.default_rng([4, 101])
    original = (folder / EXAMPLES_FILE).read_bytes()
    for turn in range(50):
        at = int(rng.integers(0, len(original)))
        changed = bytearray(original)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        (folder / EXAMPLES_FILE).write_bytes(original[:at] if turn % 2 else changed)
        with pytest.raises(InputError, match="its SHA-256 is"):
            source.fetch(tmp_path)


def test_mutations_of_own_parquet_files(tmp_path, connection) -> None:
    rng = np.random.default_rng([4, 102])
    options = {"timestamp_unit": "seconds", "interactions": "interactions.parquet", "items": "items.parquet"}
    source = source_of("own", options)
    plays = pa.table(
        {
            "user_id": [f"u{u}" for u, _, _ in PAIRS],
            "item_id": [f"i{i}" for _, i, _ in PAIRS],
            "engagement": [float(r) for _, _, r in PAIRS],
            "timestamp": TIMES,
        }
    )
    songs = pa.table({"item_id": [f"i{i}" for i in range(4)], "title": ["Toy Story", "Heat", "Up", "A"]})
    outcomes = collections.Counter()
    for turn in range(COUNTS["own, in Parquet"]):
        tables = {"interactions.parquet": plays, "items.parquet": songs}
        victim = "items.parquet" if turn % 3 == 0 else "interactions.parquet"
        tables[victim] = mutate_table(tables[victim], rng)
        if (read := read_or_refused(source, tables, fresh(tmp_path), connection, outcomes)) is None:
            continue
        users = sorted(map(str, set(tables["interactions.parquet"]["user_id"].to_pylist())))
        items = sorted(map(str, tables["items.parquet"]["item_id"].to_pylist()))
        rows = [
            (
                users.index(str(r["user_id"])),
                items.index(str(r["item_id"])),
                number(r["engagement"]),
                math.floor(number(r["timestamp"])),
            )
            for r in tables["interactions.parquet"].to_pylist()
        ]  # fmt: skip
        check(read, rows, ())
        listed = tables["items.parquet"].to_pylist()
        check_items(read.items, own_items([{k: "" if v is None else str(v) for k, v in r.items()} for r in listed]))
    assert min(outcomes["read"], outcomes["refused"]) >= 8, outcomes
