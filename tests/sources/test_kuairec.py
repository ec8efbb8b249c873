"""KuaiRec: matrices by hand in the official layout, every rule about odd rows, every refusal, archives, real files."""

import zipfile
from functools import partial
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.schemas import Interactions, Items
from flexrec.sources import kuairec, source_of
from flexrec.sources.download import DownloadPolicy
from flexrec.sources.fetch import fetch_url
from flexrec.sources.kuairec import (
    DAILY_FILE,
    MD5,
    SAMPLE_FILE,
    SAMPLE_SHA256,
    KuaiRec,
    KuaiRecSample,
)
from flexrec.sources.kuairec_videos import CAPTIONS_FILE, CATEGORIES_FILE
from kuairec_files import CAPTIONS_TEXT, CATEGORIES_TEXT, REAL, needs_real

MATRIX = """\
user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio
1,20,9000,6000,2020-07-05 00:00:10.250,20200705.0,1593878410.25,1.5
1,10,5000,10000,2020-07-05 00:00:10.750,20200705.0,1593878410.75,0.5
1,30,0,6000,,,,0.0
1,40,0,6000,,,,0.0
2,20,3000,6000,2020-07-05 00:00:09.000,20200705.0,1593878409.0,0.5
2,10,7000,10000,2020-07-05 00:00:10.250,20200705.0,1593878410.25,0.7
2,20,1500,6000,2020-07-06 00:00:00.000,20200706.0,1593964800.0,0.25
2,20,3000,6000,2020-07-05 00:00:09.000,20200705.0,1593878409.0,0.5
"""
DAILY_TEXT = (
    "video_id,date,author_id,upload_dt,show_cnt,play_cnt\n"
    "20,20200706,1,2020-07-01,9,7\n10,20200705,1,2020-07-01,9.0,4.0\n10,20200706,1,2020-07-01,9,\n"
    "10,20200705,1,2020-07-01,9,99\n"
)


