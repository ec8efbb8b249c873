"""The made-up ESCI and MovieLens-1M, and the command line."""

import subprocess
import sys

import ibis
import numpy as np
import pandas as pd
import pytest

from flexrec.sources.fabricator.__main__ import main
from flexrec.sources.fabricator.esci import EXAMPLES_FILE, PRODUCTS_FILE, TRUTH_FILE, write_esci
from flexrec.sources.fabricator.movielens import STARS, write_ml_1m
from flexrec.sources.movielens import read_ml_1m


@pytest.fixture(scope="module")
def esci(tmp_path_factory):
    folder = write_esci(tmp_path_factory.mktemp("esci"), 0.01, 0)
    return {name: pd.read_parquet(folder / name) for name in (EXAMPLES_FILE, PRODUCTS_FILE, TRUTH_FILE)}


class TestEsci:
    def test_the_official_columns(self, esci):
        examples = "example_id query query_id product_id product_locale esci_label small_version large_version split"
        assert esci[EXAMPLES_FILE].columns.tolist() == examples.split()
        products = "product_id product_title product_description product_bullet_point product_brand product_color"
        assert esci[PRODUCTS_FILE].columns.tolist() == [*products.split(), "product_locale"]

    def test_keys(self, esci):
        examples, products = esci[EXAMPLES_FILE], esci[PRODUCTS_FILE]
        assert examples["example_id"].is_unique
        assert not examples.duplicated(["query_id", "product_id"]).any()
        assert (
            (examples.groupby("query_id")[["query", "split", "product_locale", "small_version"]].nunique() == 1)
            .all()
            .all()
        )
        assert not products.duplicated(["product_locale", "product_id"]).any()
        # an id alone does not name a product
        assert products["product_id"].duplicated().any()
        joined = examples.merge(products, on=["product_id", "product_locale"])
        assert len(joined) == len(examples)
        assert products["product_id"].str.fullmatch("B0[0-9A-Z]{8}").all()

    def test_the_published_shares(self, esci):
        examples, products = esci[EXAMPLES_FILE], esci[PRODUCTS_FILE]
        assert examples["query_id"].nunique() == 1_307  # 130,652 * .01
        assert examples.groupby("query_id").size().mean() == pytest.approx(2_621_288 / 130_652, rel=0.15)
        labels = examples["esci_label"].value_counts(normalize=True)
        assert labels[["E", "S", "C", "I"]].to_numpy() == pytest.approx([0.652, 0.219, 0.029, 0.100], abs=0.06)
        missing = products.isna().mean()
        assert missing["product_bullet_point"] == pytest.approx(0.15, abs=0.02)
        assert missing["product_color"] == pytest.approx(0.33, abs=0.02)
        assert missing["product_title"] == 0
        assert examples["small_version"].mean() == pytest.approx(0.37, abs=0.06)
        assert (examples["split"] == "test").mean() == pytest.approx(0.23, abs=0.06)

    def test_the_grade_can_be_read_off_the_title(self, esci):
        home = esci[EXAMPLES_FILE].merge(esci[TRUTH_FILE], on="example_id").query("product_locale == 'us'")
        home = home.merge(esci[PRODUCTS_FILE], on=["product_id", "product_locale"])
        noun = home["query"].str.split().str[-1]
        named = [word in title.split() for word, title in zip(noun, home["product_title"], strict=True)]
        assert (np.asarray(named) == (home["true_label"] != "I")).all()
        assert (home["esci_label"] != home["true_label"]).eq(home["flipped"]).all()
        assert home["flipped"].mean() == pytest.approx(0.06, abs=0.01)

    def test_the_same_arguments_give_the_same_bytes(self, tmp_path):
        names = (EXAMPLES_FILE, PRODUCTS_FILE, TRUTH_FILE)
        one, two, other = (write_esci(tmp_path / name, 0.001, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
        assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
        assert all((one / name).read_bytes() != (other / name).read_bytes() for name in names)


class TestMovieLens:
    def test_the_real_parser_reads_it(self, tmp_path):
        tables = read_ml_1m(write_ml_1m(tmp_path, 0.02, 0))
        ratings, items = tables.interactions, tables.items
        # 1,000,209 * .02 = 20,004; sides by sqrt(.02): 6,040 -> 854, 3,883 -> 549
        assert (len(ratings), ratings["user_id"].nunique(), len(items)) == (20_004, 854, 549)
        assert ratings.groupby("user_id").size().min() == 20
        shares = ratings["engagement"].value_counts(normalize=True).sort_index()
        assert shares.to_numpy() == pytest.approx(np.array(STARS) / sum(STARS), abs=1e-3)
        assert items["title"].str.startswith("The ").any()
        assert items["title"].str.contains("Électric|Café|Señor").any()
        # many ratings share a second with another of the same user
        assert ratings.duplicated(["user_id", "timestamp"], keep=False).any()

    def test_stars_follow_the_planted_signal(self, tmp_path):
        archive = write_ml_1m(tmp_path, 0.02, 0)
        truth = pd.read_parquet(tmp_path / "ml-1m-fabricated-truth.parquet")
        both = read_ml_1m(archive).interactions.merge(truth, on=["user_id", "item_id"])
        assert len(both) == len(truth)
        quiet = both["noise"] < both["noise"].median()
        agreement = [rows["engagement"].corr(rows["signal"], method="spearman") for _, rows in both.groupby(quiet)]
        assert 0.3 < agreement[0] < agreement[1]

    def test_the_same_arguments_give_the_same_bytes(self, tmp_path):
        one, two, other = (write_ml_1m(tmp_path / name, 0.001, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
        assert one.read_bytes() == two.read_bytes() != other.read_bytes()


class TestCommandLine:
    def test_it_says_what_it_wrote(self, tmp_path, capsys):
        assert main(["kuairec", "--scale", "0.0002", "--seed", "3", "--folder", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert str(tmp_path / "KuaiRec.zip") in said
        assert "made up, 0.0002 times the published size, seed 3" in said
        assert "fabricated" in said

    def test_a_refusal_is_one_line(self, tmp_path, capsys):
        assert main(["esci", "--scale", "-1", "--folder", str(tmp_path)]) == 1
        assert capsys.readouterr().err.strip() == "scale must be a positive number, got -1.0"

    def test_as_a_module(self):
        command = [sys.executable, "-m", "flexrec.sources.fabricator", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "made-up raw files in the official layout" in done.stdout


def test_esci_at_tiny_scale_has_every_locale_and_split(tmp_path):
    folder = write_esci(tmp_path, 0.0001, 0)
    examples = ibis.duckdb.connect().read_parquet(folder / EXAMPLES_FILE).to_pandas()
    assert set(zip(examples["product_locale"], examples["split"], strict=True)) == {
        (locale, split) for locale in ("us", "es", "jp") for split in ("train", "test")
    }
