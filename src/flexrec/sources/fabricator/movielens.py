"""A made-up `ml-1m.zip` in the layout of MovieLens-1M (Harper and Konstan, 2015, doi 10.1145/2827872).

A movie has genres, a quality and a popularity, a user tastes over the genres and a severity. Stars are cut from
`quality + taste . genres + severity + noise` at the quantiles that give the published shares of 1 to 5 stars; the noise
has a size of its own for every user (heteroscedastic).
"""

from __future__ import annotations

import io
import logging
import math
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from flexrec.files import replacing
from flexrec.sources.fabricator.scale import scaled, shared_out
from flexrec.sources.fabricator.words import words
from flexrec.tabular import DAY

logger = logging.getLogger(__name__)

ARCHIVE = "ml-1m.zip"
TRUTH_FILE = "ml-1m-fabricated-truth.parquet"

# published
USERS, MOVIES, RATINGS, FEWEST = 6_040, 3_883, 1_000_209, 20
STARS = (56_174, 107_557, 261_197, 348_971, 226_310)
BEGIN, DAYS = 956_703_932, 1_039  # 2000-04-25 to 2003-02-28

GENRES = words(
    """
    Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror
    Musical Mystery Romance Sci-Fi Thriller War Western
    """
)
_FIRST = words(
    """
    Silent Crimson Lost Golden Broken Distant Hidden Électric Paper Midnight Bitter Second Winter Naked
    Iron
    """
)
_SECOND = words(
    """
    River Garden Empire Café Horizon Letter Machine Season Harbour Señor Brother Orchid Witness Road
    Mirror
    """
)
_DATE = (2020, 1, 1, 0, 0, 0)
_USERS_PER_CHUNK = 512
_EVENINGS = 4  # most users rate in so many sittings


def write_ml_1m(folder: Path, scale: float, seed: int) -> Path:
    """Write `ml-1m.zip` and, beside it, the planted truth.

    Args:
        folder: Where both go; made if missing, files of the same name are replaced.
        scale: Times the published 1,000,209 ratings; users and movies grow with its root.
        seed: Of everything; the same arguments give the same bytes.

    Returns:
        The archive. `ml-1m-fabricated-truth.parquet` has, for every rating, user_id, item_id, the latent score without
        its noise (`signal`) and the noise's standard deviation (`noise`).

    Raises:
        InputError: A scale that is not positive.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ratings = scaled(RATINGS, scale, least=600)
    side = math.sqrt(scale)
    users, movies = scaled(USERS, side, least=24), scaled(MOVIES, side, least=60)
    rng = np.random.default_rng([seed, 10])
    logger.info("drawing %d ratings by %d users of %d movies", ratings, users, movies)
    has_genre = rng.random((movies, len(GENRES))) < 0.06
    has_genre[np.arange(movies), rng.integers(0, len(GENRES), movies)] = True
    shares = has_genre / has_genre.sum(axis=1, keepdims=True)
    quality = rng.normal(0.0, 0.6, movies)
    popularity = rng.normal(0.0, 1.2, movies) + 0.8 * quality
    tastes = rng.normal(0.0, 1.0, (users, len(GENRES)))
    severity, noise = rng.normal(0.0, 0.4, users), 0.8 * np.exp(rng.normal(0.0, 0.3, users))

    room = np.full(users, int(0.9 * movies))
    counts = shared_out(ratings, rng.lognormal(0.0, 1.0, users), room, least=min(FEWEST, int(room[0])))
    user = np.repeat(np.arange(users), counts)
    movie = _chosen(counts, popularity, tastes, shares, seed)
    taste = np.einsum("ij,ij->i", tastes[user], shares[movie])
    signal = quality[movie] + 0.7 * taste + severity[user]
    score = signal + noise[user] * rng.standard_normal(len(user))
    cuts = np.quantile(score, np.cumsum(STARS)[:-1] / sum(STARS))
    stars = 1 + np.searchsorted(cuts, score, side="right")
    seconds = _times(user, rng)

    order = np.lexsort((movie, seconds, user))
    rows = zip(*(values[order].tolist() for values in (user + 1, movie + 1, stars, seconds)), strict=True)
    members = {
        "movies.dat": "".join(_movie(number, has_genre[number], rng) for number in range(movies)),
        "ratings.dat": "".join(f"{u}::{m}::{s}::{t}\n" for u, m, s, t in rows),
        "users.dat": "".join(
            f"{number + 1}::{'FM'[number % 2]}::25::{number % 21}::00000\n" for number in range(users)
        ),
        "README": "A made-up world in the layout of MovieLens-1M. No rating in it was given by a person.\n",
    }
    archive = folder / ARCHIVE
    with replacing(archive, "wb") as sink:
        sink.write(_zipped({f"ml-1m/{name}": text for name, text in members.items()}))
    with replacing(folder / TRUTH_FILE, "wb") as sink:
        truth = {"user_id": user + 1, "item_id": movie + 1, "signal": signal, "noise": noise[user]}
        pq.write_table(pa.table({name: values[order] for name, values in truth.items()}), sink)
    return archive


def _chosen(
    counts: Int[np.ndarray, " users"],
    popularity: Float[np.ndarray, " movies"],
    tastes: Float[np.ndarray, "users genres"],
    shares: Float[np.ndarray, "movies genres"],
    seed: int,
) -> Int[np.ndarray, " ratings"]:
    """Draw each user's movies without replacement, by popularity and taste (the Gumbel trick)."""
    chosen = np.empty(counts.sum(), dtype=np.int64)
    done = 0
    for start in range(0, len(counts), _USERS_PER_CHUNK):
        chunk = slice(start, start + _USERS_PER_CHUNK)
        noise = np.random.default_rng([seed, 11, start]).gumbel(size=(len(counts[chunk]), len(popularity)))
        order = np.argsort(-(popularity + tastes[chunk] @ shares.T + noise), axis=1)
        first = np.arange(len(popularity))[None, :] < counts[chunk][:, None]
        chosen[done : done + counts[chunk].sum()] = order[first]
        done += counts[chunk].sum()
    return chosen


def _times(user: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Epoch seconds: a few sittings per user in which several ratings share a second, as in the real file."""
    users = int(user.max()) + 1
    sittings = np.sort(rng.integers(0, (DAYS - 1) * DAY, (users, _EVENINGS)), axis=1)
    which = rng.integers(0, _EVENINGS, len(user))
    return BEGIN + sittings[user, which] + rng.integers(0, 1_500, len(user))


def _movie(number: int, has_genre: np.ndarray, rng: np.random.Generator) -> str:
    first, second = number % len(_FIRST), number // len(_FIRST) % len(_SECOND)
    part = number // (len(_FIRST) * len(_SECOND))
    title = f"{_FIRST[first]} {_SECOND[second]}" + (f" {part + 1}" if part else "")
    # the inverted article exercises the parser
    title += (", The" if number % 4 == 0 else "") + f" ({int(rng.integers(1930, 2001))})"
    return f"{number + 1}::{title}::{'|'.join(np.asarray(GENRES)[has_genre])}\n"


def _zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in members.items():
            info = zipfile.ZipInfo(name, date_time=_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, text.encode("latin-1"))
    return buffer.getvalue()
