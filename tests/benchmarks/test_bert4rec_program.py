"""The program runs from end to end on made-up cycles, and its metrics are those of the ranks."""

import json

import pytest
import torch


@pytest.fixture
def program(project_root, monkeypatch):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import bert4rec

    threads = torch.get_num_threads()
    yield bert4rec
    torch.set_num_threads(threads)


def test_it_runs(program, tmp_path, capsys):
    program.main(["--quick", "--threads", "1", "--results", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "40 users, 30 items" in printed
    assert "bert4rec_repro" in printed
    rows = json.loads((tmp_path / "bert4rec.json").read_text())["rows"]
    assert [row["unit"] for row in rows] == ["MRR@10", "NDCG@10", "Hit@10"]
    assert 0 < rows[0]["figure"] <= rows[1]["figure"] <= rows[2]["figure"] <= 1


def test_metrics_by_hand(program):
    ranks = {1: 1, 2: 4, 3: 11}
    assert program._metric("MRR@10", ranks) == pytest.approx((1 + 1 / 4) / 3)
    # 1 / log2(5) = 0.4307
    assert program._metric("NDCG@10", ranks) == pytest.approx((1 + 0.43068) / 3, abs=1e-5)
    assert program._metric("Hit@10", ranks) == pytest.approx(2 / 3)
    # users by id: 1 - 1, 1/4 - 1/2, 0 - 0
    assert program._difference("MRR@10", ranks, {3: 12, 2: 2, 1: 1}, seed=0).startswith("-0.0833 [-0.25")
