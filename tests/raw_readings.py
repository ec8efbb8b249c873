"""Raw files of every source by an independent reading: Python's csv module and float, pyarrow for Parquet."""

import collections
import csv
import datetime
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Interactions, Items
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


# ---- what a source returned, against them ----


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
