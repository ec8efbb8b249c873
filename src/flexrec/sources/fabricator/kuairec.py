"""A made-up `KuaiRec.zip`: all seven files of the official archive (Gao et al., 2022, doi 10.1145/3511808.3557220).

The world behind it is that of `flexrec.sources.fabricator.kuairec_world`; what is planted there is written beside the
archive: the mean and the variance of the watch ratio of every pair.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flexrec.files import replacing
from flexrec.sources.fabricator.kuairec_files import (
    captions_csv,
    categories_csv,
    friends_csv,
    users_csv,
    write_daily,
    write_matrix,
)
from flexrec.sources.fabricator.kuairec_world import (
    BIG_ROWS,
    BIG_USERS,
    BIG_VIDEOS,
    SMALL_PAIRS,
    SMALL_USERS,
    SMALL_VIDEOS,
    Plays,
    World,
    big_matrix,
    make_world,
    pair_moments,
    small_matrix,
    softmax,
)
from flexrec.sources.fabricator.scale import scaled

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

ARCHIVE = "KuaiRec.zip"
FOLDER = "KuaiRec 2.0/data"
TRUTH_FOLDER = "KuaiRec-fabricated-truth"

_DATE = (2020, 1, 1, 0, 0, 0, 0, 1, -1)


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

    world = make_world(users, videos, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    in_small_users = np.sort(rng.choice(users, small_users, replace=False))
    in_small_videos = np.sort(rng.choice(videos, small_videos, replace=False, p=softmax(world.popularity)))
    archive = folder / ARCHIVE
    logger.info("drawing the small matrix: %d users, %d videos, %d pairs", small_users, small_videos, small_pairs)
    small = small_matrix(world, in_small_users, in_small_videos, small_pairs, np.random.default_rng([seed, 2]))
    rows = scaled(BIG_ROWS, scale, least=2_000)
    logger.info("drawing the big matrix: %d users, %d videos, %d rows", users, videos, rows)
    big = big_matrix(world, in_small_users, in_small_videos, rows, seed)

    side_tables = {
        "item_categories.csv": categories_csv(world),
        "user_features.csv": users_csv(users, np.random.default_rng([seed, 6])),
        "kuairec_caption_category.csv": captions_csv(world, np.random.default_rng([seed, 7])),
        "social_network.csv": friends_csv(users, np.random.default_rng([seed, 8])),
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
        daily = write_daily(Path(scratch), world, np.random.default_rng([seed, 5]))
        _add(zipped, f"{FOLDER}/{daily.name}", daily)
        for name, plays, float_dates in (("small_matrix", small, True), ("big_matrix", big, False)):
            logger.info("writing %s.csv", name)
            csv = Path(scratch) / f"{name}.csv"
            write_matrix(csv, plays, world.duration, float_dates=float_dates)
            _add(zipped, f"{FOLDER}/{name}.csv", csv)
    if truth:
        logger.info("writing the planted truth")
        _write_truth(folder / TRUTH_FOLDER, world, {"small_matrix": small, "big_matrix": big})
    return archive


def _write_truth(folder: Path, world: World, matrices: dict[str, Plays]) -> None:
    import pyarrow.parquet as pq

    for name, plays in matrices.items():
        with replacing(folder / f"{name}.parquet", "wb") as sink:
            pq.write_table(_truth(world, plays), sink)


def _truth(world: World, plays: Plays) -> pa.Table:
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