def folder_with(folder: Path, **texts: str | bytes | None) -> Path:
    """A folder of the files as a user unpacks them; None leaves one out."""
    files: dict[str, str | bytes | None] = {
        "small_matrix.csv": MATRIX,
        CATEGORIES_FILE: CATEGORIES_TEXT,
        CAPTIONS_FILE: CAPTIONS_TEXT,
        DAILY_FILE: DAILY_TEXT,
    }
    names = {
        "matrix": "small_matrix.csv",
        "categories": CATEGORIES_FILE,
        "captions": CAPTIONS_FILE,
        "daily": DAILY_FILE,
    }
    files |= {names[key]: text for key, text in texts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if text is not None:
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def read(folder: Path, **options):
    connection = ibis.duckdb.connect(threads=1)
    tables = KuaiRec(**options).read(folder, connection)
    return tables, connection.to_pandas(tables.interactions).sort_values(Columns.EVENT_ID, ignore_index=True)


class TestTheMatrix:
    def test_by_hand(self, tmp_path):
        tables, interactions = read(folder_with(tmp_path))
        # in the order of (time, user, video): two plays at 410.25, by user, before the one at 410.75 in the same second
        expected = pd.DataFrame(
            {
                "user_id": [2, 1, 2, 1],
                "item_id": [20, 20, 10, 10],
                "timestamp": [1593878409, 1593878410, 1593878410, 1593878410],
                "engagement": [0.5, 1.5, 0.7, 0.5],
                "event_id": [0, 1, 2, 3],
            }
        )
        pd.testing.assert_frame_equal(interactions, expected)
        Interactions.validate(interactions)
        # of the three plays of video 20 by user 2 the earliest is kept, once
        assert tables.dropped["rows without a time, dropped"] == 2
        assert tables.dropped["later plays of the same user and video, dropped"] == 2

    def test_equal_times_keep_the_smaller_ratio_whatever_the_order(self, tmp_path):
        twice = [f"3,10,1,10,t,20200705,1593878410.5,{ratio}\n" for ratio in ("0.9", "0.2")]
        for place, rows in enumerate((twice, twice[::-1])):
            _, interactions = read(folder_with(tmp_path / str(place), matrix=MATRIX + "".join(rows)))
            assert interactions.loc[interactions.user_id == 3, "engagement"].tolist() == [0.2]

    def test_the_order_of_the_rows_does_not_matter(self, tmp_path):
        header, *rows = MATRIX.splitlines(keepends=True)
        _, straight = read(folder_with(tmp_path / "a"))
        _, reversed_ = read(folder_with(tmp_path / "b", matrix=header + "".join(rows[::-1])))
        pd.testing.assert_frame_equal(straight, reversed_)

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ("7,10,1,1,t,20200705,1593878410,nan", "watch_ratio nan is not a finite number from 0 on"),
            ("7,10,1,1,t,20200705,1593878410,inf", "watch_ratio inf is not a finite"),
            ("7,10,1,1,t,20200705,1593878410,-0.1", "watch_ratio -0.1 is not a finite"),
            ("7,10,1,1,t,20200705,1593878410,", "watch_ratio is missing"),
            ("7,10,1,1,t,20200705,1593878410,fast", "watch_ratio 'fast' is not a number"),
            ("7,10,1,1,t,20200705,1593878410000,1", "timestamp 1.59388e.12 is not in epoch seconds"),
            (",10,1,1,t,20200705,1593878410,1", "the user or the video is missing"),
            ("7,99,1,1,t,20200705,1593878410,1", "video 99 is not in"),
            ("7,1.5,1,1,t,20200705,1593878410,1", "video_id '1.5' is not a whole number"),
            ("99999999999,10,1,1,t,20200705,1593878410,1", "user_id '99999999999' is beyond"),
            ("7,10,1", "3 fields, expected 8"),
            ('7,10,1,1,"t,20200705,1593878410,1', "unexpected end of data"),
        ],
    )
    def test_a_bad_row_is_refused_by_file_row_and_key(self, tmp_path, row, problem):
        with pytest.raises(InputError, match=problem) as caught:
            read(folder_with(tmp_path, matrix=MATRIX + row + "\n"))
        message = str(caught.value)
        assert f"{tmp_path / 'small_matrix.csv'}, row 10" in message
        assert "\n" not in message
        if "," in row and "end of data" not in problem and "is missing" not in problem:
            user, video, *_ = row.split(",")
            assert f"(user {user}, video {video})" in message

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (
                lambda text: text.replace("watch_ratio", "ratio"),
                "column watch_ratio is missing; the header has user_id",
            ),
            (lambda text: text.splitlines(keepends=True)[0], "there are no rows"),
            (lambda text: "", "the file is empty"),
            (lambda text: text.encode().replace(b"2020-07-05 00:00:09", b"\xff\xfe"), None),
            (lambda text: text.encode().replace(b"1593878409.0", b"1593878409\xff"), "not UTF-8"),
            (lambda text: text.encode("utf-16"), "row 1: not UTF-8"),
            (lambda text: text.splitlines()[0] + "\n1,10,1,1,,,,1\n", "no row has a time"),
        ],
    )
    def test_a_bad_file_is_refused(self, tmp_path, change, problem):
        folder = folder_with(tmp_path, matrix=change(MATRIX))
        if problem is None:  # an odd text where no column is read changes nothing
            assert len(read(folder)[1]) == 4
            return
        with pytest.raises(InputError, match=problem):
            read(folder)

    def test_the_big_matrix_is_another_file(self, tmp_path):
        folder = folder_with(tmp_path)
        (folder / "small_matrix.csv").rename(folder / "big_matrix.csv")
        assert len(read(folder, matrix="big")[1]) == 4
        with pytest.raises(InputError, match=r"small_matrix\.csv: no such file"):
            read(folder)

    def test_a_video_that_nobody_was_shown_is_left_out(self, tmp_path):
        tables, _ = read(folder_with(tmp_path, matrix=MATRIX.replace("1,40,0,6000,,,,0.0\n", "")))
        assert tables.items[Columns.ITEM_ID].tolist() == [10, 20, 30]
        assert tables.dropped["videos that occur in no row of the matrix, left out"] == 1


