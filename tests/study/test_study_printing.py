import numpy as np
import pandas as pd
import pytest

from flexrec.reporting.study_page import render_study
from flexrec.study.printing import failures, study_facts, study_markdown, study_text, write_tables


def test_the_same_study_gives_the_same_text(tables, collected):
    facts = study_facts("mine", collected.cells)
    assert facts["runs"] == "3 of 4"
    assert facts["runs made"] == "2026-01-01 to 2026-01-02"
    # 100 + 101 + 100 s of training and two warm-ups of 50 s
    assert facts["hours of training"] == pytest.approx(401 / 3600)
    markdown = study_markdown("A <study>", list(tables.values()), facts)
    assert markdown.startswith("## A &lt;study&gt;\n")
    assert "### Table 1: all methods" in markdown
    assert "| runs | 3 of 4 |" in markdown
    assert "|  | GRPO | PPO |" in markdown
    assert "| NDCG@5 by seed | seed 0 | seed 1 |" in markdown
    text = study_text(list(tables.values()), collected.cells)
    assert "Table 1: all methods" in text
    assert "1 of 4 runs are not done:" in text
    assert "rec_r1_critic seed 1: failed; out of memory" in text
    page = render_study("A <study>", list(tables.values()), {}, facts, failures(collected.cells))
    assert page == render_study("A <study>", list(tables.values()), {}, facts, failures(collected.cells))
    assert "A &lt;study&gt;" in page
    assert "out of memory" in page
    assert "NDCG@5 by seed" in page


def test_the_numbers_are_written_unrounded(tables, tmp_path):
    write_tables(list(tables.values()), tmp_path)
    name = "table-1-ml-1m-interest-density-0.1-small"
    read = pd.read_csv(tmp_path / f"{name}.csv")
    assert read["label"].tolist() == [row[0].text for row in tables["1"].rows]
    kept = pd.read_parquet(tmp_path / f"{name}.parquet")
    assert np.array_equal(kept["ndcg_at_5"], tables["1"].numbers["ndcg_at_5"])
    (tmp_path / "none").mkdir()
    write_tables([], tmp_path / "none")
    assert [file.name for file in (tmp_path / "none").iterdir()] == ["empty.txt"]


def test_a_warm_up_counts_although_the_first_of_its_cells_failed(collected):
    whole = study_facts("mine", collected.cells)["hours of training"]
    # rec_r1_critic of seed 1 failed; the warm-up that it shares is told by another cell
    first = study_facts("mine", collected.cells.sort_values("state", ascending=False, kind="stable"))
    assert first["hours of training"] == pytest.approx(whole)
    assert collected.cells.sort_values("state", ascending=False, kind="stable").iloc[0]["state"] == "failed"
