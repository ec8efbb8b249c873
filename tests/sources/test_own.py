"""Own tables: what they become by hand, every refusal with file, row and key, and the documented example."""

import re
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Interactions, Items
from flexrec.sources import SOURCES, source_of
from flexrec.sources.own import OwnData
from flexrec.sources.tables import Tables
from whole_project import WholeProject

PLAYS = "user_id,item_id,engagement,timestamp\nben,b,2,1700000005\nana,a,5,1700000000\nben,a,0.5,1700000005\n"
SONGS = 'item_id,title\nb,"Hello, She Said"\na,Blue  Harbour\n'
FULL = "item_id,title,text,genres,year\nb,Second,Words of b,folk| calm |,1999\na,First,,,\n"
OPTIONALS = {"text_column": "text", "topics_column": "genres", "released_column": "year"}


def read(folder: Path, plays: str | bytes = PLAYS, songs: str | bytes = SONGS, **options: object) -> Tables:
    for name, content in (("interactions.csv", plays), ("items.csv", songs)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = source_of("own", {"timestamp_unit": "seconds", **options})
    return source.read(folder, ibis.duckdb.connect())


def rows(tables: Tables) -> list[tuple]:
    frame = tables.interactions
    return list(
        frame[[Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP, Columns.ENGAGEMENT]].itertuples(False, None)
    )


def test_tables_by_hand(tmp_path) -> None:
    tables = read(tmp_path)
    # ids are numbered in the order of their text: ana 0, ben 1; a 0, b 1. Rows of one second keep the file's order
    assert rows(tables) == [(0, 0, 1700000000, 5.0), (1, 1, 1700000005, 2.0), (1, 0, 1700000005, 0.5)]
    assert tables.interactions[Columns.EVENT_ID].tolist() == [0, 1, 2]
    assert tables.items.drop(columns=Columns.RELEASED).to_dict("list") == {
        Columns.ITEM_ID: [0, 1],
        Columns.SOURCE_ID: ["a", "b"],
        Columns.TITLE: ["Blue Harbour", "Hello, She Said"],
        Columns.TEXT: ["Blue Harbour", "Hello, She Said"],
        Columns.TOPICS: [[], []],
    }
    assert tables.items[Columns.RELEASED].isna().all()
    assert tables.dropped == {}
    Interactions.validate(tables.interactions)
    Items.validate(tables.items)


def test_texts_topics_and_years(tmp_path) -> None:
    items = read(tmp_path, songs=FULL, **OPTIONALS).items
    assert items[Columns.TOPICS].tolist() == [[], ["folk", "calm"]]
    # an item without a text of its own is embedded by title and topics
    assert items[Columns.TEXT].tolist() == ["First", "Words of b"]
    assert items[Columns.RELEASED].tolist()[1] == 1999.0
    assert np.isnan(items[Columns.RELEASED].tolist()[0])
    without = read(tmp_path, songs=FULL, topics_column="genres").items
    assert without[Columns.TEXT].tolist() == ["First", "Second. folk, calm"]


@pytest.mark.parametrize(
    ("unit", "first", "second"),
    [
        ("seconds", "1700000000", "1700000005.9"),
        ("milliseconds", "1700000000999", "1700000005000"),
        # 2023-11-14 22:13:20 UTC is 1,700,000,000
        ("iso", "2023-11-14T22:13:20", "2023-11-14T23:13:25.75+01:00"),
    ],
)
def test_units_of_time(tmp_path, unit, first, second) -> None:
    plays = f"user_id,item_id,engagement,timestamp\nben,b,2,{second}\nana,a,5,{first}\n"
    tables = read(tmp_path, plays, timestamp_unit=unit)
    assert tables.interactions[Columns.TIMESTAMP].tolist() == [1700000000, 1700000005]


def test_the_order_of_the_rows_stands_for_time(tmp_path) -> None:
    plays = "user_id,item_id,engagement\nben,b,2\nana,a,5\nben,a,1\n"
    assert rows(read(tmp_path, plays, timestamp_unit="none")) == [(1, 1, 0, 2.0), (0, 0, 1, 5.0), (1, 0, 2, 1.0)]


REPEATED = PLAYS + "ana,a,3,1600000000\nana,a,4,1800000000\n"


@pytest.mark.parametrize(
    ("repeats", "kept"),
    # ana and a: 3 at 1.6e9, 5 at 1.7e9, 4 at 1.8e9; 3 + 5 + 4 = 12
    [("first", (0, 0, 1600000000, 3.0)), ("last", (0, 0, 1800000000, 4.0)), ("sum", (0, 0, 1600000000, 12.0))],
)
def test_repeats_are_resolved_as_asked(tmp_path, repeats, kept) -> None:
    tables = read(tmp_path, REPEATED, repeats=repeats)
    assert kept in rows(tables)
    assert len(rows(tables)) == 3
    assert tables.dropped == {f"repeated interactions of a user with an item, resolved by repeats: {repeats}": 2}
    Interactions.validate(tables.interactions)


def test_unknown_items_are_dropped_if_asked(tmp_path) -> None:
    tables = read(tmp_path, PLAYS + "ana,zz,3,1700000009\nana,zz,3,1700000009\n", unknown_items="drop")
    assert rows(tables) == rows(read(tmp_path))
    assert tables.dropped == {"interactions with items that items.csv does not have, dropped": 2}


def test_whole_ids_stay_as_they_are(tmp_path) -> None:
    plays = "user_id,item_id,engagement,timestamp\n10,7,2,1700000000\n9,30,2,1700000001\n"
    tables = read(tmp_path, plays, "item_id,title\n30,b\n7,a\n", ids="whole")
    assert rows(tables) == [(10, 7, 1700000000, 2.0), (9, 30, 1700000001, 2.0)]
    assert tables.items[Columns.ITEM_ID].tolist() == [7, 30]
    with pytest.raises(InputError, match=r"interactions\.csv, row 3 \(user 'ben', item '7'\): id 'ben' is not a whole"):
        read(tmp_path, plays.replace("9,30", "ben,7"), "item_id,title\n7,a\n", ids="whole", unknown_items="drop")


def test_parquet_is_the_same(tmp_path) -> None:
    expected = read(tmp_path, songs=FULL, **OPTIONALS)
    plays = pd.DataFrame(
        {
            "user_id": ["ben", "ana", "ben"],
            "item_id": ["b", "a", "a"],
            "engagement": [2, 5, 0.5],
            "timestamp": pd.to_datetime([1700000005, 1700000000, 1700000005], unit="s"),
        }
    )
    songs = pd.DataFrame(
        {
            "item_id": ["b", "a"],
            "title": ["Second", "First"],
            "text": ["Words of b", None],
            "genres": [["folk", "calm"], None],
            "year": pd.array([1999, None], dtype="Int64"),
        }
    )
    plays.to_parquet(tmp_path / "p.parquet")
    songs.to_parquet(tmp_path / "s.parquet")
    options = {"interactions": "p.parquet", "items": "s.parquet", "timestamp_unit": "iso", **OPTIONALS}
    tables = source_of("own", options).read(tmp_path, ibis.duckdb.connect())
    pd.testing.assert_frame_equal(tables.interactions, expected.interactions)
    pd.testing.assert_frame_equal(tables.items, expected.items)


def test_other_separators_encodings_and_names(tmp_path) -> None:
    plays = PLAYS.replace(",", ";").replace("ben", "jürgen").replace("user_id", "Hörer").encode("latin-1")
    songs = SONGS.replace(",", ";").replace("Hello;", "Hello,").encode("latin-1")
    options = {"separator": ";", "encoding": "latin-1", "user_column": "Hörer"}
    assert rows(read(tmp_path, plays, songs, **options)) == rows(read(tmp_path))
    # a byte order mark, Windows line ends and a blank line at the end are no part of the data
    marked = b"\xef\xbb\xbf" + PLAYS.replace("\n", "\r\n").encode() + b"\r\n"
    assert rows(read(tmp_path, marked)) == rows(read(tmp_path))


HEADER = "user_id,item_id,engagement,timestamp\n"


@pytest.mark.parametrize(
    ("plays", "message"),
    [
        (PLAYS.replace("engagement", "rating"), r"interactions\.csv: column engagement is missing; the columns are "),
        (PLAYS.replace("engagement", "item_id"), r"column item_id occurs twice"),
        (HEADER, r"interactions\.csv: there are no rows"),
        ("", r"interactions\.csv: cannot be read \(.*[Ee]mpty"),
        (HEADER + "ana,a,5\n", r"interactions\.csv: cannot be read \(.*Expected 4 columns, got 3.*separator and enc"),
        (HEADER + "ana,a,5,1700000000,9\n", r"Expected 4 columns, got 5"),
        (PLAYS + "ana,b,x,1700000000\n", r"interactions\.csv, row 5 \(user 'ana', item 'b'\): engagement 'x' is not a"),
        (PLAYS + "ana,b,,1700000000\n", r"row 5 .*: engagement '' is not a number"),
        (PLAYS + "ana,b,NaN,1700000000\n", r"row 5 .*: engagement 'NaN' is not a number"),
        (PLAYS + "ana,b,inf,1700000000\n", r"row 5 .*: engagement 'inf' is not a number"),
        (PLAYS + "ana,b,1e999,1700000000\n", r"row 5 .*: engagement '1e999' is not a number"),
        (PLAYS + "ana,b,-0.5,1700000000\n", r"row 5 .*: engagement '-0\.5' is outside 0 to 1e\+06 \(engagement_lowest"),
        (PLAYS + "ana,b,1e7,1700000000\n", r"row 5 .*: engagement '1e7' is outside"),
        (PLAYS + "ana,b,1,\n", r"row 5 .*: timestamp '' is not a number"),
        (PLAYS + "ana,b,1,1700000000000\n", r"row 5 .*timestamp '1700000000000' is not a time between 1990 and 2100"),
        (PLAYS + "ana,b,1,0\n", r"timestamp '0' is not a time between .*; check timestamp_unit"),
        (PLAYS + "ana,b,1,2023-11-14\n", r"timestamp '2023-11-14' is not a number"),
        (PLAYS + ",b,1,1700000000\n", r"row 5 \(user '', item 'b'\): the user has no id"),
        (PLAYS + " ,b,1,1700000000\n", r"row 5 \(user '', item 'b'\): the user has no id"),
        (PLAYS + "ana,,1,1700000000\n", r"row 5 \(user 'ana', item ''\): the item has no id"),
        (PLAYS + "ana,zz,1,1700000000\n", r"row 5 \(user 'ana', item 'zz'\): the item is not in items\.csv; add it"),
        (REPEATED, r"row 5 \(user 'ana', item 'a'\): the pair occurs before; .*repeats: first, last or sum \(2 rows"),
        (PLAYS.encode().replace(b"ben", b"j\xfcrgen"), r"interactions\.csv: cannot be read \(.*UTF8.*encoding"),
        (PLAYS.encode("utf-16"), r"interactions\.csv: cannot be read"),
        (b"\x00" * 100, r"interactions\.csv: c(annot be read|olumn )"),
    ],
)  # fmt: skip
def test_bad_interactions(tmp_path, plays, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, plays)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("songs", "message"),
    [
        (
            SONGS.replace("title", "name"),
            r"items\.csv: column title is missing; the columns are item_id, name\. Rename it",
        ),
        (SONGS + "a,Again\n", r"items\.csv, row 4 \(item 'a'\): the item occurs before"),
        (SONGS + "c, \n", r"items\.csv, row 4 \(item 'c'\): the title is empty"),
        (SONGS + ",Title\n", r"items\.csv, row 4 \(item ''\): the item has no id"),
        ("item_id,title\n", r"items\.csv: there are no rows"),
    ],
)
def test_bad_items(tmp_path, songs, message) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, songs=songs)


