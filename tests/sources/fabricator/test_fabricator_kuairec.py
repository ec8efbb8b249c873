"""The made-up KuaiRec: layout, sizes, planted truth against what is drawn, determinism."""

import csv
import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.sources.fabricator import kuairec
from flexrec.sources.fabricator.kuairec import write_kuairec
from flexrec.sources.fabricator.scale import shared_out

SCALE = 0.002


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairec")
    write_kuairec(folder, SCALE, 5)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    with zipfile.ZipFile(folder / "KuaiRec.zip") as zipped:
        return {name.rpartition("/")[2]: zipped.read(name).decode() for name in zipped.namelist()}


def frame(files, name):
    return pd.read_csv(io.StringIO(files[name]), lineterminator="\n")


def test_the_archive_has_the_official_files_and_columns(folder, files):
    with zipfile.ZipFile(folder / "KuaiRec.zip") as zipped:
        inside = {name for name in zipped.namelist() if name.endswith(".csv")}
    names = "big_matrix small_matrix item_categories item_daily_features user_features social_network"
    assert inside == {f"KuaiRec 2.0/data/{name}.csv" for name in [*names.split(), "kuairec_caption_category"]}
    matrix = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    headers = {name: text.partition("\n")[0] for name, text in files.items()}
    assert headers["small_matrix.csv"] == headers["big_matrix.csv"] == matrix
    assert headers["item_categories.csv"] == "video_id,feat"
    assert headers["social_network.csv"] == "user_id,friend_list"
    daily = headers["item_daily_features.csv"].split(",")
    assert len(daily) == 58
    assert {"date", "upload_dt", "show_cnt", "play_cnt", "cancel_collect_user_num"} < set(daily)
    assert len(headers["user_features.csv"].split(",")) == 31


def test_the_sizes_follow_the_scale(files):
    small, big = frame(files, "small_matrix.csv"), frame(files, "big_matrix.csv")
    # sides by sqrt(.002) = .0447: 1,411 -> 63 users, 3,327 -> 149 videos, of whose 9,387 pairs 99.62% are there
    assert (small["user_id"].nunique(), small["video_id"].nunique(), len(small)) == (63, 149, 9_351)
    # rows by .002: 12,530,806 -> 25,062; 7,176 -> 321 users
    assert len(big) == 25_062
    assert big["user_id"].nunique() == 321
    assert len(frame(files, "item_categories.csv")) == len(frame(files, "kuairec_caption_category.csv")) == 480
    assert small["timestamp"].isna().sum() == round(9_351 * 181_992 / 4_676_570)
    assert big.duplicated().sum() == pytest.approx(25_062 * 965_819 / 12_530_806, abs=30)
    assert not small.duplicated(["user_id", "video_id"]).any()
    # the small matrix's pairs are not in the big one
    assert small.merge(big, on=["user_id", "video_id"]).empty


def test_the_columns_agree_with_each_other(files):
    for name in ("small_matrix.csv", "big_matrix.csv"):
        rows = frame(files, name)
        assert np.allclose(rows["watch_ratio"], rows["play_duration"] / rows["video_duration"])
        timed = rows.dropna(subset="timestamp")
        local = pd.to_datetime(timed["timestamp"] + 8 * 3600, unit="s").dt.round("ms")
        assert (local == pd.to_datetime(timed["time"])).all()
        assert (local.dt.strftime("%Y%m%d").astype(int) == timed["date"].astype(int)).all()
        # by user, then by time, rows without a time last
        order = rows.assign(missing=rows["timestamp"].isna()).sort_values(
            ["user_id", "missing", "timestamp"], kind="stable"
        )
        assert order.index.tolist() == rows.index.tolist()


def test_captions_are_as_dirty_as_the_real_ones(files):
    text = files["kuairec_caption_category.csv"]
    assert "\r" in text
    rows = list(csv.reader(io.StringIO(text.replace("\r", " "))))
    assert all(len(row) == 10 for row in rows)
    captions = frame(files, "kuairec_caption_category.csv")["caption"]
    assert 0.05 < captions.isna().mean() < 0.25


def test_what_is_drawn_follows_the_planted_truth(folder, files):
    small = frame(files, "small_matrix.csv")
    truth = pd.read_parquet(folder / kuairec.TRUTH_FOLDER / "small_matrix.parquet")
    both = small.merge(truth, on=["user_id", "video_id"])
    assert len(both) == len(small) == len(truth)
    # standardised residuals average 0 within 4 standard errors, and their squares about 1 (the tail is heavy)
    residual = (both["watch_ratio"] - both["mean"]) / np.sqrt(both["variance"])
    assert abs(residual.mean()) < 4 / np.sqrt(len(both))
    assert 0.5 < (residual**2).mean() < 1.5
    # the noise differs from pair to pair, and the planted size of it is the drawn one
    louder = both["variance"] > both["variance"].median()
    squares = (both["watch_ratio"] - both["mean"]).abs()
    assert squares[louder].mean() > 1.5 * squares[~louder].mean()


def test_the_watch_ratios_are_long_tailed_like_the_real_ones(files):
    ratio = frame(files, "small_matrix.csv")["watch_ratio"]
    # the real sample: quartiles .47, .78, 1.14, mean .92; one world of 149 videos is off by its luck
    assert ratio.quantile([0.25, 0.5, 0.75]).to_numpy() == pytest.approx([0.47, 0.78, 1.14], rel=0.25)
    assert ratio.mean() > ratio.median()
    assert ratio.max() > 8


def test_plays_burst_where_the_daily_counts_do(files):
    big, daily = frame(files, "big_matrix.csv"), frame(files, "item_daily_features.csv")
    drawn = big.groupby(["video_id", "date"]).size().rename("drawn").reset_index()
    both = (
        daily[["video_id", "date", "play_cnt"]].merge(drawn, on=["video_id", "date"], how="left").fillna({"drawn": 0})
    )
    busy = both.groupby("video_id").filter(lambda rows: rows["drawn"].sum() > 40)
    within = busy.groupby("video_id").apply(lambda rows: rows["play_cnt"].corr(rows["drawn"]), include_groups=False)
    assert within.mean() > 0.6


def test_the_same_arguments_give_the_same_bytes(tmp_path, folder):
    archive = write_kuairec(tmp_path / "again", SCALE, 5, truth=False)
    assert archive.read_bytes() == (folder / "KuaiRec.zip").read_bytes()
    assert not (tmp_path / "again" / kuairec.TRUTH_FOLDER).exists()
    other = write_kuairec(tmp_path / "other", 0.0005, 6, truth=False)
    assert other.read_bytes() != write_kuairec(tmp_path / "third", 0.0005, 7, truth=False).read_bytes()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(tmp_path, scale):
    with pytest.raises(InputError, match="scale must be a positive number"):
        write_kuairec(tmp_path, scale, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("total", "room", "least", "expected_sum"),
    [(100, 30, 1, 100), (1000, 30, 1, 300), (5, 30, 1, 10), (150, 30, 12, 150)],
)
def test_shares_add_up_within_their_bounds(total, room, least, expected_sum):
    counts = shared_out(total, np.random.default_rng(0).lognormal(size=10), np.full(10, room), least=least)
    assert counts.sum() == expected_sum
    assert counts.min() >= least
    assert counts.max() <= room
