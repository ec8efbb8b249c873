"""Small raw files of one source each, and who else can read them."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raw_readings import (
    Row,
    Things,
    films_1m,
    films_100k,
    kuairec,
    kuairec_sample,
    movielens_1m,
    movielens_100k,
    own,
    own_items,
    plays_by_day,
    quoted,
    videos_of_matrix,
    videos_of_sample,
)


@dataclass
class World:
    """Small raw files of one source, and how they are read by others."""

    source: str
    options: dict
    separator: bytes
    files: dict[str, bytes]
    naive: Callable[[dict[str, bytes]], list[Row]]
    """Every row of the interactions; ValueError where a row cannot be read."""
    things: Callable[[dict[str, bytes]], Things]
    """Every item that must be there, by id; ValueError where a row cannot be read."""
    pack: Callable[[Path, dict[str, bytes]], Path] = field(default=lambda folder, files: unpacked(folder, files))
    dropping: tuple[str, ...] = ()
    """How rules begin that leave a row of the interactions out."""
    daily: Callable[[dict[str, bytes]], tuple[list[tuple[int, int, int]], int]] | None = None
    """The daily counts, and how many rows of the file are none of them."""


def fresh(folder: Path) -> Path:
    """A folder of its own for every turn: an engine may keep what it knows of a path."""
    place = folder / str(sum(1 for _ in folder.iterdir()))
    place.mkdir()
    return place


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def zipped(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "raw.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


TIMES = [978300760 + 1000 * (3 * n % 7) for n in range(12)]
SIDE = {
    "item_categories.csv": b'video_id,feat\n0,[8]\n1,"[27, 9]"\n2,[]\n3,[1]\n',
    "kuairec_caption_category.csv": (
        "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
        "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
        "0,UNKNOWN,精神小伙,[],8,颜值,673,颜值随拍,-124,UNKNOWN\n1,UNKNOWN,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN\n"
        '2,x,"看, 一看",[快手],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n3,y,b,[],1,舞蹈,-124,UNKNOWN,-124,UNKNOWN\n'
    ).encode(),
}
DAILY = (
    b"video_id,date,author_id,upload_dt,play_cnt\n"
    b"0,20200705,9,2020-03-30,7\n0,20200706,9,2020-03-30,8\n1,20200705,9,2019-12-31,\n"
    b"2,20200705,9,,3\n2,20200705,9,,4\n3,20200707,9,2020-07-01,12.0\n"
)
MOVIES = (
    "0::Toy Story (1995)::Animation|Comedy\n1::Misérables, Les (1995)::Drama\n2::Heat (1995)::Action\n3::Up (2009)::\n"
)
PAIRS = [(user, item, 1 + (2 * user + item) % 5) for user in (1, 2, 3) for item in range(4)]

WORLDS = {
    "ml-1m": World(
        "ml-1m", {}, b"::",
        {
            "ml-1m/ratings.dat": "".join(
                f"{u}::{i}::{r}::{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True)
            ).encode(),
            "ml-1m/movies.dat": MOVIES.encode("latin-1"),
        },
        movielens_1m, films_1m, zipped,
    ),
    "ml-100k": World(
        "ml-100k", {}, b"\t",
        {
            "recbole/dataset_example/ml-100k/ml-100k.inter": (
                "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
                + "".join(f"{u}\t{i}\t{r}\t{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True))
            ).encode(),
            "recbole/dataset_example/ml-100k/ml-100k.item": (
                b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
                b"0\tToy Story\t1995\tAnimation\n1\tHeat\t1995\tAction Drama\n"
                b"2\tUp\tunknown\tunknown\n3\tA\t2001\tDrama\n"
            ),
        },
        movielens_100k, films_100k, zipped,
    ),
    "own": World(
        "own", {"timestamp_unit": "seconds", "repeats": "first", "topics_column": "topics"}, b",",
        {
            "interactions.csv": (
                "user_id,item_id,engagement,timestamp\n"
                + "".join(f"u{u},i{i},{r},{t}\n" for (u, i, r), t in zip(PAIRS, TIMES, strict=True))
            ).encode(),
            "items.csv": (
                b'item_id,title,topics\ni0,Toy Story,family|fun\ni1,"Heat, again",\ni2,Up,"fun| sky "\ni3,A,x\n'
            ),
        },
        own, lambda files: own_items(quoted(files["items.csv"])), dropping=("repeated",),
    ),
    "kuairec": World(
        "kuairec", {}, b",",
        {
            "small_matrix.csv": (
                "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
                + "".join(
                    f"{u},{i},100,200,2020-07-05 00:08:23.438,20200705,{t}.438,{r / 3}\n"
                    for (u, i, r), t in zip(PAIRS, TIMES, strict=True)
                )
            ).encode(),
            "item_daily_features.csv": DAILY,
            **SIDE,
        },
        kuairec, videos_of_matrix, dropping=("rows without", "later plays"), daily=plays_by_day,
    ),
    "kuairec-sample": World(
        "kuairec-sample", {}, b",",
        {"small_matrix_sample_random.txt": "".join(f"{u},{i},{r / 3}\n" for u, i, r in PAIRS).encode(), **SIDE},
        kuairec_sample, videos_of_sample,
    ),
}  # fmt: skip
COUNTS = {
    **{"ml-1m": 250, "ml-100k": 200, "own": 260, "kuairec": 90, "kuairec-sample": 100},
    **{"esci": 80, "own, in Parquet": 50},
}
"""How many mutations there are of each, a thousand in all."""