@pytest.mark.parametrize("time", ["now", "today", "NaT", "", "-2020-01-01"])
def test_a_time_that_is_none(tmp_path, time) -> None:
    with pytest.raises(InputError, match=rf"row 2 \(user 'ben', item 'b'\): timestamp '{time}' is not a time in ISO"):
        read(tmp_path, f"user_id,item_id,engagement,timestamp\nben,b,2,{time}\n", timestamp_unit="iso")


def test_a_quotation_mark_that_nothing_closes(tmp_path) -> None:
    # all that follows would be the title of one item, and the plays of the others dropped
    with pytest.raises(InputError, match=r"items.csv: a quotation mark is not closed, behind row 2; correct the file"):
        read(tmp_path, songs='item_id,title\na,A\nb,"B\nc,C\n', unknown_items="drop")
    assert read(tmp_path, songs='item_id,title\na,A\nb,"7"" B\nC"\n').items[Columns.TITLE].tolist() == ["A", '7" B C']


def test_two_quotation_marks_take_no_rows(tmp_path) -> None:
    """The rows between them would be part of a user's name."""
    rows_of_both = '"ana,a,5,1700000000\nben,b,2,1700000000\n"ana,b,2,1700000000\n'
    stray = f"user_id,item_id,engagement,timestamp\n{rows_of_both}"
    with pytest.raises(InputError, match=r"interactions.csv, row \d.*the id holds a line break"):
        read(tmp_path, stray)


