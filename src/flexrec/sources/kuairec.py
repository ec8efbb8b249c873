"""KuaiRec 2.0 (Gao et al., 2022, doi 10.1145/3511808.3557220; CC BY-SA 4.0): videos, and how long people watched.

Written against the published layout. The side tables and a sample of the small matrix have been seen and are read as
they are (`KuaiRecSample`); the matrices with times and the daily features have not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources.fabricator.kuairec import write_kuairec
from flexrec.sources.fetch import digest_of, extract_member, fetch_url, verified
from flexrec.sources.kuairec_videos import CAPTIONS_FILE, CATEGORIES_FILE, Language, occurring, videos_table
from flexrec.sources.tables import EARLIEST, LATEST, Tables, interactions_table, read_delimited
from flexrec.sources.typed_csv import Kind, header_of, read_typed_csv, refuse_first
from flexrec.tabular import DAY, first_ranked, kept

if TYPE_CHECKING:
    import ibis
    import pandas as pd
    from ibis.backends import BaseBackend

logger = logging.getLogger(__name__)

ADDRESS = "https://zenodo.org/records/18164998/files/KuaiRec.zip"
ARCHIVE = "KuaiRec.zip"
# Zenodo publishes MD5 alone; no SHA-256 of this archive is known from its makers
MD5 = "261550d472c48eff4990fb13c0e5bcf7"

DAILY_FILE = "item_daily_features.csv"
SAMPLE_FILE = "small_matrix_sample_random.txt"
SAMPLE_SHA256 = {
    SAMPLE_FILE: "1ee0ae5fb3b8c240cfb036dc761f5206b78b3d391b76d775bd8d59326614203a",
    CATEGORIES_FILE: "b8b8330387cd69659ff6b35b9b69bb35303196a5264d5d7743e92ae8e19cd15e",
    CAPTIONS_FILE: "08f6ec40059c5a7ecdcebf615d080d9cf8f59f9497f6d66e8d5ccabdc7cab2d9",
}
LICENCE = (
    "KuaiRec is CC BY-SA 4.0; cite Gao et al., KuaiRec: A Fully-observed Dataset and Insights for Evaluating "
    "Recommender Systems, CIKM 2022, doi 10.1145/3511808.3557220"
)

DAYS_PER_YEAR = 365.2425
BEIJING = 8 * 3_600  # the makers' dates are local
PSEUDO_BEGIN = 1_593_878_400  # 2020-07-05 in Beijing, where the real matrices begin

_MATRIX: dict[str, Kind] = {"user_id": "whole", "video_id": "whole", "timestamp": "number", "watch_ratio": "number"}


class KuaiRec(Settings):
    """One of the two matrices of the official archive."""

    matrix: Literal["small", "big"] = Field(
        default="small", description="small: 1,411 users, every pair judged; big: 7,176 users, what they were shown."
    )
    language: Language = Field(default="original", description="Of titles and topics; captions stay as they are.")
    md5: str = Field(
        default=MD5,
        pattern="^([0-9a-f]{32})?$",
        description="MD5 that KuaiRec.zip must have; empty takes any archive with the right files in it.",
    )

    def fetch(self, raw_folder: Path) -> Path:
        """Return a folder with the CSV files: unpacked out of `raw_folder/KuaiRec.zip`, or put there by hand.

        The archive is used if it is there; else the files in `raw_folder/kuairec` (as they are, or in the archive's own
        folders); else the archive is downloaded. Of an archive only what is needed is unpacked, once, into a folder
        named after its digest.

        Raises:
            InputError: Another digest, a broken archive, a file that is missing, or a download that failed.
        """
        archive, folder = raw_folder / ARCHIVE, raw_folder / "kuairec"
        if not archive.exists():
            if by_hand := _unpacked(folder, self._needed):
                logger.info("%s: files put there by hand are used as they are, without a digest", by_hand)
                return by_hand
            try:
                fetch_url(ADDRESS, f"md5:{self.md5}" if self.md5 else None, raw_folder)
            except InputError as error:
                raise InputError(f"{error} Or put its CSV files into {folder}. {LICENCE}.") from error
        if self.md5:
            verified(archive, f"md5:{self.md5}")
        members = _members(archive)
        if absent := [name for name in self._needed if name not in members]:
            raise InputError(
                f"{archive} has no {', '.join(absent)}; it holds {', '.join(sorted(members)) or 'no CSV file'}"
            )
        target = folder / digest_of(archive, "md5")[:12]
        for name in (*self._needed, DAILY_FILE):
            if name in members and not (target / name).exists():
                logger.info("unpacking %s", name)
                extract_member(archive, members[name], target / name, None)
        return target

    @property
    def _needed(self) -> tuple[str, ...]:
        return (f"{self.matrix}_matrix.csv", CATEGORIES_FILE, CAPTIONS_FILE)

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Read a folder of the official CSV files; the matrix stays with the engine.

        `engagement` is the watch ratio, `timestamp` the second in which the play began. A row without a time is
        dropped; of several rows of one (user, video) the earliest is kept (of equal times the one with the smaller
        watch ratio). `event_id` is the rank in (time, user, video), which is the makers' order where times are equal.

        Raises:
            InputError: A missing file or column, an unreadable row, a watch ratio that is missing, negative or not
                finite, a time outside 1990 to 2100, an unknown video.
        """
        items, repaired = videos_table(raw, self.language)
        interactions, videos, dropped = _interactions(raw / f"{self.matrix}_matrix.csv", items, connection)
        daily, uploaded, daily_dropped = _daily_features(raw / DAILY_FILE, items)
        items[Columns.RELEASED] = items[Columns.ITEM_ID].map(uploaded).astype(float)
        items, left_out = occurring(items, videos)
        if daily is not None:
            daily = daily[daily[Columns.ITEM_ID].isin(items[Columns.ITEM_ID])].reset_index(drop=True)
        dropped = {**dropped, **repaired, **daily_dropped, **left_out}
        return Tables(interactions, items, daily_counts=daily, dropped=dropped)


