"""A made-up `KuaiRec.zip`: all seven files of the official archive (Gao et al., 2022, doi 10.1145/3511808.3557220).

Videos have tags, a quality, a popularity and a burst of plays; users have tastes over the tags and a habit of watching
long or short. The watch ratio `w` of a pair is long-tailed with a noise of its own size (heteroscedastic):

    log w = m(user, video) + s(user, video) * standard normal,      m = level + quality + habit + taste . tags

Then a few plays run in a loop (times 1 + 3 * Pareto(2.5)) and a few are left at once (0). The planted mean and variance
of every pair follow in closed form and are written beside the archive.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from flexrec.files import replacing
from flexrec.sources.fabricator.scale import scaled, shared_out
from flexrec.sources.fabricator.words import words
from flexrec.sources.kuairec_categories import CATEGORIES, MISSING_ID, MISSING_NAME

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

logger = logging.getLogger(__name__)

ARCHIVE = "KuaiRec.zip"
FOLDER = "KuaiRec 2.0/data"
TRUTH_FOLDER = "KuaiRec-fabricated-truth"

# published
SMALL_USERS, SMALL_VIDEOS, SMALL_PAIRS = 1_411, 3_327, 4_676_570
BIG_USERS, BIG_VIDEOS, BIG_ROWS = 7_176, 10_728, 12_530_806
BEGIN = 1_593_878_400  # 2020-07-05 00:00 in Beijing, in epoch seconds
BEIJING_HOURS = 8
DAYS = 63
TAGS = 31
FRIENDLY_USERS = 472
# counted in the published matrices (rows) and side tables (videos) of version 2.0
SMALL_WITHOUT_TIME = 181_992 / SMALL_PAIRS
BIG_COPIES = 965_819 / BIG_ROWS
DAILY_ROWS = 343_341 / (BIG_VIDEOS * DAYS)
WITHOUT_CAPTION = 1_355 / BIG_VIDEOS
WITHOUT_CATEGORY = 40 / BIG_VIDEOS
CARRIAGE_RETURNS = 4 / BIG_VIDEOS

# chosen so that the watch ratios have the quartiles .47, .78, 1.14, the mean .92 and the tail of the real sample
LEVEL, QUALITY_SD, HABIT_SD, TASTE_SD, NOISE_SD = -0.34, 0.30, 0.18, 0.28, 0.45
LOOPED, LOOP_SIZE, LOOP_TAIL = 0.003, 3.0, 2.5
LEFT_AT_ONCE = 0.005
BIG_REWATCHES = 0.05  # rows of the big matrix that are another play of a pair
BURSTING, BURST_DAYS = 0.6, 2.0  # share of a video's plays in its burst, and the burst's mean length

_USERS_PER_CHUNK = 128
_DATE = (2020, 1, 1, 0, 0, 0, 0, 1, -1)
_DAILY_COLUMNS = words(
    """
    video_id date author_id video_type upload_dt upload_type visible_status video_duration video_width
    video_height music_id video_tag_id video_tag_name show_cnt show_user_num play_cnt play_user_num
    play_duration complete_play_cnt complete_play_user_num valid_play_cnt valid_play_user_num
    long_time_play_cnt long_time_play_user_num short_time_play_cnt short_time_play_user_num
    play_progress comment_stay_duration like_cnt like_user_num click_like_cnt double_click_cnt
    cancel_like_cnt cancel_like_user_num comment_cnt comment_user_num direct_comment_cnt
    reply_comment_cnt delete_comment_cnt delete_comment_user_num comment_like_cnt comment_like_user_num
    follow_cnt follow_user_num cancel_follow_cnt cancel_follow_user_num share_cnt share_user_num
    download_cnt download_user_num report_cnt report_user_num reduce_similar_cnt reduce_similar_user_num
    collect_cnt collect_user_num cancel_collect_cnt cancel_collect_user_num
    """
)
# tags of the categories that the tags do not know, as the published tables pair them
_TAG_OF = {31: 7, 32: 6, 33: 11, 34: 11, 35: 28, 36: 11, 37: 28, 38: 19, 39: 6, MISSING_ID: 0}


@dataclass(frozen=True)
class _World:
    """What is planted. Dimensions: V videos, U users."""

    category: Int[np.ndarray, " V"]
    tags: list[list[int]]
    tag_shares: Float[np.ndarray, "V tags"]
    quality: Float[np.ndarray, " V"]
    popularity: Float[np.ndarray, " V"]
    noisiness: Float[np.ndarray, " V"]
    burst_day: Float[np.ndarray, " V"]
    duration: Int[np.ndarray, " V"]
    tastes: Float[np.ndarray, "U tags"]
    habit: Float[np.ndarray, " U"]
    restlessness: Float[np.ndarray, " U"]

    def level(self, users: Int[np.ndarray, " n"], videos: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """m(user, video), the mean of the log watch ratio."""
        taste = np.empty(len(users), dtype=np.float32)
        for start in range(0, len(users), 1 << 18):
            part = slice(start, start + (1 << 18))
            taste[part] = np.einsum("ij,ij->i", self.tastes[users[part]], self.tag_shares[videos[part]])
        return (LEVEL + self.quality[videos] + self.habit[users] + TASTE_SD * taste).astype(np.float32)

    def spread(self, users: Int[np.ndarray, " n"], videos: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """s(user, video), the standard deviation of the log watch ratio."""
        return (self.noisiness[videos] * self.restlessness[users]).astype(np.float32)


@dataclass(frozen=True)
class _Plays:
    """Rows of a matrix; `milliseconds` counts from `BEGIN`, -1 where the time is missing."""

    users: Int[np.ndarray, " n"]
    videos: Int[np.ndarray, " n"]
    milliseconds: Int[np.ndarray, " n"]
    watched: Int[np.ndarray, " n"]

    def taken(self, places: Int[np.ndarray, " m"]) -> _Plays:
        return _Plays(self.users[places], self.videos[places], self.milliseconds[places], self.watched[places])


def write_kuairec(folder: Path, scale: float, seed: int, *, truth: bool = True, compressed: bool = True) -> Path:
    """Write `KuaiRec.zip` and, in a folder beside it, the planted truth.

    Args:
        folder: Where both go; made if missing, files of the same name are replaced.
        scale: Times the published number of rows. Users and videos grow with its root, so that the matrices stay as
            dense as published (99.6% and about 16%).
        seed: Of everything; the same arguments give the same bytes.
        truth: Whether to write the truth: `<matrix>.parquet` with user_id, video_id, mean and variance of the watch
            ratio of every pair that occurs.
        compressed: Whether the archive's members are compressed, as the makers' are; without it writing is faster.

    Returns:
        The archive.

    Raises:
        InputError: A scale that is not positive.
    """
    scaled(1, scale, least=1)
    side = math.sqrt(scale)
    users, videos = scaled(BIG_USERS, side, least=24), scaled(BIG_VIDEOS, side, least=90)
    small_users, small_videos = scaled(SMALL_USERS, side, least=12), scaled(SMALL_VIDEOS, side, least=60)
    small_pairs = round(small_users * small_videos * SMALL_PAIRS / (SMALL_USERS * SMALL_VIDEOS))

    world = _world(users, videos, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    in_small_users = np.sort(rng.choice(users, small_users, replace=False))
    in_small_videos = np.sort(rng.choice(videos, small_videos, replace=False, p=_softmax(world.popularity)))
    archive = folder / ARCHIVE
    logger.info("drawing the small matrix: %d users, %d videos, %d pairs", small_users, small_videos, small_pairs)
    small = _small_matrix(world, in_small_users, in_small_videos, small_pairs, np.random.default_rng([seed, 2]))
    rows = scaled(BIG_ROWS, scale, least=2_000)
    logger.info("drawing the big matrix: %d users, %d videos, %d rows", users, videos, rows)
    big = _big_matrix(world, in_small_users, in_small_videos, rows, seed)

    side_tables = {
        "item_categories.csv": _categories_csv(world),
        "user_features.csv": _users_csv(users, np.random.default_rng([seed, 6])),
        "kuairec_caption_category.csv": _captions_csv(world, np.random.default_rng([seed, 7])),
        "social_network.csv": _friends_csv(users, np.random.default_rng([seed, 8])),
    }
    folder.mkdir(parents=True, exist_ok=True)
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".fabricate-") as scratch,
        replacing(archive, "wb") as sink,
        zipfile.ZipFile(sink, "w", method, compresslevel=1) as zipped,
    ):
        note = "A made-up world in the layout of KuaiRec 2.0. Nothing in it was watched by anybody.\n"
        _add(zipped, "KuaiRec 2.0/FABRICATED.txt", _written(Path(scratch) / "FABRICATED.txt", note))
        for name, text in side_tables.items():
            _add(zipped, f"{FOLDER}/{name}", _written(Path(scratch) / name, text))
        daily = _daily_csv(Path(scratch), world, np.random.default_rng([seed, 5]))
        _add(zipped, f"{FOLDER}/{daily.name}", daily)
        for name, plays, float_dates in (("small_matrix", small, True), ("big_matrix", big, False)):
            logger.info("writing %s.csv", name)
            csv = Path(scratch) / f"{name}.csv"
            _write_matrix(csv, plays, world.duration, float_dates=float_dates)
            _add(zipped, f"{FOLDER}/{name}.csv", csv)
    if truth:
        logger.info("writing the planted truth")
        _write_truth(folder / TRUTH_FOLDER, world, {"small_matrix": small, "big_matrix": big})
    return archive


def pair_moments(
    level: Float[np.ndarray, " n"], spread: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and variance of the planted watch ratio.

    With `L = exp(level + spread * N(0, 1))`, a loop factor `F = 1 + c X` with probability `p` (X Pareto with tail `a`,
    so `E X = 1/(a-1)`, `E X^2 = 2/((a-1)(a-2))`) and 0 with probability `z`:
    `E w = (1-z) E L E F`, `E w^2 = (1-z) E L^2 E F^2`.

    Args:
        level: Mean of the log watch ratio.
        spread: Its standard deviation.
    """
    first, second = 1 / (LOOP_TAIL - 1), 2 / ((LOOP_TAIL - 1) * (LOOP_TAIL - 2))
    level, spread = level.astype(np.float64), spread.astype(np.float64)
    mean = (1 - LEFT_AT_ONCE) * np.exp(level + spread**2 / 2) * (1 + LOOPED * LOOP_SIZE * first)
    square = (1 - LEFT_AT_ONCE) * np.exp(2 * level + 2 * spread**2)
    square = square * (1 + LOOPED * (2 * LOOP_SIZE * first + LOOP_SIZE**2 * second))
    return mean, square - mean**2


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _world(users: int, videos: int, rng: np.random.Generator) -> _World:
    ids = np.array(list(CATEGORIES))
    share = np.where(ids == MISSING_ID, WITHOUT_CATEGORY, (1 - WITHOUT_CATEGORY) / (len(ids) - 1))
    category = rng.choice(ids, videos, p=share)
    extra = rng.random((videos, 3)) < (0.16, 0.1, 0.06)
    others = rng.integers(1, TAGS, (videos, 3))
    tags, tag_shares = [], np.zeros((videos, TAGS), dtype=np.float32)
    for video, first in enumerate(category.tolist()):
        chosen = [_TAG_OF.get(first, first)]
        chosen += [int(tag) for tag in others[video][extra[video]] if tag != chosen[0]]
        chosen = list(dict.fromkeys(chosen))
        tags.append(chosen)
        tag_shares[video, chosen] = 1 / len(chosen)
    quality = rng.normal(0.0, QUALITY_SD, videos)
    return _World(
        category=category,
        tags=tags,
        tag_shares=tag_shares,
        quality=quality,
        popularity=rng.normal(0.0, 1.0, videos) + quality,
        noisiness=NOISE_SD * np.exp(rng.normal(-0.06, 0.35, videos)),
        burst_day=rng.uniform(0.0, DAYS - 1.0, videos),
        duration=np.clip(rng.lognormal(math.log(9_500), 0.5, videos), 3_000, 300_000).astype(np.int64),
        tastes=rng.normal(0.0, 1.0, (users, TAGS)).astype(np.float32),
        habit=rng.normal(0.0, HABIT_SD, users),
        restlessness=np.exp(rng.normal(-0.02, 0.2, users)),
    )


