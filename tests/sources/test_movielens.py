import io
import tarfile
import zipfile

import numpy as np
import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources import SOURCES, movielens
from flexrec.sources.fetch import sha256_of
from flexrec.sources.movielens import MovieLens1M, MovieLens100K, natural_title, read_ml_1m

MOVIES = "1::Toy Story (1995)::Animation|Comedy\n7::Misérables, Les (1995)::Drama\n9::Matrix, The (1999)::Action\n"
RATINGS = "1::9::5::978300760\n1::1::3::978300760\n2::9::4::978300000\n"


def parsed(source, raw):
    tables = source.read(raw, None)
    return tables.interactions, tables.items


def parsed_ml_1m(raw):
    tables = read_ml_1m(raw)
    return tables.interactions, tables.items


def write_ml_1m(path, movies=MOVIES, ratings=RATINGS):
    with zipfile.ZipFile(path, "w") as archive:
        if movies is not None:
            archive.writestr("ml-1m/movies.dat", movies.encode("latin-1"))
        if ratings is not None:
            archive.writestr("ml-1m/ratings.dat", ratings.encode("latin-1"))
    return path


@pytest.mark.parametrize(
    ("catalogued", "natural"),
    [
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("Matrix, The", "The Matrix"),
        ("Bug's Life, A (1998)", "A Bug's Life (1998)"),
        ("Avventura, L' (1960)", "L'Avventura (1960)"),
        ("Tin Drum, The (Blechtrommel, Die) (1979)", "The Tin Drum (Die Blechtrommel) (1979)"),
        ("Die xue shuang xiong (Killer, The) (1989)", "Die xue shuang xiong (The Killer) (1989)"),
        ("Professional, The (a.k.a. Leon: The Professional) (1994)",
         "The Professional (a.k.a. Leon: The Professional) (1994)"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly (1966)"),
        ("To Wong Foo, Thanks for Everything! (1995)", "To Wong Foo, Thanks for Everything! (1995)"),
        ("Theremin (1993)", "Theremin (1993)"),
    ],
)  # fmt: skip
def test_natural_title(catalogued, natural):
    assert natural_title(catalogued) == natural


def test_ml_1m_tables(tmp_path):
    interactions, items = parsed_ml_1m(write_ml_1m(tmp_path / "ml-1m.zip"))
    # the rating of user 2 is earliest; the two of one second keep their order in the file
    assert interactions.to_dict("list") == {
        Columns.USER_ID: [2, 1, 1],
        Columns.ITEM_ID: [9, 9, 1],
        Columns.TIMESTAMP: [978300000, 978300760, 978300760],
        Columns.ENGAGEMENT: [4.0, 5.0, 3.0],
        Columns.EVENT_ID: [0, 1, 2],
    }
    assert items.to_dict("list") == {
        Columns.ITEM_ID: [1, 7, 9],
        Columns.SOURCE_ID: ["1", "7", "9"],
        Columns.TITLE: ["Toy Story (1995)", "Les Misérables (1995)", "The Matrix (1999)"],
        Columns.TEXT: [
            "Toy Story (1995). Animation, Comedy",
            "Les Misérables (1995). Drama",
            "The Matrix (1999). Action",
        ],
        Columns.TOPICS: [["Animation", "Comedy"], ["Drama"], ["Action"]],
        Columns.RELEASED: [1995.0, 1995.0, 1999.0],
    }
    assert [str(interactions[name].dtype) for name in interactions] == ["int64", "int64", "int64", "float64", "int64"]
    assert items[Columns.ITEM_ID].dtype == "int64"


def test_ratings_of_one_second_keep_the_order_of_the_file(tmp_path):
    movies = "".join(f"{movie}::Title {movie} (1995)::Drama\n" for movie in range(1, 101))
    order = [(37 * step) % 101 for step in range(1, 101)]  # 37 generates every number from 1 to 100
    ratings = "".join(f"1::{movie}::3::{978300760 + (movie > 50)}\n" for movie in order)
    interactions, _ = parsed_ml_1m(write_ml_1m(tmp_path / "ml-1m.zip", movies=movies, ratings=ratings))
    expected = [movie for movie in order if movie <= 50] + [movie for movie in order if movie > 50]
    assert interactions[Columns.ITEM_ID].tolist() == expected
    assert interactions[Columns.EVENT_ID].tolist() == list(range(100))


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("1::9::5::978300760\n1::1::nan::978300760\n", r"ratings\.dat, row 2 \(user 1, item 1\): rating nan is not a"),
        ("1::9::x::978300760\n", r"row 1 \(user 1, item 9\): rating x is not a number"),
        ("1::9::6::978300760\n", r"row 1 \(user 1, item 9\): rating 6 is outside 1 to 5"),
        ("1::9::0::978300760\n", "rating 0 is outside 1 to 5"),
        ("1::9::inf::978300760\n", "rating inf is not a number"),
        ("1::9::5::yesterday\n", r"row 1 \(user 1, item 9\): timestamp yesterday is not a number"),
        ("1::9::5::978300760000\n", "timestamp 978300760000 is not in epoch seconds"),
        ("1::9::5::-5\n", "timestamp -5 is not in epoch seconds"),
        ("1::9::5::978300760.5\n", "timestamp 978300760.5 is not a whole number"),
        ("1::2::5::978300760\n", r"row 1 \(user 1, item 2\): item 2 is not among the known items"),
        ("a::9::5::978300760\n", "user id a is not a number"),
        (RATINGS + "1::9::4::978300999\n", r"row 4 \(user 1, item 9\): the pair occurs before"),
        ("1::9::5::978300760\n1::1::978300760\n", "row 2: 3 fields, expected 4"),
        ("1::9::5\n", "row 1: 3 fields, expected 4"),
        ("1::9::5::978300760::1\n", "row 1: 5 fields, expected 4"),
        ("1::9::5::978300760\n\n1::1::5::978300760\n", "row 2: 1 fields, expected 4"),
        # one field too many and one too few: the counts cancel out
        ("1::9::5::978300760::1\n1::1::5\n", "row 1: 5 fields, expected 4"),
        ("", "there are no rows"),
    ],
)
def test_bad_ratings(tmp_path, ratings, message):
    with pytest.raises(InputError, match=message):
        read_ml_1m(write_ml_1m(tmp_path / "ml-1m.zip", ratings=ratings))


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        (MOVIES + "9::Again (1999)::Drama\n", r"movies\.dat, row 4: item 9 occurs before, in row 3"),
        ("x::Title (1999)::Drama\n", "row 1: item id 'x' is not a whole number"),
        ("9::::Drama\n", r"row 1 \(item 9\): the title is empty"),
        ("9::Title (1999)\n", "row 1: 2 fields, expected 3"),
    ],
)
def test_bad_movies(tmp_path, movies, message):
    with pytest.raises(InputError, match=message):
        read_ml_1m(write_ml_1m(tmp_path / "ml-1m.zip", movies=movies))


