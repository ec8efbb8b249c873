"""The official CSV files of KuaiRec, written for a made-up world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from flexrec.sources.fabricator.kuairec_world import (
    BEGIN,
    BIG_USERS,
    BIG_VIDEOS,
    BURST_DAYS,
    BURSTING,
    DAYS,
    Plays,
    World,
)
from flexrec.sources.fabricator.scale import scaled
from flexrec.sources.fabricator.words import words
from flexrec.sources.kuairec_categories import CATEGORIES, MISSING_ID, MISSING_NAME

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BEIJING_HOURS = 8
# counted in the published side tables of version 2.0
FRIENDLY_USERS = 472
DAILY_ROWS = 343_341 / (BIG_VIDEOS * DAYS)
WITHOUT_CAPTION = 1_355 / BIG_VIDEOS
CARRIAGE_RETURNS = 4 / BIG_VIDEOS

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


def write_matrix(path: Path, plays: Plays, duration: Int[np.ndarray, " V"], *, float_dates: bool) -> None:
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


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def categories_csv(world: World) -> str:
    """`item_categories.csv`: the tags of every video."""
    import pandas as pd

    return _csv(pd.DataFrame({"video_id": np.arange(len(world.tags)), "feat": [str(tags) for tags in world.tags]}))


def write_daily(folder: Path, world: World, rng: np.random.Generator) -> Path:
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


def users_csv(users: int, rng: np.random.Generator) -> str:
    """`user_features.csv`, drawn without regard to what users watch."""
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


def captions_csv(world: World, rng: np.random.Generator) -> str:
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


def friends_csv(users: int, rng: np.random.Generator) -> str:
    """`social_network.csv`: a few users have friends."""
    import pandas as pd

    count = min(users, scaled(FRIENDLY_USERS, users / BIG_USERS, least=2))
    chosen = np.sort(rng.choice(users, count, replace=False))
    friends = [str(np.sort(rng.choice(users, size=1 + rng.integers(0, 3), replace=False)).tolist()) for _ in chosen]
    return _csv(pd.DataFrame({"user_id": chosen, "friend_list": friends}))
