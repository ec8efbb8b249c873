"""The world behind a made-up KuaiRec: what is planted, and the plays that are drawn from it.

Videos have tags, a quality, a popularity and a burst of plays; users have tastes over the tags and a habit of watching
long or short. The watch ratio `w` of a pair is long-tailed with a noise of its own size (heteroscedastic):

    log w = m(user, video) + s(user, video) * standard normal,      m = level + quality + habit + taste . tags

Then a few plays run in a loop (times 1 + 3 * Pareto(2.5)) and a few are left at once (0), so the planted mean and
variance of every pair follow in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexrec.sources.fabricator.scale import shared_out
from flexrec.sources.kuairec_categories import CATEGORIES, MISSING_ID

# published
SMALL_USERS, SMALL_VIDEOS, SMALL_PAIRS = 1_411, 3_327, 4_676_570
BIG_USERS, BIG_VIDEOS, BIG_ROWS = 7_176, 10_728, 12_530_806
BEGIN = 1_593_878_400  # 2020-07-05 00:00 in Beijing, in epoch seconds
DAYS = 63
TAGS = 31
# counted in the published matrices (rows) and the table of categories (videos) of version 2.0
SMALL_WITHOUT_TIME = 181_992 / SMALL_PAIRS
BIG_COPIES = 965_819 / BIG_ROWS
WITHOUT_CATEGORY = 40 / BIG_VIDEOS

# chosen so that the watch ratios have the quartiles .47, .78, 1.14, the mean .92 and the tail of the real sample
LEVEL, QUALITY_SD, HABIT_SD, TASTE_SD, NOISE_SD = -0.34, 0.30, 0.18, 0.28, 0.45
LOOPED, LOOP_SIZE, LOOP_TAIL = 0.003, 3.0, 2.5
LEFT_AT_ONCE = 0.005
BIG_REWATCHES = 0.05  # rows of the big matrix that are another play of a pair
BURSTING, BURST_DAYS = 0.6, 2.0  # share of a video's plays in its burst, and the burst's mean length

_USERS_PER_CHUNK = 128
# tags of the categories that the tags do not know, as the published tables pair them
_TAG_OF = {31: 7, 32: 6, 33: 11, 34: 11, 35: 28, 36: 11, 37: 28, 38: 19, 39: 6, MISSING_ID: 0}


@dataclass(frozen=True)
class World:
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
class Plays:
    """Rows of a matrix; `milliseconds` counts from `BEGIN`, -1 where the time is missing."""

    users: Int[np.ndarray, " n"]
    videos: Int[np.ndarray, " n"]
    milliseconds: Int[np.ndarray, " n"]
    watched: Int[np.ndarray, " n"]

    def taken(self, places: Int[np.ndarray, " m"]) -> Plays:
        """Some of the rows."""
        return Plays(self.users[places], self.videos[places], self.milliseconds[places], self.watched[places])


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


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities proportional to the exponentials of the scores."""
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def make_world(users: int, videos: int, rng: np.random.Generator) -> World:
    """Draw what is planted."""
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
    return World(
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
    world: World, users: Int[np.ndarray, " n"], videos: Int[np.ndarray, " n"], rng: np.random.Generator
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


def _times(world: World, videos: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
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


def _in_order(plays: Plays) -> Plays:
    """The makers' order: by user, then by time, rows without a time last."""
    time = np.where(plays.milliseconds < 0, DAYS * 86_400_000, plays.milliseconds)
    return plays.taken(np.argsort((plays.users.astype(np.int64) << 33) | time, kind="stable"))


def small_matrix(
    world: World,
    users: Int[np.ndarray, " u"],
    videos: Int[np.ndarray, " v"],
    pairs: int,
    rng: np.random.Generator,
) -> Plays:
    """Each of these users with all of these videos, a few pairs missing."""
    blocked = rng.choice(len(users) * len(videos), len(users) * len(videos) - pairs, replace=False)
    cells = np.delete(np.arange(len(users) * len(videos)), blocked)
    of_users, of_videos = users[cells // len(videos)], videos[cells % len(videos)]
    milliseconds = _times(world, of_videos, rng)
    milliseconds[rng.choice(pairs, round(pairs * SMALL_WITHOUT_TIME), replace=False)] = -1
    watched = _watched(world, of_users, of_videos, rng)
    return _in_order(Plays(of_users.astype(np.int32), of_videos.astype(np.int32), milliseconds, watched))


def big_matrix(
    world: World, small_users: Int[np.ndarray, " u"], small_videos: Int[np.ndarray, " v"], rows: int, seed: int
) -> Plays:
    """Plays of any user, more of popular videos and of those that a user likes; no pair of the small matrix."""
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

    plays = Plays(of_users, of_videos, _times(world, of_videos, rng), _watched(world, of_users, of_videos, rng))
    again = rng.choice(len(of_users), rewatches, replace=False)
    second = Plays(
        of_users[again],
        of_videos[again],
        _times(world, of_videos[again], rng),
        _watched(world, of_users[again], of_videos[again], rng),
    )
    copy = plays.taken(rng.choice(len(of_users), copies, replace=False))
    return _in_order(
        Plays(
            *(
                np.concatenate([getattr(part, name) for part in (plays, second, copy)])
                for name in ("users", "videos", "milliseconds", "watched")
            )
        )
    )
