"""A small made-up world in the layout of `ml-1m.zip`, so that tests run the real parser and the whole graph in seconds.

Users have tastes over topics, items have topics and a quality, and every item has a burst of popularity. Ratings follow
taste, quality and noise; what is rated when follows taste, popularity and bursts. So every signal carries information.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from flexrec.config import Settings
from flexrec.files import replacing
from flexrec.sources.movielens import read_ml_1m
from flexrec.sources.tables import Tables
from flexrec.tabular import DAY

if TYPE_CHECKING:
    from ibis.backends import BaseBackend

START = 946_684_800  # 2000-01-01, in epoch seconds
TOPICS = ("Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Horror", "Musical")
_FIRST = ("Silent", "Crimson", "Lost", "Golden", "Broken", "Distant", "Hidden", "Électric", "Paper", "Midnight")
_SECOND = ("River", "Garden", "Empire", "Café", "Horizon", "Letter", "Machine", "Winter", "Harbour", "Señor")


class Fabricated(Settings):
    """The world's size and seed."""

    users: int = Field(default=120, ge=10, description="Number of users.")
    items: int = Field(default=200, ge=40, description="Number of items.")
    days: int = Field(default=60, ge=7, description="Days that the ratings span.")
    fewest: int = Field(default=24, ge=4, description="Fewest ratings of a user.")
    most: int = Field(default=48, ge=4, description="Most ratings of a user; at most the number of items.")
    seed: int = Field(default=0, ge=0, description="Seed of everything in the world.")

    @model_validator(mode="after")
    def _enough_items(self) -> Fabricated:
        if not self.fewest <= self.most <= self.items:
            raise ValueError(f"fewest <= most <= items is needed, got {self.fewest}, {self.most}, {self.items}")
        return self

    def fetch(self, raw_folder: Path) -> Path:
        """Write the archive into `raw_folder`, atomically; the same settings give the same bytes."""
        content = _archive(self._world())
        target = raw_folder / f"fabricated-{self.users}-{self.items}-{self.seed}.zip"
        with replacing(target, "wb") as sink:
            sink.write(content)
        return target

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Parse the archive with MovieLens-1M's parser."""
        return read_ml_1m(raw)

    def _world(self) -> dict[str, str]:
        rng = np.random.default_rng(self.seed)
        topic_count = len(TOPICS)
        has_topic = np.zeros((self.items, topic_count))
        for item in range(self.items):
            has_topic[item, rng.choice(topic_count, size=rng.integers(1, 4), replace=False)] = 1.0
        quality = rng.normal(0.0, 0.6, self.items)
        popularity = rng.normal(0.0, 0.8, self.items) + 0.5 * quality
        burst_start = rng.uniform(0.0, self.days, self.items)
        burst_length = rng.uniform(2.0, 8.0, self.items)
        tastes = rng.normal(0.0, 1.0, (self.users, topic_count))

        movies = []
        for item in range(self.items):
            title = f"{_FIRST[item % 10]} {_SECOND[(item // 10) % 10]}"
            # a number keeps titles apart in larger worlds, the inverted article exercises the parser
            title += f" {item // 100 + 1}" if item >= 100 else ""
            year = 1950 + int(rng.integers(0, 50))
            genres = "|".join(TOPICS[topic] for topic in np.flatnonzero(has_topic[item]))
            movies.append(f"{item + 1}::{title}{', The' if item % 3 == 0 else ''} ({year})::{genres}")

        ratings, users = [], []
        for user in range(self.users):
            fit = has_topic @ tastes[user] / has_topic.sum(axis=1)
            base = 0.8 * fit + popularity
            left = np.ones(self.items, dtype=bool)
            for seconds in self._session_times(rng):
                day = seconds / DAY
                burst = (day >= burst_start) & (day < burst_start + burst_length)
                weight = np.where(left, np.exp(base + 2.0 * burst), 0.0)
                item = int(rng.choice(self.items, p=weight / weight.sum()))
                left[item] = False
                score = 3.3 + quality[item] + 0.9 * fit[item] + rng.normal(0.0, 0.6)
                stars = int(np.clip(np.rint(score), 1, 5))
                ratings.append(f"{user + 1}::{item + 1}::{stars}::{START + seconds}")
            users.append(f"{user + 1}::{'FM'[user % 2]}::25::{user % 21}::00000")
        return {
            "ml-1m/movies.dat": "\n".join(movies) + "\n",
            "ml-1m/ratings.dat": "\n".join(ratings) + "\n",
            "ml-1m/users.dat": "\n".join(users) + "\n",
            "ml-1m/README": "A made-up world in the layout of MovieLens-1M. No rating in it was given by a person.\n",
        }

    def _session_times(self, rng: np.random.Generator) -> list[int]:
        """Draw a user's rating times in seconds from the start: a few sessions over the whole span."""
        count = int(rng.integers(self.fewest, self.most + 1))
        sessions = np.sort(rng.uniform(0.0, self.days - 1.0, size=int(rng.integers(4, 9)))) * DAY
        offsets = np.sort(rng.integers(0, 7_200, size=count))
        times = np.sort(sessions.astype(np.int64)[rng.integers(0, len(sessions), size=count)] + offsets)
        return [int(second) for second in times]


def _archive(members: dict[str, str]) -> bytes:
    """Zip texts without compression and with a fixed date, so that the bytes depend on the texts alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        for name, text in members.items():
            zipped.writestr(zipfile.ZipInfo(name, date_time=(2000, 1, 1, 0, 0, 0)), text.encode("latin-1"))
    return buffer.getvalue()