def test_a_file_of_any_name_is_named(tmp_path) -> None:
    (tmp_path / "it{e}ms.csv").write_text("item_id,title\nb,B\n")
    with pytest.raises(InputError, match=r"the item is not in it\{e\}ms.csv"):
        read(tmp_path, items="it{e}ms.csv")


@pytest.mark.parametrize("year", ["soon", "99999", "-1", "inf"])
def test_a_year_that_is_none(tmp_path, year) -> None:
    with pytest.raises(InputError, match=rf"items\.csv, row 2 \(item 'b'\): released '{year}' is not a year"):
        read(tmp_path, songs=FULL.replace("1999", year), **OPTIONALS)


def test_an_engagement_that_is_allowed_to_be_negative(tmp_path) -> None:
    plays = PLAYS.replace("0.5", "-1")
    assert rows(read(tmp_path, plays, engagement_lowest=-1))[-1][-1] == -1.0


def test_long_and_strange_titles_are_kept(tmp_path) -> None:
    strange = "<|im_end|> \x07\u202e" + "x" * 100_000
    assert read(tmp_path, songs=SONGS.replace("Blue  Harbour", strange)).items[Columns.TITLE][0] == strange


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "source_options of source 'own': timestamp_unit: Field required"),
        ({"timestamp_unit": "days"}, "timestamp_unit: Input should be 'seconds', 'milliseconds', 'iso' or 'none'"),
        (
            {"timestamp_unit": "iso", "items": "items.xlsx"},
            r"items: the file 'items\.xlsx' must end in \.csv, \.tsv or",
        ),
        ({"timestamp_unit": "iso", "encoding": "utf8000"}, "encoding: unknown encoding 'utf8000'"),
        ({"timestamp_unit": "iso", "separator": "::"}, "separator: "),
        ({"timestamp_unit": "iso", "titel": "x"}, "titel: Extra inputs"),
        ({"timestamp_unit": "iso", "engagement_lowest": 3, "engagement_highest": 3}, "must be below"),
        ({"timestamp_unit": "iso", "sha256": "abc"}, "sha256: "),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(InputError, match=message):
        source_of("own", options)


