import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.study.collection import CELL_COLUMNS, COSTS, collect, costs
from flexrec.study.plan import Cell
from made_study import QUALITY, STAGES, curves_of, metrics_of, result


def rows(table: pd.DataFrame) -> list[tuple]:
    keys = ["method", "kind", "trained_on", "need", "seed"]
    return [tuple(row) for row in table[keys].drop_duplicates().itertuples(index=False)]


def test_shared_rows_are_taken_once(collected):
    assert rows(collected.instances) == [
        ("random", "baseline", "", "interest", 0),
        ("item_mean", "baseline", "", "interest", 0),
        ("untrained", "untrained", "", "interest", 0),
        ("warmed_up", "warmed_up", "interest", "interest", 0),
        ("flexrec", "trained", "interest", "interest", 0),
        ("rec_r1_critic", "trained", "interest", "interest", 0),
        ("random", "baseline", "", "interest", 1),
        ("item_mean", "baseline", "", "interest", 1),
        ("untrained", "untrained", "", "interest", 1),
        ("warmed_up", "warmed_up", "interest", "interest", 1),
        ("flexrec", "trained", "interest", "interest", 1),
    ]
    assert len(collected.instances) == 11 * 24


def test_every_cell_has_a_row_with_its_costs(collected):
    cells = collected.cells
    assert list(cells.columns) == list(CELL_COLUMNS)
    assert cells["state"].tolist() == ["done", "done", "done", "failed"]
    assert cells["reason"].tolist() == ["", "", "", "out of memory"]
    first, failed = cells.iloc[0], cells.iloc[3]
    assert (first["training_seconds"], first["warm_up_seconds"], first["made"]) == (100.0, 50.0, "2026-01-01")
    # counted from the start: the last of four steps
    assert (first["prompt_tokens"], first["answer_tokens"]) == (4000.0, 40.0)
    assert np.isnan(first["updates"])
    assert failed[["training_seconds", *COSTS]].isna().all()


def test_what_is_asked_for_another_need_is_told_apart():
    joint = result("flexrec", 0, need="interest+trend")
    probe = metrics_of({"random": 0.5, "untrained": 0.5, "flexrec": 0.6}, needs=("trend",))
    single = result("flexrec", 0)
    single = result("flexrec", 0, metrics=(*single.metrics, ("probe", probe[probe["instance_id"] < 6])))
    found = collect([single, joint]).instances
    own = found[found["method"] == "flexrec"]
    assert own.groupby(["sample", "trained_on", "need"]).size().to_dict() == {
        ("probe", "interest", "trend"): 6,
        ("test", "interest", "interest"): 24,
        ("test", "interest+trend", "interest"): 24,
        ("test", "interest+trend", "trend"): 24,
    }


def test_the_warm_up_of_other_gains_is_another_row():
    found = collect([result("flexrec", 0), result("rec_r1", 0, gains="observed", quality=0.6)])
    assert {"warmed_up", "warmed_up_observed"} <= set(found.instances["method"])
    assert set(found.instances.loc[found.instances["method"] == "warmed_up_observed", "kind"]) == {"warmed_up"}


def test_a_baseline_that_nobody_told_of_is_one_by_the_cells_own_list():
    more = result("flexrec", 0, baselines=("random", "item_mean", "mf"))
    table = metrics_of({**STAGES, "mf": 0.6, "chat_api": 0.7, "flexrec": 0.8})
    kinds = collect([result("flexrec", 0, baselines=more.baselines, metrics=(("test", table),))]).instances
    assert kinds.groupby("method")["kind"].first().to_dict() == {
        "random": "baseline",
        "item_mean": "baseline",
        "mf": "baseline",
        "untrained": "untrained",
        "warmed_up": "warmed_up",
        "chat_api": "other",
        "flexrec": "trained",
    }


def test_cells_that_disagree_on_what_they_share_are_refused():
    other = metrics_of({**STAGES, "untrained": 0.9, "rec_r1_critic": QUALITY["rec_r1_critic"]})
    with pytest.raises(InputError, match="'untrained' ranks otherwise in interest rec_r1_critic seed 0 than in"):
        collect([result("flexrec", 0), result("rec_r1_critic", 0, metrics=(("test", other),))])


def test_methods_without_curves_cost_nothing_that_is_known():
    found = collect([result("flexrec", 0, curves=None)])
    assert found.curves.empty
    assert found.cells[list(COSTS)].isna().all().all()
    assert costs(curves_of(tokens=False)) == pytest.approx(dict.fromkeys(COSTS, np.nan), nan_ok=True)


def test_the_critic_of_a_dataset_is_taken_once_and_the_one_that_training_reads():
    predictions = pd.DataFrame({"variant": ["a", "b"], "mean": [1.0, 2.0], "gain": [1.0, 2.0]})
    reliability = pd.DataFrame({"variant": ["a", "b"], "predicted_std": [1.0, 2.0], "rmse": [1.0, 2.0]})
    found = collect([result("flexrec", seed, critic=(predictions, reliability)) for seed in (0, 1)])
    assert found.critic_predictions.to_dict("list") == {
        "variant": ["ml-1m, density 0.1, seed 0"],
        "mean": [2.0],
        "gain": [2.0],
    }
    assert len(found.critic_reliability) == 1


def test_a_study_of_which_nothing_is_done():
    cell = Cell("interest", "flexrec", 0)
    found = collect([result("flexrec", 0, cell=cell, state="not run", reason="x", metrics=(), curves=None, seconds={})])
    assert (len(found.cells), len(found.instances), len(found.curves)) == (1, 0, 0)
