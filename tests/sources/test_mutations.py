"""A thousand seeded mutations of raw files: the right tables, or one clear refusal, and nothing else.

What is right is told by an independent reading of the same files (Python's csv module and float, pyarrow for Parquet).
Whatever a source returns must keep the common tables' rules, every interaction must be a row of the file, rows that are
not there must be counted in `dropped`, and every item, query and daily count must say what its file says.
"""

import collections
import csv
import datetime
import io
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Interactions, Items, Queries
from flexrec.sources import esci, source_of
from flexrec.sources.fabricator.esci import EXAMPLES_FILE, PRODUCTS_FILE
from flexrec.sources.fetch import sha256_of
from flexrec.sources.kuairec_categories import tag_name
from flexrec.sources.tables import Tables

Row = tuple[object, object, float, int]


@dataclass(frozen=True)
class Thing:
    """What a file says of an item; of a title that is turned or cut, `fits` says whether it may be this one."""

    source_id: str
    fits: Callable[[str], bool]
    text: Callable[[str], str]
    """The embedded text, given the title."""
    topics: list[str]
    released: float = math.nan


Things = dict[int, Thing]

VALUES = (
    "", " ", "nan", "NaN", "inf", "-inf", "-1", "-0.0", "0", "1e308", "1e999", "9" * 25, "1.5", "0x10", "1_0", "true",
    "NULL", "x", "é", '"', "'", "\x00", "\x07", "<|im_end|>", "[INST] A B [/INST]", "\u202e", "978300760000",
    "t" * 100_000,
)  # fmt: skip


# ---- mutations of text files ----


