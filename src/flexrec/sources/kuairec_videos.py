"""The videos of KuaiRec: titles, texts and topics from its two side tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources.kuairec_categories import CATEGORIES, MISSING_ID, MISSING_NAME, tag_name
from flexrec.sources.tables import items_table
from flexrec.sources.typed_csv import header_of

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES_FILE = "item_categories.csv"
CAPTIONS_FILE = "kuairec_caption_category.csv"
TITLE_CHARS = 40

Language = Literal["original", "english"]

_LEVELS = ("first", "second", "third")
_CAPTIONS = (
    "video_id",
    "caption",
    "topic_tag",
    "first_level_category_id",
    *(f"{level}_level_category_name" for level in _LEVELS),
)
_TAGS = re.compile(r"\[\s*(\d+(?:\s*,\s*\d+)*)?\s*\]")
# what an author puts first for reach says little about the video: hashtags, and mentions like @name(O1970045269)
_FOR_REACH = re.compile(r"(?:[#\uff03][^\s#\uff03]*\s*|@[^@()]{1,40}\(O\d+\)\s*)+")


def videos_table(raw: Path, language: Language) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read every video of the two side tables.

    Args:
        raw: Folder of the CSV files.
        language: Of titles and topics.

    Returns:
        The items, by id, and by what was repaired or is missing how many of them.

    Raises:
        InputError: No such file, not UTF-8, a column that is missing, a bad row.
    """
    tag_rows, _ = _rows(raw / CATEGORIES_FILE, ("video_id", "feat"))
    caption_rows, repaired = _rows(raw / CAPTIONS_FILE, _CAPTIONS)
    tags = {video: _tags(row["feat"], place) for video, (place, row) in tag_rows.items()}
    texts = {video: row for video, (_, row) in caption_rows.items()}
    for place, row in caption_rows.values():
        if not re.fullmatch(r"-?\d{1,9}", row["first_level_category_id"]):
            raise InputError(
                f"{place}: first_level_category_id {row['first_level_category_id']!r} is not a whole number"
            )
    videos = sorted(tags.keys() | texts.keys())
    described = [_described(video, tags.get(video, []), texts.get(video), language) for video in videos]
    items = items_table(
        [str(video) for video in videos],
        [title for title, _, _ in described],
        [text for _, text, _ in described],
        [topics for _, _, topics in described],
        file=str(raw / CATEGORIES_FILE),
        first_row=2,
    )
    notes = {
        "carriage returns inside rows of the captions, made spaces": repaired,
        f"videos without a row in {CAPTIONS_FILE}, named by their tags": len(videos) - len(texts),
        f"videos without a row in {CATEGORIES_FILE}, without topics": len(videos) - len(tags),
    }
    return items, {words: count for words, count in notes.items() if count}


def occurring(items: pd.DataFrame, videos: pd.Series) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep what somebody was shown; the others can be no candidate, and embedding them takes most of the time."""
    shown = items[items[Columns.ITEM_ID].isin(videos)].reset_index(drop=True)
    return shown, {"videos that occur in no row of the matrix, left out": len(items) - len(shown)}


def _described(
    video: int, tags: Sequence[int], row: dict[str, str] | None, language: Language
) -> tuple[str, str, list[str]]:
    """Title, text and topics of a video."""
    english = language == "english"
    row = row or {}
    caption = _line(row.get("caption", ""))
    caption = "" if caption == MISSING_NAME else caption
    category = int(row.get("first_level_category_id", MISSING_ID))
    path = [
        name
        for level in _LEVELS
        if (name := _line(row.get(f"{level}_level_category_name", MISSING_NAME))) != MISSING_NAME
    ]
    hashtags = [name for part in row.get("topic_tag", "").strip("[]").split(",") if (name := _line(part))]
    names = [tag_name(tag) for tag in tags]
    topics = list(dict.fromkeys(name.english if english else name.original for name in names))

    in_english = CATEGORIES.get(category, CATEGORIES[MISSING_ID]).english
    others = [name for name in topics if name != in_english and name not in path]
    if english:
        title = f"{in_english} {video}" + (f" ({', '.join(others)})" if others else "")
    else:
        reach = _FOR_REACH.match(caption)
        title = (caption[reach.end() :] if reach else "") or caption or f"{path[-1] if path else '视频'} {video}"
        title = title if len(title) <= TITLE_CHARS else title[: TITLE_CHARS - 1].rstrip() + "…"
    parts = [caption, " > ".join(path), ", ".join([*hashtags, *([] if english else others)])]
    if english:
        parts = [in_english, ", ".join(others), *parts]
    return title, ". ".join(part for part in parts if part) or title, topics


def _line(text: str) -> str:
    """One line without control characters."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())


def _tags(cell: str, place: str) -> list[int]:
    match = _TAGS.fullmatch(cell.strip())
    if match is None:
        raise InputError(f"{place}: feat {cell[:60]!r} is not a list of tags like [27, 9]")
    return [int(tag) for tag in match[1].split(",")] if match[1] else []


def _rows(path: Path, columns: Sequence[str]) -> tuple[dict[int, tuple[str, dict[str, str]]], int]:
    """Read a side table: video -> (place for messages, row); and how many stray carriage returns became spaces.

    Raises:
        InputError: No such file, not UTF-8, a column that is missing, a row of another length, a video id that is not a
            whole number or occurs twice.
    """
    names = header_of(path)
    if absent := [name for name in columns if name not in names]:
        raise InputError(f"{path}: column {', '.join(absent)} is missing; the header has {', '.join(names)}")
    data = path.read_bytes().replace(b"\r\n", b"\n")
    stray = data.count(b"\r")
    try:
        text = data.replace(b"\r", b" ").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, row {at}: not UTF-8 text ({error.reason}); fetch the file again") from error
    rows: dict[int, tuple[str, dict[str, str]]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        next(reader)
        for cells in reader:
            where = f"{path}, row {reader.line_num}"
            if len(cells) != len(names):
                raise InputError(f"{where}: {len(cells)} fields, expected {len(names)}; fetch the file again")
            row = dict(zip(names, cells, strict=True))
            video = row["video_id"]
            if not (video.isascii() and video.isdigit() and len(video) <= 18):
                raise InputError(f"{where}: video id {video[:60]!r} is not a whole number")
            if int(video) in rows:
                raise InputError(f"{where}: video {video} occurs before")
            rows[int(video)] = (f"{where} (video {video})", row)
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: {error}; fetch the file again") from error
    if not rows:
        raise InputError(f"{path}: there are no rows")
    return rows, stray