class TestDailyCounts:
    def test_plays_begin_with_the_day_in_beijing(self, tmp_path):
        tables, _ = read(folder_with(tmp_path))
        # 2020-07-05 00:00 in Beijing is 2020-07-04 16:00 UTC = 1593878400
        assert tables.daily_counts.to_dict("list") == {
            "item_id": [10, 20],
            "timestamp": [1593878400, 1593964800],
            "count": [4, 7],
        }
        assert tables.daily_counts.dtypes.astype(str).tolist() == ["int64"] * 3
        assert tables.dropped["daily counts without a number of plays, dropped"] == 1
        assert tables.dropped["further daily counts of the same video and date, dropped"] == 1

    def test_the_upload_is_the_release(self, tmp_path):
        released = read(folder_with(tmp_path))[0].items[Columns.RELEASED].tolist()
        # 2020-07-01 is 18,444 days after 1970-01-01
        assert released[:2] == pytest.approx([1970 + 18_444 / 365.2425] * 2)
        assert np.isnan(released[2:]).all()

    def test_without_the_file_the_counts_come_from_interactions(self, tmp_path):
        assert read(folder_with(tmp_path, daily=None))[0].daily_counts is None

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ("10,20200230,1,2020-07-01,1,1", "date 20200230.: the date is not like 20200705"),
            ("10,20200706,1,2020-07-01,1,-1", "play_cnt -1 is not a count"),
            ("10,20200706,1,2020-07-01,1,1.5", "play_cnt 1.5 is not a count"),
            ("10,20200706,1,2020-07-01,1,nan", "play_cnt nan is not a count"),
            ("10,20200706,1,yesterday,1,1", "upload_dt yesterday is not like"),
            ("99,20200706,1,2020-07-01,1,1", r"row 6 \(video 99, date 20200706\): the video is not in"),
            ("10,20200706,1", "cannot be read"),
        ],
    )
    def test_bad_rows_are_refused(self, tmp_path, row, problem):
        with pytest.raises(InputError, match=problem):
            read(folder_with(tmp_path, daily=DAILY_TEXT + row + "\n"))