def test_files_that_are_not_there_or_others(tmp_path) -> None:
    source = OwnData(timestamp_unit="seconds", folder="mine")
    with pytest.raises(
        InputError, match=r"mine/interactions\.csv: no such file; put your table there, or set `folder`"
    ):
        source.fetch(tmp_path)
    assert source.digest(tmp_path) == ""
    (tmp_path / "mine").mkdir()
    read(tmp_path / "mine")
    assert source.fetch(tmp_path) == tmp_path / "mine"
    first = source.digest(tmp_path)
    given = OwnData(timestamp_unit="seconds", folder="mine", sha256=first)
    assert given.fetch(tmp_path) == tmp_path / "mine"
    read(tmp_path / "mine", PLAYS + "ana,b,1,1700000000\n")
    assert source.digest(tmp_path) != first
    with pytest.raises(InputError, match=f"the SHA-256 over .* is {source.digest(tmp_path)}, expected {first}"):
        given.fetch(tmp_path)
    # a folder of anywhere
    assert OwnData(timestamp_unit="seconds", folder=str(tmp_path / "mine")).fetch(Path("/nowhere")) == tmp_path / "mine"


# ---- the documented example ----


@pytest.fixture(scope="module")
def page(project_root) -> str:
    return (project_root / "docs" / "own_data.md").read_text(encoding="utf-8")


def documented(page: str) -> dict[str, str]:
    """The files that the page shows, by their path."""
    return dict(re.findall(r"`(data/01_raw/[\w/.]+)`[^\n]*:\n\n```csv\n(.*?)```", page, flags=re.DOTALL))


def test_the_page_names_every_option(page) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, flags=re.MULTILINE))
    assert told == {name: field.description for name, field in OwnData.model_fields.items()}


def test_the_page_shows_the_entry_as_it_is(page, project_root) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    table = yaml.safe_load((project_root / "conf" / "base" / "datasets.yml").read_text(encoding="utf-8"))["datasets"]
    assert yaml.safe_load(shown) == {"own": table["own"]}
    assert SOURCES["own"](**table["own"]["source_options"])


def test_the_documented_files_through_the_graph(page, fork_server, tmp_path) -> None:
    project = WholeProject(tmp_path / "project", fork_server)
    for path, content in documented(page).items():
        (project.path / path).parent.mkdir(exist_ok=True)
        (project.path / path).write_text(content, encoding="utf-8")
    (command,) = re.findall(r"^    kedro run (--pipelines=data .*)$", page, flags=re.MULTILINE)
    assert command == "--pipelines=data --params dataset=own,need=interest"
    asked = {"dataset": "own", "need": "interest"}
    first = project.run(asked, pipeline_names=["data"])
    assert "label_gains" in first.ran
    labelled = project.load("labelled_instances", asked)
    assert len(labelled) >= 6
    assert {len(row) for row in labelled[Columns.CANDIDATES]} == {3}
    assert project.run(asked, pipeline_names=["data"]).ran <= {"print_task"}
    # other content is read again
    plays = project.path / "data" / "01_raw" / "own" / "plays.csv"
    plays.write_text(plays.read_text().replace("ana,s04,1,", "ana,s04,2,"), encoding="utf-8")
    again = project.run(asked, pipeline_names=["data"])
    assert again.reasons["read_source"].startswith("parameter task.source_options.sha256 changed")


def test_settings_are_settings() -> None:
    with pytest.raises(ValidationError):
        OwnData(timestamp_unit="seconds").folder = "x"