def _watched(
    world: _World, users: Int[np.ndarray, " n"], videos: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Draw play durations in milliseconds: the planted watch ratio times the video's duration, rounded."""
    count = len(users)
    noise = rng.standard_normal(count, dtype=np.float32)
    ratio = np.exp(world.level(users, videos) + world.spread(users, videos) * noise)
    fate = rng.random(count, dtype=np.float32)
    ratio = np.where(fate < LEFT_AT_ONCE, 0.0, ratio)
    looped = np.flatnonzero(fate > 1 - LOOPED)
    ratio[looped] *= 1 + LOOP_SIZE * rng.pareto(LOOP_TAIL, len(looped))
    return np.rint(ratio * world.duration[videos]).astype(np.int64)


def _times(world: _World, videos: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Draw milliseconds from `BEGIN`: in the video's burst or on any day, most of them in the evening."""
    count = len(videos)
    day = np.floor(
        np.where(
            rng.random(count, dtype=np.float32) < BURSTING,
            world.burst_day[videos] + rng.exponential(BURST_DAYS, count),
            rng.random(count, dtype=np.float32) * DAYS,
        )
    )
    hour = (rng.random(count, dtype=np.float32) + rng.random(count, dtype=np.float32)) * 12
    milliseconds = np.minimum(day, DAYS - 1) * 86_400_000 + np.floor((hour + 6) % 24 * 3_600_000)
    return milliseconds.astype(np.int64)


def _in_order(plays: _Plays) -> _Plays:
    """The makers' order: by user, then by time, rows without a time last."""
    time = np.where(plays.milliseconds < 0, DAYS * 86_400_000, plays.milliseconds)
    return plays.taken(np.argsort((plays.users.astype(np.int64) << 33) | time, kind="stable"))


def _small_matrix(
    world: _World,
    users: Int[np.ndarray, " u"],
    videos: Int[np.ndarray, " v"],
    pairs: int,
    rng: np.random.Generator,
) -> _Plays:
    blocked = rng.choice(len(users) * len(videos), len(users) * len(videos) - pairs, replace=False)
    cells = np.delete(np.arange(len(users) * len(videos)), blocked)
    of_users, of_videos = users[cells // len(videos)], videos[cells % len(videos)]
    milliseconds = _times(world, of_videos, rng)
    milliseconds[rng.choice(pairs, round(pairs * SMALL_WITHOUT_TIME), replace=False)] = -1
    watched = _watched(world, of_users, of_videos, rng)
    return _in_order(_Plays(of_users.astype(np.int32), of_videos.astype(np.int32), milliseconds, watched))


def _big_matrix(
    world: _World, small_users: Int[np.ndarray, " u"], small_videos: Int[np.ndarray, " v"], rows: int, seed: int
) -> _Plays:
    users, videos = len(world.habit), len(world.quality)
    rng = np.random.default_rng([seed, 3])
    copies, rewatches = round(rows * BIG_COPIES), round(rows * BIG_REWATCHES)
    is_small = np.zeros(users, dtype=bool)
    is_small[small_users] = True
    room = np.where(is_small, videos - len(small_videos), videos)
    counts = shared_out(rows - copies - rewatches, rng.lognormal(0.0, 0.8, users), (0.7 * room).astype(np.int64))

    of_users = np.repeat(np.arange(users, dtype=np.int32), counts)
    of_videos = np.empty(len(of_users), dtype=np.int32)
    done = 0
    for start in range(0, users, _USERS_PER_CHUNK):
        chunk = np.arange(start, min(start + _USERS_PER_CHUNK, users))
        noise = np.random.default_rng([seed, 4, start]).random((len(chunk), videos), dtype=np.float32)
        # the largest n of score + Gumbel noise are n draws without replacement by softmax(score)
        score = world.popularity.astype(np.float32) + world.tastes[chunk] @ world.tag_shares.T
        score -= np.log(-np.log(np.maximum(noise, 1e-12)))
        # the big matrix holds no pair of the small one
        score[np.ix_(is_small[chunk], small_videos)] = -np.inf
        order = np.argsort(-score, axis=1)
        first = np.arange(videos)[None, :] < counts[chunk][:, None]
        of_videos[done : done + counts[chunk].sum()] = order[first]
        done += counts[chunk].sum()

    plays = _Plays(of_users, of_videos, _times(world, of_videos, rng), _watched(world, of_users, of_videos, rng))
    again = rng.choice(len(of_users), rewatches, replace=False)
    second = _Plays(
        of_users[again],
        of_videos[again],
        _times(world, of_videos[again], rng),
        _watched(world, of_users[again], of_videos[again], rng),
    )
    copy = plays.taken(rng.choice(len(of_users), copies, replace=False))
    return _in_order(
        _Plays(
            *(
                np.concatenate([getattr(part, name) for part in (plays, second, copy)])
                for name in ("users", "videos", "milliseconds", "watched")
            )
        )
    )


def _write_matrix(path: Path, plays: _Plays, duration: Int[np.ndarray, " V"], *, float_dates: bool) -> None:
    """Write the eight official columns; a column with missing values has whole numbers like `20200705.0`."""
    import pyarrow as pa

    table = pa.table(
        {
            "user_id": plays.users,
            "video_id": plays.videos,
            "played": plays.watched,
            "duration": duration[plays.videos],
            "ms": pa.array(plays.milliseconds, mask=plays.milliseconds < 0),
        }
    )
    kind = "DOUBLE" if float_dates else "BIGINT"
    _copy(
        table,
        f"""
        SELECT user_id, video_id, played AS play_duration, duration AS video_duration,
               strftime(local, '%Y-%m-%d %H:%M:%S.%g') AS time,
               CAST(strftime(local, '%Y%m%d') AS {kind}) AS date,
               {BEGIN} + ms / 1000 AS timestamp,
               played / duration AS watch_ratio
        FROM (SELECT *, epoch_ms(CAST({BEGIN + BEIJING_HOURS * 3600} AS BIGINT) * 1000 + ms) AS local FROM source)
        """,
        path,
    )


def _copy(table: pa.Table, query: str, path: Path) -> None:
    """Write what DuckDB selects from the table `source` as CSV, in the order of its rows."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("source", table)
        quoted = str(path).replace("'", "''")
        connection.execute(f"COPY ({query}) TO '{quoted}' (FORMAT csv, HEADER)")


def _write_truth(folder: Path, world: _World, matrices: dict[str, _Plays]) -> None:
    import pyarrow.parquet as pq

    for name, plays in matrices.items():
        with replacing(folder / f"{name}.parquet", "wb") as sink:
            pq.write_table(_truth(world, plays), sink)


def _truth(world: _World, plays: _Plays) -> pa.Table:
    import pyarrow as pa

    pairs = np.unique((plays.users.astype(np.int64) << 32) | plays.videos)
    users, videos = pairs >> 32, pairs & 0xFFFFFFFF
    mean, variance = pair_moments(world.level(users, videos), world.spread(users, videos))
    return pa.table({"user_id": users, "video_id": videos, "mean": mean, "variance": variance})


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def _add(zipped: zipfile.ZipFile, name: str, path: Path) -> None:
    """Move a file into the archive, with a fixed date so that the bytes depend on the content alone."""
    seconds = time.mktime(_DATE)
    os.utime(path, (seconds, seconds))
    path.chmod(0o644)
    zipped.write(path, name)
    path.unlink()


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _categories_csv(world: _World) -> str:
    import pandas as pd

    return _csv(pd.DataFrame({"video_id": np.arange(len(world.tags)), "feat": [str(tags) for tags in world.tags]}))


def _daily_csv(folder: Path, world: _World, rng: np.random.Generator) -> Path:
    """Plays per video and day follow its popularity and burst; not every video has a row on every day."""
    import pandas as pd
    import pyarrow as pa

    videos = len(world.quality)
    day = np.arange(DAYS)[None, :]
    since = day - np.floor(world.burst_day)[:, None]
    burst = np.where(since >= 0, np.exp(-since / BURST_DAYS), 0.0)
    rate = BURSTING * burst / burst.sum(axis=1, keepdims=True) + (1 - BURSTING) / DAYS
    expected = 20_000 * np.exp(world.popularity)[:, None] * rate
    video, day = np.nonzero(rng.random((videos, DAYS)) < DAILY_ROWS)
    plays = rng.poisson(expected[video, day]).astype(float)
    shows = np.ceil(plays * rng.uniform(1.0, 3.0, len(plays)))
    dates = pd.date_range("2020-07-05", periods=DAYS)
    tag = np.array([tags[0] for tags in world.tags])[video]
    uploaded = pd.Timestamp("2020-07-05") - pd.to_timedelta(rng.integers(0, 120, videos), unit="D")
    values: dict[str, object] = {
        "video_id": video,
        "date": dates.strftime("%Y%m%d").to_numpy().astype(np.int64)[day],
        "author_id": rng.permutation(videos)[video] % max(1, int(videos * 0.8)),
        "video_type": np.where(video % 50 == 0, "AD", "NORMAL"),
        "upload_dt": uploaded.strftime("%Y-%m-%d").to_numpy()[video],
        "upload_type": np.where(video % 3 == 0, "ShortImport", "LongImport"),
        "visible_status": "public",
        "video_duration": np.where(video % 40 == 0, np.nan, world.duration[video].astype(float)),
        "video_width": 720,
        "video_height": 1280,
        "music_id": 3_350_323_409 + video,
        "video_tag_id": tag,
        "video_tag_name": [CATEGORIES[name].original if name in CATEGORIES else MISSING_NAME for name in tag.tolist()],
        "show_cnt": shows,
        "show_user_num": np.ceil(shows * 0.9),
        "play_cnt": plays,
        "play_user_num": np.ceil(plays * 0.9),
        "play_duration": plays * world.duration[video],
        "play_progress": np.round(rng.uniform(0.2, 0.9, len(plays)), 6),
    }
    counts = {name: np.floor(plays * 0.01) for name in _DAILY_COLUMNS if name not in values}
    # the collecting of videos came later: no value in the first days
    for name in [name for name in counts if "collect" in name]:
        counts[name] = np.where(day < 10, np.nan, counts[name])
    frame = pd.DataFrame({name: {**values, **counts}[name] for name in _DAILY_COLUMNS})
    path = folder / "item_daily_features.csv"
    _copy(pa.Table.from_pandas(frame, preserve_index=False), "SELECT * FROM source", path)
    return path


def _users_csv(users: int, rng: np.random.Generator) -> str:
    import pandas as pd

    def ranges(values: np.ndarray, edges: list[int]) -> np.ndarray:
        names = ["0", *(f"({low},{high}]" for low, high in zip([0, *edges], edges, strict=False)), f"{edges[-1]}+"]
        return np.asarray(names, dtype=object)[np.searchsorted([0, *edges], values)]

    follow, fans, friends = (rng.geometric(p, users) - 1 for p in (0.02, 0.2, 0.4))
    days = rng.integers(8, 2_000, users)
    frame = pd.DataFrame(
        {
            "user_id": np.arange(users),
            "user_active_degree": rng.choice(["full_active", "high_active", "middle_active", "UNKNOWN"], users),
            "is_lowactive_period": 0,
            "is_live_streamer": rng.choice([0, 1, MISSING_ID], users, p=[0.9, 0.08, 0.02]),
            "is_video_author": rng.integers(0, 2, users),
            "follow_user_num": follow,
            "follow_user_num_range": ranges(follow, [10, 50, 100, 150, 250, 500]),
            "fans_user_num": fans,
            "fans_user_num_range": ranges(fans, [10, 100, 1_000]),
            "friend_user_num": friends,
            "friend_user_num_range": ranges(friends, [5, 30, 60]),
            "register_days": days,
            "register_days_range": ranges(days, [30, 60, 90, 180, 365, 730]),
        }
    )
    sizes = (2, 7, 50, 1471, 15, 34, 3, 118, 454, 7, 5, 5, 2, 2, 2, 2, 2, 2)
    for place, size in enumerate(sizes):
        frame[f"onehot_feat{place}"] = rng.integers(0, size, users)
    frame["onehot_feat4"] = frame["onehot_feat4"].mask(rng.random(users) < 0.02)
    return _csv(frame)


def _captions_csv(world: _World, rng: np.random.Generator) -> str:
    """Captions name their category; some are missing, some hold commas, quotes, emoji or a stray carriage return."""
    import pandas as pd

    videos = len(world.tags)
    phrases = (
        "看一看",
        "今天的",
        "大家喜欢吗",
        "分享一下",
        "记录生活, 美好",
        '他说"真好"',
        "太棒了🔥",
        "一起来, 朋友们",
        "第一次",
    )
    hashtags = ("感谢快手我要上热门", "快手创作者中心", "正能量", "搞笑", "日常")
    first, second, tagged = rng.integers(0, len(phrases), (3, videos))
    missing = rng.random(videos) < WITHOUT_CAPTION
    returns = set(rng.choice(videos, max(1, round(videos * CARRIAGE_RETURNS)), replace=False).tolist())
    deep, deeper = rng.random(videos) < 0.7, rng.random(videos) < 0.5
    rows = []
    for video, category in enumerate(world.category.tolist()):
        name = CATEGORIES[category].original
        known = category != MISSING_ID
        hashtag = hashtags[tagged[video] % len(hashtags)] if tagged[video] % 2 else ""
        caption = f"{phrases[first[video]]}{name if known else ''}{phrases[second[video]]}{video}"
        caption += f" #{hashtag}" * bool(hashtag)
        if video in returns:
            caption = caption[:3] + "\r" + caption[3:]
            hashtag = ""
        empty = bool(missing[video]) and video not in returns
        second_level = known and bool(deep[video])
        third_level = second_level and bool(deeper[video])
        rows.append(
            (
                video,
                phrases[second[video]] if video % 3 == 0 else MISSING_NAME,
                "" if empty else caption,
                f"[{hashtag}]" if not empty else "[]",
                category,
                name,
                500 + category if second_level else MISSING_ID,
                f"{name}日常" if second_level else MISSING_NAME,
                2_000 + category if third_level else MISSING_ID,
                f"{name}分享" if third_level else MISSING_NAME,
            )
        )
    levels = [f"{level}_level_category_{what}" for level in ("first", "second", "third") for what in ("id", "name")]
    frame = pd.DataFrame(rows, columns=["video_id", "manual_cover_text", "caption", "topic_tag", *levels])
    # pandas quotes a field with a carriage return; the makers' file does not
    return _csv(frame.assign(caption=frame["caption"].str.replace("\r", "\x00"))).replace("\x00", "\r")


def _friends_csv(users: int, rng: np.random.Generator) -> str:
    import pandas as pd

    count = min(users, scaled(FRIENDLY_USERS, users / BIG_USERS, least=2))
    chosen = np.sort(rng.choice(users, count, replace=False))
    friends = [str(np.sort(rng.choice(users, size=1 + rng.integers(0, 3), replace=False)).tolist()) for _ in chosen]
    return _csv(pd.DataFrame({"user_id": chosen, "friend_list": friends}))