class TestTheArchive:
    @pytest.fixture
    def raw(self, tmp_path):
        """A raw folder with an archive in the official layout."""
        source = folder_with(tmp_path / "source")
        with zipfile.ZipFile(tmp_path / "KuaiRec.zip", "w") as zipped:
            for path in sorted(source.iterdir()):
                zipped.write(path, f"KuaiRec 2.0/data/{path.name}")
            zipped.writestr("__MACOSX/KuaiRec 2.0/data/._small_matrix.csv", "")
        return tmp_path

    def test_what_is_needed_is_unpacked_once(self, raw):
        source = KuaiRec(md5="")
        folder = source.fetch(raw)
        assert folder.parent == raw / "kuairec"
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["small_matrix.csv", CATEGORIES_FILE, CAPTIONS_FILE, DAILY_FILE]
        )
        assert (folder / "small_matrix.csv").read_text() == MATRIX
        times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert source.fetch(raw) == folder
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    def test_another_archive_goes_into_another_folder(self, raw):
        first = KuaiRec(md5="").fetch(raw)
        with zipfile.ZipFile(raw / "KuaiRec.zip", "a") as zipped:
            zipped.writestr("more.txt", "more")
        assert KuaiRec(md5="").fetch(raw) != first

    def test_a_wrong_archive_is_refused_with_both_digests(self, raw):
        with pytest.raises(InputError, match=f"its MD5 is [0-9a-f]{{32}}, expected {MD5}"):
            KuaiRec().fetch(raw)
        assert not (raw / "kuairec").exists()

    def test_a_truncated_archive_is_refused(self, raw):
        whole = (raw / "KuaiRec.zip").read_bytes()
        (raw / "KuaiRec.zip").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="truncated, damaged or not an archive"):
            KuaiRec(md5="").fetch(raw)

    def test_a_damaged_member_leaves_nothing_half_written(self, raw):
        data = bytearray((raw / "KuaiRec.zip").read_bytes())
        at = data.index(b"1593878410.25")
        data[at] = ord("2")
        (raw / "KuaiRec.zip").write_bytes(bytes(data))
        with pytest.raises(InputError, match="CRC"):
            KuaiRec(md5="").fetch(raw)
        assert not [path for path in (raw / "kuairec").rglob("*") if path.is_file()]

    def test_a_missing_member_is_named(self, raw):
        with pytest.raises(InputError, match=r"has no big_matrix\.csv; it holds item_categories\.csv"):
            KuaiRec(md5="", matrix="big").fetch(raw)

    @pytest.mark.parametrize("inside", ["kuairec", "kuairec/KuaiRec 2.0/data", "kuairec/data"])
    def test_unpacked_by_hand(self, tmp_path, inside):
        folder = folder_with(tmp_path / inside)
        assert KuaiRec().fetch(tmp_path) == folder

    def test_without_network_the_message_says_what_goes_where(self, tmp_path, monkeypatch):
        monkeypatch.setattr(kuairec, "ADDRESS", "http://127.0.0.1:9/KuaiRec.zip")
        quick = DownloadPolicy(attempts=1, backoff_seconds=0, connect_seconds=1)
        monkeypatch.setattr(kuairec, "fetch_url", partial(fetch_url, policy=quick))
        with pytest.raises(InputError) as caught:
            KuaiRec().fetch(tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        for part in ("http://127.0.0.1:9/KuaiRec.zip", str(tmp_path), "KuaiRec.zip", MD5, "CC BY-SA 4.0"):
            assert part in message


@pytest.fixture
def sample(tmp_path):
    folder = folder_with(tmp_path / "kuairec-sample", matrix=None, daily=None)
    (folder / SAMPLE_FILE).write_text("1,10,0.5\n1,20,1.25\n2,10,0\n2,30,3.5\n")
    return folder


class TestTheSample:
    def test_by_hand(self, sample):
        tables = KuaiRecSample().read(sample, None)
        interactions = tables.interactions
        # by md5sum: 1|10 0e0a..., 2|10 1d76..., 2|30 512e..., 1|20 b7c1...
        pairs = list(zip(interactions.user_id, interactions.item_id, strict=True))
        assert pairs == [(1, 10), (2, 10), (2, 30), (1, 20)]
        assert interactions.timestamp.tolist() == [1593878400 + place for place in range(4)]
        assert tables.dropped["pairs without a time, put into a pseudo order"] == 4
        assert tables.daily_counts is None
        assert tables.items[Columns.ITEM_ID].tolist() == [10, 20, 30]
        assert tables.dropped["videos that occur in no row of the matrix, left out"] == 1
        assert tables.items[Columns.RELEASED].isna().all()

    def test_the_pseudo_order_does_not_depend_on_the_file(self, sample):
        one = KuaiRecSample().read(sample, None).interactions
        lines = (sample / SAMPLE_FILE).read_text().splitlines(keepends=True)
        (sample / SAMPLE_FILE).write_text("".join(lines[::-1]))
        pd.testing.assert_frame_equal(KuaiRecSample().read(sample, None).interactions, one)

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ("1,10,2\n", "the pair occurs before"),
            ("3,10,-1\n", "outside 0 to inf"),
            ("3,99,1\n", "item 99 is not"),
            ("3,10,x\n", "not a number"),
        ],
    )
    def test_bad_rows_are_refused(self, sample, row, problem):
        with (sample / SAMPLE_FILE).open("a") as file:
            file.write(row)
        with pytest.raises(InputError, match=rf"row 5 .*{problem}"):
            KuaiRecSample().read(sample, None)

    def test_missing_files_are_named_with_digest_and_licence(self, sample):
        (sample / CAPTIONS_FILE).unlink()
        with pytest.raises(InputError) as caught:
            KuaiRecSample().fetch(sample.parent)
        for part in (
            str(sample),
            CAPTIONS_FILE,
            SAMPLE_SHA256[CAPTIONS_FILE],
            "CC BY-SA 4.0",
            "10.1145/3511808.3557220",
        ):
            assert part in str(caught.value)
        assert SAMPLE_FILE not in str(caught.value)

    def test_other_files_are_refused_with_both_digests(self, sample):
        with pytest.raises(InputError, match=f"its SHA-256 is [0-9a-f]{{64}}, expected {SAMPLE_SHA256[SAMPLE_FILE]}"):
            KuaiRecSample().fetch(sample.parent)

    @needs_real
    def test_the_real_files(self, tmp_path):
        folder = tmp_path / "kuairec-sample"
        folder.mkdir()
        for name in SAMPLE_SHA256:
            (folder / name).symlink_to(REAL / name)
        source = source_of("kuairec-sample", {"language": "english"})
        tables = source.read(source.fetch(tmp_path), None)
        interactions, items = tables.interactions, tables.items
        # the published counts
        assert len(interactions) == 117_113
        assert interactions[Columns.USER_ID].nunique() == 1_411
        assert (interactions.groupby(Columns.USER_ID).size() == 83).all()
        assert interactions[Columns.ITEM_ID].nunique() == 2_519
        assert interactions[Columns.ENGAGEMENT].median() == pytest.approx(0.779, abs=5e-4)
        assert interactions[Columns.ENGAGEMENT].mean() == pytest.approx(0.918, abs=5e-4)
        assert (interactions[Columns.ENGAGEMENT] >= 1).mean() == pytest.approx(0.334, abs=5e-4)
        assert len(items) == 2_519
        assert tables.dropped["videos that occur in no row of the matrix, left out"] == 10_728 - 2_519
        assert items[Columns.TITLE].is_unique
        assert items[Columns.TITLE].str.isascii().all()
        assert (
            items[Columns.TOPICS].map(lambda topics: all(topic.isascii() for topic in topics) and len(topics) > 0).all()
        )
        assert tables.dropped["carriage returns inside rows of the captions, made spaces"] == 4
        Interactions.validate(interactions)
        Items.validate(items)