class FabricatedKuaiRec(KuaiRec):
    """The same of a made-up world in the official layout: nothing in it was watched by anybody."""

    scale: float = Field(default=0.01, gt=0, le=10, description="Times the published number of rows.")
    seed: int = Field(default=0, ge=0, description="Of everything in the world.")
    md5: str = Field(default="", pattern="^$", description="A made-up archive has no published digest.")

    def fetch(self, raw_folder: Path) -> Path:
        """Write the archive into a folder of its own unless it is there, and unpack what is needed."""
        folder = raw_folder / f"fabricated-kuairec-{self.scale:g}-{self.seed}"
        if not (folder / ARCHIVE).exists():
            write_kuairec(folder, self.scale, self.seed)
        return super().fetch(folder)


class KuaiRecSample(Settings):
    """The real side tables and 117,113 real pairs of the small matrix, 83 per user, without times."""

    language: Language = Field(default="original", description="Of titles and topics; captions stay as they are.")

    def fetch(self, raw_folder: Path) -> Path:
        """Return `raw_folder/kuairec-sample`, where the three files have to be put by hand.

        Raises:
            InputError: A file is missing or has another digest.
        """
        folder = raw_folder / "kuairec-sample"
        if absent := [name for name in SAMPLE_SHA256 if not (folder / name).is_file()]:
            files = "; ".join(f"{name} (SHA-256 {SAMPLE_SHA256[name]})" for name in absent)
            raise InputError(f"{folder}: put these files there by hand: {files}. {LICENCE}.")
        for name, digest in SAMPLE_SHA256.items():
            verified(folder / name, digest)
        return folder

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Read the folder; the connection is not needed for a table of this size.

        The pairs have no time. They are put into a pseudo order, by md5("user|video"), with pseudo timestamps one
        second apart, so that a history is a fixed random part of what the user watched.

        Raises:
            InputError: A missing file, an unreadable row, a watch ratio that is negative or not finite, a repeated
                pair, an unknown video.
        """
        items, repaired = videos_table(raw, self.language)
        path = raw / SAMPLE_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        frame = read_delimited(
            path.read_bytes(),
            (Columns.USER_ID, Columns.ITEM_ID, Columns.ENGAGEMENT),
            file=str(path),
            separator=b",",
            encoding="utf-8",
            header=False,
            kind="numbers",
        )
        digests = [
            hashlib.md5(f"{user}|{item}".encode(), usedforsecurity=False).hexdigest()
            for user, item in zip(frame[Columns.USER_ID].tolist(), frame[Columns.ITEM_ID].tolist(), strict=True)
        ]
        frame[Columns.TIMESTAMP] = PSEUDO_BEGIN + np.argsort(np.argsort(np.array(digests), kind="stable"))
        interactions = interactions_table(
            frame,
            file=str(path),
            first_row=1,
            items=items[Columns.ITEM_ID].to_numpy(),
            engagement_name="watch ratio",
            engagement_range=(0.0, math.inf),
        )
        items, left_out = occurring(items, interactions[Columns.ITEM_ID])
        dropped = {"pairs without a time, put into a pseudo order": len(interactions)}
        return Tables(interactions, items, dropped={**dropped, **repaired, **left_out})


# ---- files ----


def _unpacked(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder at or below `folder` that holds all the files by hand, in the archive's layout or flat."""
    for place in (folder, folder / "data", folder / "KuaiRec 2.0" / "data", folder / "KuaiRec" / "data"):
        if all((place / name).is_file() for name in names):
            return place
    return None