@pytest.mark.parametrize("missing", ["movies", "ratings"])
def test_missing_member(tmp_path, missing):
    raw = write_ml_1m(tmp_path / "ml-1m.zip", **{missing: None})
    with pytest.raises(InputError, match=rf"has no member ml-1m/{missing}\.dat"):
        read_ml_1m(raw)


def test_truncated_archive(tmp_path):
    raw = write_ml_1m(tmp_path / "ml-1m.zip")
    raw.write_bytes(raw.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"ml-1m\.zip: truncated"):
        read_ml_1m(raw)


def write_ml_100k(path, item_header, inter_header):
    items = f"{item_header}\n1\tToy Story\t1995\tAnimation Children's\n267\tunkonwn\tunkonwn\tunknown\n"
    ratings = f"{inter_header}\n196\t1\t3\t881250949\n196\t267\t1\t881250940\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.item", items)
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", ratings)
    return path


ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
INTER_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def test_ml_100k_tables(tmp_path):
    interactions, items = parsed(MovieLens100K(), write_ml_100k(tmp_path / "carrier.whl", ITEM_HEADER, INTER_HEADER))
    assert interactions[Columns.ITEM_ID].tolist() == [267, 1]
    assert interactions[Columns.ENGAGEMENT].tolist() == [1.0, 3.0]
    assert items[Columns.TITLE].tolist() == ["Toy Story (1995)", "unkonwn"]
    assert items[Columns.RELEASED].tolist()[0] == 1995.0
    assert np.isnan(items[Columns.RELEASED].tolist()[1])
    assert items[Columns.TOPICS].tolist() == [["Animation", "Children's"], []]  # "unknown" is no topic
    assert items[Columns.TEXT].tolist() == ["Toy Story (1995). Animation, Children's", "unkonwn"]


