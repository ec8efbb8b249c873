"""MovieLens-100K and MovieLens-1M (Harper and Konstan, 2015, doi:10.1145/2827872).

For research only, not to be passed on: the files are fetched by whoever runs the project and never become part of it.
"""

from __future__ import annotations

import logging
import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources.fetch import extract_member, fetch_from_index, fetch_url, read_member, verified
from flexrec.sources.tables import Tables, interactions_table, items_table, read_delimited

if TYPE_CHECKING:
    import pandas as pd
    from ibis.backends import BaseBackend

logger = logging.getLogger(__name__)

ML_1M_ADDRESS = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML_1M_SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
ML_1M_CARRIER = ("scikit-rec==0.3.0", "949b0ea7b79047b85e49d08466c49837fb74dd1f7d61ce6557f4caf6d680f7fd")
ML_1M_MEMBER = "scikit_rec-0.3.0/examples/data/movielens-1m/ml-1m.zip"
ML_100K_CARRIER = ("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
ML_100K_FOLDER = "recbole/dataset_example/ml-100k"

STARS = (1.0, 5.0)

_ARTICLES = "The|A|An|La|Le|Les|L'|Il|Lo|I|Gli|El|Los|Las|Der|Die|Das|Den|Det|Un|Une|Una|Ein|Eine|O|Os|As"
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_INVERTED = re.compile(rf"(?P<lead>\s*(?:a\.k\.a\. )?)(?P<body>[^()]*\S), (?P<article>{_ARTICLES})(?=\s*(?:[()]|$))")


def natural_title(title: str) -> str:
    """Put the article of a catalogue title back in front: "Matrix, The (1999)" -> "The Matrix (1999)".

    Titles in parentheses are treated alike: "Tin Drum, The (Blechtrommel, Die)" -> "The Tin Drum (Die Blechtrommel)".
    """

    def turn(match: re.Match[str]) -> str:
        space = "" if match["article"].endswith("'") else " "
        return f"{match['lead']}{match['article']}{space}{match['body']}"

    return _INVERTED.sub(turn, title)


class MovieLens1M(Settings):
    """1,000,209 ratings by 6,040 users of 3,706 of 3,883 movies, 2000 to 2003."""

    def fetch(self, raw_folder: Path) -> Path:
        """Return the makers' `ml-1m.zip` in `raw_folder`: as it is there, from their address, or from its carrier.

        Raises:
            InputError: The file there has another digest, or neither way works.
        """
        target = raw_folder / "ml-1m.zip"
        if target.exists():
            return verified(target, ML_1M_SHA256)
        raw_folder.mkdir(parents=True, exist_ok=True)
        try:
            return fetch_url(ML_1M_ADDRESS, ML_1M_SHA256, raw_folder)
        except InputError as error:
            logger.info("%s Trying the package index instead.", error)
            at_address = error
        try:
            with tempfile.TemporaryDirectory(dir=raw_folder, prefix=".carrier-") as scratch:
                carrier = fetch_from_index(*ML_1M_CARRIER, Path(scratch), source=True)
                return extract_member(carrier, ML_1M_MEMBER, target, ML_1M_SHA256)
        except InputError as error:
            raise InputError(
                f"MovieLens-1M could not be fetched, neither from {ML_1M_ADDRESS} ({_reason(at_address)}) nor as part "
                f"of {ML_1M_CARRIER[0]} from the package index ({_reason(error)}). Download {ML_1M_ADDRESS} elsewhere "
                f"and put it into {raw_folder} as {target.name} (SHA-256 {ML_1M_SHA256})."
            ) from error

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Parse the archive; the connection is not needed for a table of this size."""
        return read_ml_1m(raw)


class MovieLens100K(Settings):
    """100,000 ratings by 943 users of 1,682 movies, 1997 to 1998."""

    def fetch(self, raw_folder: Path) -> Path:
        """Return the package file that carries the dataset, fetched from the package index unless it is there."""
        return fetch_from_index(*ML_100K_CARRIER, raw_folder)

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Parse the carried atomic files; the connection is not needed for a table of this size.

        Raises:
            InputError: Broken archive or bad row; the message names file, row and key.
        """
        member = f"{ML_100K_FOLDER}/ml-100k.item"
        file = f"{raw.name}:{member}"
        movies = read_delimited(
            read_member(raw, member),
            ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
            file=file,
            separator=b"\t",
            encoding="utf-8",
            header=True,
            kind="text",
        )
        movies.columns = ["movie", "title", "year", "genres"]
        # one movie has no title, year or genre, spelt as the makers' file spells it
        titles = [
            natural_title(title) + (f" ({year})" if year.isdigit() else "")
            for title, year in zip(movies["title"], movies["year"], strict=True)
        ]
        genres = [[genre for genre in text.split(" ") if genre != "unknown"] for text in movies["genres"]]
        items = _movie_items(movies["movie"].tolist(), titles, genres, file=file, first_row=2)

        member = f"{ML_100K_FOLDER}/ml-100k.inter"
        ratings = read_delimited(
            read_member(raw, member),
            ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
            file=f"{raw.name}:{member}",
            separator=b"\t",
            encoding="utf-8",
            header=True,
            kind="numbers",
        )
        return Tables(_ratings(ratings, items, file=f"{raw.name}:{member}", first_row=2), items)


def read_ml_1m(raw: Path) -> Tables:
    """Parse an archive in the layout of `ml-1m.zip` (latin-1, `::` between the fields).

    Raises:
        InputError: Broken archive or bad row; the message names file, row and key.
    """
    member = "ml-1m/movies.dat"
    file = f"{raw.name}:{member}"
    movies = read_delimited(
        read_member(raw, member),
        ("movie", "title", "genres"),
        file=file,
        separator=b"::",
        encoding="latin-1",
        header=False,
        kind="text",
    )
    genres = [[genre for genre in text.split("|") if genre] for text in movies["genres"]]
    titles = [natural_title(title) for title in movies["title"]]
    items = _movie_items(movies["movie"].tolist(), titles, genres, file=file, first_row=1)

    member = "ml-1m/ratings.dat"
    ratings = read_delimited(
        read_member(raw, member),
        ("user", "movie", "rating", "timestamp"),
        file=f"{raw.name}:{member}",
        separator=b"::",
        encoding="latin-1",
        header=False,
        kind="numbers",
    )
    return Tables(_ratings(ratings, items, file=f"{raw.name}:{member}", first_row=1), items)


def _movie_items(
    ids: list[str], titles: list[str], genres: list[list[str]], *, file: str, first_row: int
) -> pd.DataFrame:
    """Build the items; the embedded text is title, year and genres, as in the paper (arXiv 2603.11901)."""
    texts = [f"{title}. {', '.join(names)}" if names else title for title, names in zip(titles, genres, strict=True)]
    years = [float(match[1]) if (match := _YEAR.search(title)) else math.nan for title in titles]
    return items_table(ids, titles, texts, genres, file=file, first_row=first_row, released=years)


def _ratings(frame: pd.DataFrame, items: pd.DataFrame, *, file: str, first_row: int) -> pd.DataFrame:
    frame.columns = [Columns.USER_ID, Columns.ITEM_ID, Columns.ENGAGEMENT, Columns.TIMESTAMP]
    return interactions_table(
        frame,
        file=file,
        first_row=first_row,
        items=items[Columns.ITEM_ID].to_numpy(),
        engagement_name="rating",
        engagement_range=STARS,
    )


def _reason(error: InputError) -> str:
    """Shorten a cause so that one message with two causes stays readable."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())
    return text if len(text) <= 160 else text[:157] + "..."