def _members(archive: Path) -> dict[str, str]:
    """CSV file name -> member of the archive."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            names = [name for name in zipped.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX")]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{archive}: truncated, damaged or not an archive ({error}); move it away so that it is fetched again"
        ) from error
    members = {name.rpartition("/")[2]: name for name in names}
    if len(members) < len(names):
        raise InputError(f"{archive}: a file occurs in several folders: {', '.join(names)}")
    return members


# ---- the matrix ----


def _interactions(
    path: Path, items: pd.DataFrame, connection: BaseBackend
) -> tuple[ibis.Table, pd.Series, dict[str, int]]:
    """The common table, every video of the file, and what was dropped."""
    source = read_typed_csv(connection, path, _MATRIX)
    known = set(items[Columns.ITEM_ID].tolist())

    def rule(row: dict[str, float | None]) -> str | None:
        user, video, seconds, ratio = (row[name] for name in _MATRIX)
        if user is None or video is None:
            return "the user or the video is missing"
        if ratio is None or not 0 <= ratio < math.inf:
            return f"watch_ratio {'is missing' if ratio is None else f'{ratio:g} is not a finite number from 0 on'}"
        if seconds is not None and not math.isnan(seconds) and not EARLIEST <= seconds <= LATEST:
            return f"timestamp {seconds:g} is not in epoch seconds"
        if int(video) not in known:
            return f"video {int(video)} is not in {CATEGORIES_FILE} or {CAPTIONS_FILE}"
        return None

    def refuse(otherwise: str) -> None:
        refuse_first(path, _MATRIX, {"user": "user_id", "video": "video_id"}, rule, otherwise=otherwise)

    try:
        rows = kept(source, in_order=False)  # nothing below depends on it
        counts = connection.to_pandas(_counts(rows)).iloc[0]
    except Exception as error:  # every engine has exceptions of its own for a row that it cannot read
        if isinstance(error, MemoryError):
            raise
        refuse(f"the engine cannot read it ({' '.join(str(error).split())[:200]})")
        raise
    if not counts["total"]:
        raise InputError(f"{path}: there are no rows")
    if counts["bad"]:
        refuse(f"{counts['bad']} rows without user, video, a sound watch ratio or a sound time")
    videos = connection.to_pandas(rows.select("video_id").distinct())["video_id"]
    if not known.issuperset(videos.tolist()):
        refuse("a video is unknown")

    # the smaller ratio settles equal times, so that no engine's order of rows matters
    key = ("user_id", "video_id")
    ordered = first_ranked(rows, _has_time(rows), "timestamp", key, "watch_ratio", Columns.EVENT_ID, connection)
    interactions = ordered.select(
        ordered["user_id"].cast("int64").name(Columns.USER_ID),
        ordered["video_id"].cast("int64").name(Columns.ITEM_ID),
        ordered["timestamp"].floor().cast("int64").name(Columns.TIMESTAMP),
        ordered["watch_ratio"].name(Columns.ENGAGEMENT),
        Columns.EVENT_ID,
    )
    count = int(connection.to_pandas(interactions.count()))
    if not count:
        raise InputError(f"{path}: no row has a time")
    total, no_time = int(counts["total"]), int(counts["no_time"])
    return (
        interactions,
        videos,
        {
            "rows without a time, dropped": no_time,
            "later plays of the same user and video, dropped": total - no_time - count,
        },
    )


def _has_time(rows: ibis.Table) -> ibis.Value:
    return rows["timestamp"].notnull() & ~rows["timestamp"].isnan()


def _counts(rows: ibis.Table) -> ibis.Table:
    ratio, seconds = rows["watch_ratio"], rows["timestamp"]
    sound = rows["user_id"].notnull() & rows["video_id"].notnull() & ratio.notnull()
    sound = sound & ~ratio.isnan() & ~ratio.isinf() & (ratio >= 0)
    has_time = _has_time(rows)
    in_range = ~has_time | ((seconds >= EARLIEST) & (seconds <= LATEST))
    return rows.aggregate(
        total=rows.count(),
        no_time=rows.count(where=~has_time),
        bad=rows.count(where=~(sound.fill_null(False) & in_range.fill_null(False))),
    )


def _daily_features(path: Path, items: pd.DataFrame) -> tuple[pd.DataFrame | None, Mapping[int, float], dict[str, int]]:
    """The platform's plays per video and day (None without the file), and the year of each video's upload."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.csv

    if not path.exists():
        logger.info("%s is not there: trend counts come from the interactions", path.name)
        return None, {}, {}
    columns = ["video_id", "date", "play_cnt", "upload_dt"]
    if absent := [name for name in columns if name not in header_of(path)]:
        raise InputError(f"{path}: column {', '.join(absent)} is missing. Fetch the file again.")
    options = pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    try:
        text = pa.csv.read_csv(path, convert_options=options).to_pandas()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}). Fetch the file again.") from error

    def refuse(bad: np.ndarray, problem: str) -> None:
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = text.iloc[at]
            raise InputError(
                f"{path}, row {at + 2} (video {row['video_id']}, date {row['date']}): {problem.format(**row)}. "
                "Correct or remove the row, or fetch the file again."
            )

    def days(column: str, form: str) -> np.ndarray:
        read = {cell: pd.to_datetime(cell, format=form, errors="coerce") for cell in text[column].unique()}
        return text[column].map(read).to_numpy(dtype="datetime64[s]")

    videos, plays = (pd.to_numeric(text[name], errors="coerce").to_numpy(float) for name in ("video_id", "play_cnt"))
    refuse(
        ~np.isin(videos, items[Columns.ITEM_ID].to_numpy()), f"the video is not in {CATEGORIES_FILE} or {CAPTIONS_FILE}"
    )
    begins, uploads = days("date", "%Y%m%d"), days("upload_dt", "%Y-%m-%d")
    refuse(np.isnat(begins), "the date is not like 20200705")
    refuse(np.isnat(uploads) & (text["upload_dt"] != "").to_numpy(), "upload_dt {upload_dt} is not like 2020-03-30")
    missing = (text["play_cnt"] == "").to_numpy()
    sound = np.isfinite(plays) & (plays >= 0) & (plays == np.floor(plays))
    refuse(~missing & ~sound, "play_cnt {play_cnt} is not a count")

    frame = pd.DataFrame(
        {
            Columns.ITEM_ID: videos.astype(np.int64),
            Columns.TIMESTAMP: begins.astype(np.int64) - BEIJING,
            Columns.COUNT: np.where(sound, plays, 0).astype(np.int64),
            "uploaded": 1970 + uploads.astype(np.int64) / (DAYS_PER_YEAR * DAY),
        }
    )
    uploaded = frame[~np.isnat(uploads)].groupby(Columns.ITEM_ID)["uploaded"].min().to_dict()
    counted = frame[~missing].drop(columns="uploaded")
    once = counted.drop_duplicates([Columns.ITEM_ID, Columns.TIMESTAMP])
    dropped = {
        "daily counts without a number of plays, dropped": int(missing.sum()),
        "further daily counts of the same video and date, dropped": len(counted) - len(once),
    }
    once = once.sort_values([Columns.ITEM_ID, Columns.TIMESTAMP]).reset_index(drop=True)
    return once, uploaded, {words: count for words, count in dropped.items() if count}