def test_ml_100k_missing_column(tmp_path):
    raw = write_ml_100k(tmp_path / "carrier.whl", ITEM_HEADER, INTER_HEADER.replace("rating:float", "stars:float"))
    with pytest.raises(InputError, match=r"ml-100k\.inter: column rating:float is missing; the header has user_id"):
        MovieLens100K().read(raw, None)


def test_real_ml_100k(tmp_path):
    try:
        raw = SOURCES["ml-100k"]().fetch(tmp_path)
    except InputError as error:
        pytest.skip(str(error))
    interactions, items = parsed(SOURCES["ml-100k"](), raw)
    # published counts: 100,000 ratings of 943 users and 1,682 movies, by star 6110/11370/27145/34174/21201
    assert len(interactions) == 100_000
    assert interactions[Columns.USER_ID].nunique() == 943
    assert len(items) == interactions[Columns.ITEM_ID].nunique() == 1_682
    assert interactions[Columns.ENGAGEMENT].value_counts().sort_index().tolist() == [6110, 11370, 27145, 34174, 21201]


def refuse(*_, **__):
    raise InputError("no way there")


def test_ml_1m_that_is_there_is_used(tmp_path, monkeypatch):
    raw = write_ml_1m(tmp_path / "ml-1m.zip")
    monkeypatch.setattr(movielens, "ML_1M_SHA256", sha256_of(raw))
    monkeypatch.setattr(movielens, "fetch_url", refuse)
    assert MovieLens1M().fetch(tmp_path) == raw


def test_ml_1m_with_another_digest_is_refused_not_replaced(tmp_path, monkeypatch):
    raw = write_ml_1m(tmp_path / "ml-1m.zip")
    before = raw.read_bytes()
    monkeypatch.setattr(movielens, "fetch_url", lambda *_: pytest.fail("the user's file was replaced"))
    with pytest.raises(InputError, match="expected " + movielens.ML_1M_SHA256):
        MovieLens1M().fetch(tmp_path)
    assert raw.read_bytes() == before


def test_ml_1m_out_of_the_carrier(tmp_path, monkeypatch):
    inner = write_ml_1m(tmp_path / "inner.zip")
    raw_folder = tmp_path / "raw"

    def carry(requirement, sha256, folder, *, source):
        assert (requirement, sha256, source) == (*movielens.ML_1M_CARRIER, True)
        path = folder / "carrier.tar.gz"
        with tarfile.open(path, "w:gz") as sdist:
            member = tarfile.TarInfo(movielens.ML_1M_MEMBER)
            member.size = inner.stat().st_size
            sdist.addfile(member, io.BytesIO(inner.read_bytes()))
        return path

    monkeypatch.setattr(movielens, "ML_1M_SHA256", sha256_of(inner))
    monkeypatch.setattr(movielens, "fetch_url", refuse)
    monkeypatch.setattr(movielens, "fetch_from_index", carry)
    assert MovieLens1M().fetch(raw_folder).read_bytes() == inner.read_bytes()
    assert [path.name for path in raw_folder.iterdir()] == ["ml-1m.zip"]  # the carrier is not kept


def test_ml_1m_unreachable_gives_one_clear_message(tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, "fetch_url", refuse)
    monkeypatch.setattr(movielens, "fetch_from_index", refuse)
    with pytest.raises(InputError) as caught:
        MovieLens1M().fetch(tmp_path)
    for part in ("ml-1m.zip", movielens.ML_1M_ADDRESS, str(tmp_path), movielens.ML_1M_SHA256, "scikit-rec==0.3.0"):
        assert part in str(caught.value)