def mutate_text(data: bytes, separator: bytes, rng: np.random.Generator) -> bytes:
    """One mutation of a delimited file."""
    lines = data.split(b"\n")
    place = int(rng.integers(0, max(1, len(lines) - 1)))
    other = int(rng.integers(0, max(1, len(lines) - 1)))
    at = int(rng.integers(0, len(data) + 1))
    match int(rng.integers(0, 15)):
        case 0:
            return data[:at]
        case 1:
            return b"\n".join(lines[:place] + lines[place + 1 :])
        case 2:
            return b"\n".join([*lines[:place], lines[place], *lines[place:]])
        case 3:
            lines[place], lines[other] = lines[other], lines[place]
            return b"\n".join(lines)
        case 4 | 5 | 6 | 7:
            fields = lines[place].split(separator)
            fields[int(rng.integers(0, len(fields)))] = str(rng.choice(VALUES)).encode("utf-8", "replace")
            lines[place] = separator.join(fields)
            return b"\n".join(lines)
        case 8:
            names = lines[0].split(separator)
            names[int(rng.integers(0, len(names)))] = str(rng.choice(["renamed", "", "user_id", "ITEM_ID"])).encode()
            return b"\n".join([separator.join(names), *lines[1:]])
        case 9:
            fields = lines[place].split(separator)
            del fields[int(rng.integers(0, len(fields)))]
            return b"\n".join([*lines[:place], separator.join(fields), *lines[place + 1 :]])
        case 10:
            flipped = bytearray(data)
            flipped[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            return bytes(flipped)
        case 11:
            piece = rng.choice([b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\n", b"\r", separator, b"\x1b[2J", b"<s>"])
            return data[:at] + bytes(piece) + data[at:]
        case 12:
            text = data.decode("utf-8", "replace")
            return text.encode(str(rng.choice(["utf-16", "utf-8-sig", "utf-32-le", "cp037"])), "replace")
        case 13:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data.replace(separator, bytes(rng.choice([b";", b"|", b"\t"])))


# ---- worlds ----


@dataclass
class World:
    """Small raw files of one source, and how they are read by others."""

    source: str
    options: dict
    separator: bytes
    files: dict[str, bytes]
    naive: Callable[[dict[str, bytes]], list[Row]]
    """Every row of the interactions; ValueError where a row cannot be read."""
    things: Callable[[dict[str, bytes]], Things]
    """Every item that must be there, by id; ValueError where a row cannot be read."""
    pack: Callable[[Path, dict[str, bytes]], Path] = field(default=lambda folder, files: unpacked(folder, files))
    dropping: tuple[str, ...] = ()
    """How rules begin that leave a row of the interactions out."""
    daily: Callable[[dict[str, bytes]], tuple[list[tuple[int, int, int]], int]] | None = None
    """The daily counts, and how many rows of the file are none of them."""


def fresh(folder: Path) -> Path:
    """A folder of its own for every turn: an engine may keep what it knows of a path."""
    place = folder / str(sum(1 for _ in folder.iterdir()))
    place.mkdir()
    return place


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def zipped(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "raw.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def number(text: object) -> float:
    value = float(str(text))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def whole(text: object) -> int:
    """A whole number, exactly."""
    try:
        return int(str(text))
    except ValueError:
        if number(text) != int(number(text)):
            raise
        return int(number(text))


def delimited(data: bytes, encoding: str, separator: str, names: tuple[str, ...] | None) -> list[dict[str, str]]:
    """Lines cut at a separator, without quotes."""
    lines = data.decode(encoding).split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    header = names or tuple(lines.pop(0).rstrip("\r").split(separator))
    cells = [line.split(separator) for line in lines]
    if any(len(row) != len(header) for row in cells):
        raise ValueError("a row of another length")
    return [dict(zip(header, row, strict=True)) for row in cells]


def quoted(data: bytes) -> list[dict[str, str]]:
    """CSV with quotes; blank lines do not count."""
    rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True) if row]
    header = rows.pop(0)
    if any(len(row) != len(header) for row in rows) or len(set(header)) < len(header):
        raise ValueError("a row of another length")
    return [dict(zip(header, row, strict=True)) for row in rows]


def movielens_1m(files: dict[str, bytes]) -> list[Row]:
    rows = delimited(files["ml-1m/ratings.dat"], "latin-1", "::", ("user", "item", "rating", "time"))
    return [(whole(r["user"]), whole(r["item"]), number(r["rating"]), whole(r["time"])) for r in rows]


def movielens_100k(files: dict[str, bytes]) -> list[Row]:
    rows = delimited(files["recbole/dataset_example/ml-100k/ml-100k.inter"], "utf-8", "\t", None)
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    return [(whole(r[names[0]]), whole(r[names[1]]), number(r[names[2]]), whole(r[names[3]])) for r in rows]


def own(files: dict[str, bytes]) -> list[Row]:
    rows = quoted(files["interactions.csv"])
    users = sorted({row["user_id"] for row in rows})
    items = sorted({row["item_id"] for row in quoted(files["items.csv"])})
    return [
        (
            users.index(row["user_id"]),
            items.index(row["item_id"]),
            number(row["engagement"]),
            math.floor(number(row["timestamp"])),
        )
        for row in rows
    ]


def kuairec(files: dict[str, bytes]) -> list[Row]:
    rows = quoted(files["small_matrix.csv"])
    # without a time a row is dropped, and -1 stands for none here
    return [
        (
            whole(row["user_id"]),
            whole(row["video_id"]),
            number(row["watch_ratio"]),
            -1 if row["timestamp"] in ("", "nan", "NaN") else math.floor(number(row["timestamp"])),
        )
        for row in rows
    ]


def kuairec_sample(files: dict[str, bytes]) -> list[Row]:
    rows = delimited(files["small_matrix_sample_random.txt"], "utf-8", ",", ("user", "item", "ratio"))
    return [(whole(r["user"]), whole(r["item"]), number(r["ratio"]), 0) for r in rows]


# ---- items, by an independent reading ----


def letters(text: str) -> list[str]:
    """What turning an article to the front ("Matrix, The") leaves as it is."""
    return sorted(char for char in text if char not in ", ")


def year_of(title: str) -> float:
    """A year in parentheses at the end."""
    end = title.rstrip()[-6:]
    return float(end[1:5]) if end[:1] == "(" and end[-1:] == ")" and end[1:5].isdecimal() else math.nan


def film(number: str, title: str, genres: list[str]) -> Thing:
    def fits(found: str) -> bool:
        # without a comma there is no article to turn
        return letters(found) == letters(title) and (", " in title or found == title)

    def text(found: str) -> str:
        return f"{found}. {', '.join(genres)}" if genres else found

    return Thing(number, fits, text, genres, year_of(title))


def films_1m(files: dict[str, bytes]) -> Things:
    rows = delimited(files["ml-1m/movies.dat"], "latin-1", "::", ("movie", "title", "genres"))
    return {
        whole(r["movie"]): film(r["movie"], r["title"], list(filter(None, r["genres"].rstrip("\r").split("|"))))
        for r in rows
    }


def films_100k(files: dict[str, bytes]) -> Things:
    rows = delimited(files["recbole/dataset_example/ml-100k/ml-100k.item"], "utf-8", "\t", None)
    found: Things = {}
    for row in rows:
        number, title, year, genres = (
            row[name].rstrip("\r")
            for name in ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
        )
        title += f" ({year})" if year.isdigit() else ""
        found[whole(number)] = film(number, title, [name for name in genres.split(" ") if name != "unknown"])
    return found


def line(text: str | None) -> str:
    return " ".join((text or "").split())


def own_items(rows: list[dict[str, str]]) -> Things:
    order = sorted(row["item_id"] for row in rows)
    found: Things = {}
    for row in rows:
        title, topics = line(row["title"]), [line(name) for name in row.get("topics", "").split("|") if line(name)]
        text = f"{title}. {', '.join(topics)}" if topics else title
        found[order.index(row["item_id"])] = Thing(row["item_id"], title.__eq__, lambda _, text=text: text, topics)
    return found


def printable(text: str) -> str:
    return line("".join(char if char.isprintable() else " " for char in text))


def side_table(data: bytes) -> dict[int, dict[str, str]]:
    """A side table of KuaiRec, by video; a stray carriage return is a space."""
    rows = quoted(data.replace(b"\r\n", b"\n").replace(b"\r", b" "))
    if len({row["video_id"] for row in rows}) < len(rows):
        raise ValueError("a video twice")
    return {whole(row["video_id"]): row for row in rows}


def videos(files: dict[str, bytes], shown: set[int], uploaded: dict[int, float]) -> Things:
    """What the two side tables say of the videos of a matrix, in the original language."""
    tags, captions = side_table(files["item_categories.csv"]), side_table(files["kuairec_caption_category.csv"])
    found: Things = {}
    for video in shown:
        cell = tags[video]["feat"].strip() if video in tags else "[]"
        if cell[:1] != "[" or cell[-1:] != "]":
            raise ValueError(cell)
        topics = list(dict.fromkeys(tag_name(whole(tag)).original for tag in cell[1:-1].split(",") if tag.strip()))
        row = captions.get(video, {})
        caption = printable(row.get("caption", ""))
        caption = "" if caption == "UNKNOWN" else caption
        levels = [
            printable(row.get(f"{level}_level_category_name", "UNKNOWN")) for level in ("first", "second", "third")
        ]
        path = [name for name in levels if name != "UNKNOWN"]
        hashtags = [printable(part) for part in row.get("topic_tag", "").strip("[]").split(",")]
        whole(row.get("first_level_category_id", -124))
        further = [name for name in topics if name not in path]
        parts = [caption, " > ".join(path), ", ".join(filter(None, [*hashtags, *further]))]
        text = ". ".join(filter(None, parts))

        def fits(title: str, caption: str = caption, path: list[str] = path, video: int = video) -> bool:
            if not caption:
                return title == f"{path[-1] if path else '视频'} {video}"
            return 0 < len(title) <= 40 and title.removesuffix("…") in caption

        found[video] = Thing(
            str(video), fits, lambda title, text=text: text or title, topics, uploaded.get(video, math.nan)
        )
    return found


def daily_rows(files: dict[str, bytes]) -> list[dict[str, str]]:
    rows = quoted(files["item_daily_features.csv"])
    sides = (side_table(files[name]) for name in ("item_categories.csv", "kuairec_caption_category.csv"))
    there = set().union(*sides)
    for row in rows:
        if whole(row["video_id"]) not in there:
            raise ValueError(row)
    return rows


def day(text: str, form: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, form).replace(tzinfo=datetime.UTC)


def plays_by_day(files: dict[str, bytes]) -> tuple[list[tuple[int, int, int]], int]:
    """(video, begin of the day in Beijing, plays) by video and day, and how many rows are none of these."""
    rows, found = daily_rows(files), {}
    for row in rows:
        begin = int(day(row["date"], "%Y%m%d").timestamp()) - 8 * 3600
        if row["play_cnt"] != "":
            plays = whole(row["play_cnt"])
            if plays < 0:
                raise ValueError(row)
            found.setdefault((whole(row["video_id"]), begin), plays)
    return sorted((*key, plays) for key, plays in found.items()), len(rows) - len(found)


def videos_of_matrix(files: dict[str, bytes]) -> Things:
    uploads: dict[int, list[float]] = collections.defaultdict(list)
    for row in daily_rows(files):
        if row["upload_dt"] != "":
            days = (day(row["upload_dt"], "%Y-%m-%d") - day("1970-01-01", "%Y-%m-%d")).days
            uploads[whole(row["video_id"])].append(1970 + days / 365.2425)
    shown = {whole(row["video_id"]) for row in quoted(files["small_matrix.csv"])}
    return videos(files, shown, {video: min(years) for video, years in uploads.items()})


def videos_of_sample(files: dict[str, bytes]) -> Things:
    return videos(files, {whole(item) for _, item, _, _ in kuairec_sample(files)}, {})


TIMES = [978300760 + 1000 * (3 * n % 7) for n in range(12)]
SIDE = {
    "item_categories.csv": b'video_id,feat\n0,[8]\n1,"[27, 9]"\n2,[]\n3,[1]\n',
    "kuairec_caption_category.csv": (
        "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
        "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
        "0,UNKNOWN,精神小伙,[],8,颜值,673,颜值随拍,-124,UNKNOWN\n1,UNKNOWN,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN\n"
        '2,x,"看, 一看",[快手],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n3,y,b,[],1,舞蹈,-124,UNKNOWN,-124,UNKNOWN\n'
    ).encode(),
}
DAILY = (
    b"video_id,date,author_id,upload_dt,play_cnt\n"
    b"0,20200705,9,2020-03-30,7\n0,20200706,9,2020-03-30,8\n1,20200705,9,2019-12-31,\n"
    b"2,20200705,9,,3\n2,20200705,9,,4\n3,20200707,9,2020-07-01,12.0\n"
)
MOVIES = (
    "0::Toy Story (1995)::Animation|Comedy\n1::Misérables, Les (1995)::Drama\n2::Heat (1995)::Action\n3::Up (2009)::\n"
)
PAIRS = [(user, item, 1 + (2 * user + item) % 5) for user in (1, 2, 3) for item in range(4)]

WORLDS = {
    "ml-1m": World(
        "ml-1m", {}, b"::",
        {
            "ml-1m/ratings.dat": "".join(
                f"{u}::{i}::{r}::{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True)
            ).encode(),
            "ml-1m/movies.dat": MOVIES.encode("latin-1"),
        },
        movielens_1m, films_1m, zipped,
    ),
    "ml-100k": World(
        "ml-100k", {}, b"\t",
        {
            "recbole/dataset_example/ml-100k/ml-100k.inter": (
                "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
                + "".join(f"{u}\t{i}\t{r}\t{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True))
            ).encode(),
            "recbole/dataset_example/ml-100k/ml-100k.item": (
                b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
                b"0\tToy Story\t1995\tAnimation\n1\tHeat\t1995\tAction Drama\n"
                b"2\tUp\tunknown\tunknown\n3\tA\t2001\tDrama\n"
            ),
        },
        movielens_100k, films_100k, zipped,
    ),
    "own": World(
        "own", {"timestamp_unit": "seconds", "repeats": "first", "topics_column": "topics"}, b",",
        {
            "interactions.csv": (
                "user_id,item_id,engagement,timestamp\n"
                + "".join(f"u{u},i{i},{r},{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True))
            ).encode(),
            "items.csv": (
                b'item_id,title,topics\ni0,Toy Story,family|fun\ni1,"Heat, again",\ni2,Up,"fun| sky "\ni3,A,x\n'
            ),
        },
        own, lambda files: own_items(quoted(files["items.csv"])), dropping=("repeated",),
    ),
    "kuairec": World(
        "kuairec", {}, b",",
        {
            "small_matrix.csv": (
                "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
                + "".join(
                    f"{u},{i},100,200,2020-07-05 00:08:23.438,20200705,{t}.438,{r / 3}\n"
                    for (u, i, r), t in zip(PAIRS, TIMES, strict=True)
                )
            ).encode(),
            "item_daily_features.csv": DAILY,
            **SIDE,
        },
        kuairec, videos_of_matrix, dropping=("rows without", "later plays"), daily=plays_by_day,
    ),
    "kuairec-sample": World(
        "kuairec-sample", {}, b",",
        {"small_matrix_sample_random.txt": "".join(f"{u},{i},{r / 3}\n" for u, i, r in PAIRS).encode(), **SIDE},
        kuairec_sample, videos_of_sample,
    ),
}  # fmt: skip
COUNTS = {"ml-1m": 250, "ml-100k": 200, "own": 260, "kuairec": 90, "kuairec-sample": 100}
PARQUET_MUTATIONS = 80  # of ESCI, and 50 more of own Parquet files


@pytest.fixture(scope="module")
def connection():
    return ibis.duckdb.connect()


def interactions_of(tables: Tables) -> pd.DataFrame:
    frame = tables.interactions
    return Interactions.validate(frame if isinstance(frame, pd.DataFrame) else frame.to_pandas())


def check(tables: Tables, rows: list[Row], dropping: tuple[str, ...], *, timed: bool = True) -> None:
    frame = interactions_of(tables)
    Items.validate(tables.items)
    assert set(frame[Columns.ITEM_ID]) <= set(tables.items[Columns.ITEM_ID])
    assert not frame.duplicated([Columns.USER_ID, Columns.ITEM_ID]).any()
    columns = [Columns.USER_ID, Columns.ITEM_ID, Columns.ENGAGEMENT, Columns.TIMESTAMP]
    found = [tuple(row if timed else row[:3]) for row in frame[columns].itertuples(index=False, name=None)]
    there = collections.Counter(row if timed else row[:3] for row in rows)
    assert not collections.Counter(found) - there, "an interaction that is not in the file"
    gone = sum(count for rule, count in tables.dropped.items() if rule.startswith(dropping)) if dropping else 0
    assert len(found) + gone == len(rows), "rows that are neither there nor counted"


def check_items(items: pd.DataFrame, there: Things) -> None:
    """Every item says what its file says, and none is missing."""
    assert sorted(items[Columns.ITEM_ID]) == sorted(there)
    for row in items.to_dict("records"):
        thing = there[row[Columns.ITEM_ID]]
        assert row[Columns.SOURCE_ID] == thing.source_id
        assert thing.fits(row[Columns.TITLE]), row
        assert row[Columns.TEXT] == thing.text(row[Columns.TITLE])
        assert list(row[Columns.TOPICS]) == thing.topics
        assert row[Columns.RELEASED] == pytest.approx(thing.released, nan_ok=True)


def check_daily(tables: Tables, there: tuple[list[tuple[int, int, int]], int]) -> None:
    rows, others = there
    assert tables.daily_counts is not None
    names = [Columns.ITEM_ID, Columns.TIMESTAMP, Columns.COUNT]
    assert [tuple(row) for row in tables.daily_counts[names].to_numpy().tolist()] == rows
    assert others == sum(count for rule, count in tables.dropped.items() if "daily counts" in rule)


def clear(error: InputError) -> None:
    """One sentence or two that name a file, without the whole of a value."""
    message = str(error)
    assert 20 < len(message) < 1200
    assert "Traceback" not in message


@pytest.mark.parametrize("name", WORLDS)
def test_the_files_as_they_are(tmp_path, connection, name) -> None:
    world = WORLDS[name]
    tables = source_of(world.source, world.options).read(world.pack(tmp_path, world.files), connection)
    check(tables, world.naive(world.files), world.dropping, timed=name != "kuairec-sample")
    check_items(tables.items, world.things(world.files))
    if world.daily:
        check_daily(tables, world.daily(world.files))
        assert len(tables.daily_counts) == 4
    assert len(interactions_of(tables)) == len(PAIRS)


@pytest.mark.parametrize("name", WORLDS)
def test_mutations(tmp_path, connection, name) -> None:
    world = WORLDS[name]
    rng = np.random.default_rng([4, sorted(WORLDS).index(name)])
    source = source_of(world.source, world.options)
    outcomes = collections.Counter()
    for turn in range(COUNTS[name]):
        # the interactions are hit half of the time
        victim = next(iter(world.files)) if rng.random() < 0.5 else str(rng.choice(list(world.files)))
        files = {**world.files, victim: mutate_text(world.files[victim], world.separator, rng)}
        raw = world.pack(fresh(tmp_path), files)
        if world.pack is zipped and turn % 10 == 0:
            # and the archive itself
            whole_file = bytearray(raw.read_bytes())
            whole_file[int(rng.integers(0, len(whole_file)))] ^= 1 << int(rng.integers(0, 8))
            raw.write_bytes(whole_file)
        try:
            tables = source.read(raw, connection)
            interactions_of(tables)
        except InputError as error:
            clear(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        try:
            rows, things = world.naive(files), world.things(files)
            daily = world.daily and world.daily(files)
        except (ValueError, KeyError, csv.Error) as error:
            pytest.fail(
                f"mutation {turn} of {victim} was read, but a row of it is unsound: {error!r}\n{files[victim][:400]!r}"
            )
        check(tables, rows, world.dropping, timed=name != "kuairec-sample")
        check_items(tables.items, things)
        if daily:
            check_daily(tables, daily)
    # both happen, so that neither half of the test is idle
    assert min(outcomes["read"], outcomes["refused"]) > 0.15 * COUNTS[name], outcomes


# ---- Parquet ----

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


def test_mutations_of_esci(tmp_path, connection) -> None:
    rng = np.random.default_rng([4, 100])
    source = source_of("esci", {})
    original = esci_world()
    outcomes = collections.Counter()
    for turn in range(PARQUET_MUTATIONS):
        victim = EXAMPLES_FILE if turn % 2 else PRODUCTS_FILE
        tables = {**original, victim: mutate_table(original[victim], rng)}
        folder = fresh(tmp_path)
        for name, table in tables.items():
            pq.write_table(table, folder / name)
        try:
            read = source.read(folder, connection)
            interactions_of(read)
        except InputError as error:
            clear(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert read.queries is not None
        Queries.validate(read.queries)
        check(read, esci_naive(tables), ("judgments",))
        check_items(read.items, esci_things(tables))
        asked = zip(*(read.queries[name] for name in (Columns.USER_ID, Columns.QUERY, Columns.SPLIT)), strict=True)
        assert {user: (query, split == "test") for user, query, split in asked} == esci_queries(tables)
    assert min(outcomes["read"], outcomes["refused"]) > 0.15 * PARQUET_MUTATIONS, outcomes


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
    for turn in range(50):
        tables = {"interactions.parquet": plays, "items.parquet": songs}
        victim = "items.parquet" if turn % 3 == 0 else "interactions.parquet"
        tables[victim] = mutate_table(tables[victim], rng)
        folder = fresh(tmp_path)
        for name, table in tables.items():
            pq.write_table(table, folder / name)
        try:
            read = source.read(folder, connection)
            interactions_of(read)
        except InputError as error:
            clear(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
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


def test_a_thousand() -> None:
    assert sum(COUNTS.values()) + PARQUET_MUTATIONS + 50 >= 1000
    assert json.loads(json.dumps(COUNTS)) == COUNTS
