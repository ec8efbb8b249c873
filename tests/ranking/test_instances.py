import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.ranking.instances import CANDIDATE_SIGNALS, Candidate, HistoryItem, Instance, read_instances

ITEMS = pd.DataFrame(
    {
        "item_id": [10, 11, 12, 13],
        "source_id": ["a", "b", "c", "d"],
        "title": ["Heat (1995)", "Alien (1979)", "Clue (1985)", "Big (1988)"],
        "text": ["heat", "alien", "clue", "big"],
        "topics": [["Crime", "Drama"], ["Horror"], [], ["Comedy"]],
    }
)


def labelled() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "instance_id": [5, 3],
            "user_id": [1, 2],
            "split": ["train", "test"],
            "query_time": [100, 200],
            "history_items": [[10, 13], []],
            "history_engagements": [[4.0, 5.0], []],
            "candidates": [[12, 11], [13, 10, 12]],
            "query": ["", "big crime"],
            "similarity": [[0.5, 0.25], [0.1, 0.2, 0.3]],
            "niche": [[0, 1], [1, 1, 0]],
            "trend": [[2, 0], [0, 0, 0]],
            "popularity": [[7, 8], [1, 2, 3]],
            "quality": [[3.5, 3.25], [3.0, 3.0, 3.0]],
            "recency": [[0.5, 0.25], [0.0, 1.0, 0.0]],
            "observed_engagement": [[4.0, np.nan], [np.nan] * 3],
        }
    )


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    table = labelled()
    cells = table[column].tolist()
    cells[row] = value
    table[column] = cells
    return table


def test_the_first_instance_by_hand():
    first, second = read_instances(labelled(), ITEMS)
    signals = {"similarity": 0.5, "niche": 0.0, "trend": 2.0, "popularity": 7.0, "quality": 3.5, "recency": 0.5}
    others = {"similarity": 0.25, "niche": 1.0, "trend": 0.0, "popularity": 8.0, "quality": 3.25, "recency": 0.25}
    assert first == Instance(
        instance_id=5,
        user_id=1,
        query_time=100,
        history=(
            HistoryItem(10, "Heat (1995)", ("Crime", "Drama"), 4.0),
            HistoryItem(13, "Big (1988)", ("Comedy",), 5.0),
        ),
        candidates=(Candidate(12, "Clue (1985)", (), signals), Candidate(11, "Alien (1979)", ("Horror",), others)),
    )
    assert (second.instance_id, second.history, second.query) == (3, (), "big crime")
    assert first.query == ""
    assert [candidate.item_id for candidate in second.candidates] == [13, 10, 12]


def test_no_label_gets_into_an_instance():
    assert "engagement" not in CANDIDATE_SIGNALS
    assert set(CANDIDATE_SIGNALS) == {"similarity", "niche", "trend", "popularity", "quality", "recency"}
    loud = labelled()
    loud["observed_engagement"] = [[1e9, 1e9], [1e9] * 3]
    assert read_instances(loud, ITEMS) == read_instances(labelled(), ITEMS)
    assert read_instances(loud.drop(columns=["observed_engagement", "split"]), ITEMS) == read_instances(loud, ITEMS)


def test_values_are_plain_python_and_hashable():
    first = read_instances(labelled(), ITEMS)[0]
    assert type(first.instance_id) is type(first.candidates[0].item_id) is int
    assert {type(value) for value in first.candidates[0].signals.values()} == {float}
    assert len({first, read_instances(labelled(), ITEMS)[0]}) == 1


def test_the_same_from_parquet(tmp_path):
    labelled().to_parquet(tmp_path / "labelled.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    tables = pd.read_parquet(tmp_path / "labelled.parquet"), pd.read_parquet(tmp_path / "items.parquet")
    assert isinstance(tables[0]["candidates"].iloc[0], np.ndarray)
    assert read_instances(*tables) == read_instances(labelled(), ITEMS)


def test_no_rows_give_no_instances():
    assert read_instances(labelled().iloc[:0], ITEMS) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed("candidates", 1, [13, 99, 98]), r"instance_id 3, column candidates: item 99 .*2 of 3"),
        (changed("history_items", 0, [10, 77]), "instance_id 5, column history_items: item 77"),
        (changed("candidates", 0, [12, 12]), "instance_id 5, column candidates: 12 occurs more than once"),
        (changed("instance_id", 1, 5), "column instance_id: 5 occurs more than once"),
        (changed("candidates", 0, []), "no candidate"),
        (changed("candidates", 0, [12.0, 11.0]), "integer item ids"),
        (changed("candidates", 0, None), "integer item ids"),
        (changed("trend", 0, [1, 2, 3]), "column trend: 2 numbers are needed, one per item; found 3"),
        (changed("history_engagements", 0, [4.0]), "column history_engagements: 2 numbers"),
        (changed("quality", 1, [1.0, np.nan, 1.0]), "instance_id 3, column quality: every number must be finite"),
        (changed("quality", 1, ["a", "b", "c"]), "a list of numbers"),
        (labelled().drop(columns="trend"), "column trend is missing"),
    ],
)
def test_bad_instances_are_refused_with_their_place(table, message):
    with pytest.raises(InputError, match=message):
        read_instances(table, ITEMS)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (pd.concat([ITEMS, ITEMS.iloc[:1]]), "table items, column item_id: 10 occurs more than once"),
        (ITEMS.drop(columns="title"), "table items: column title is missing"),
        (ITEMS.assign(title=["a", None, "c", "d"]), "item_id 11, column title"),
        (ITEMS.assign(topics=[[], "Crime|Drama", [], []]), "item_id 11, column topics: a list"),
    ],
)
def test_bad_items_are_refused_with_their_place(items, message):
    with pytest.raises(InputError, match=message):
        read_instances(labelled(), items)


def test_a_prediction_is_a_signal_where_the_table_has_one():
    table = labelled().assign(predicted=[[9.0, -1.5], [0, 1, 2]])
    first, second = read_instances(table, ITEMS)
    assert [candidate.signals["predicted"] for candidate in first.candidates] == [9.0, -1.5]
    assert [candidate.signals["predicted"] for candidate in second.candidates] == [0.0, 1.0, 2.0]
    bare = read_instances(labelled(), ITEMS)
    assert "predicted" not in bare[0].candidates[0].signals
    assert set(bare[0].candidates[0].signals) == set(CANDIDATE_SIGNALS)


@pytest.mark.parametrize("cell", [[9.0], [9.0, np.nan], [9.0, np.inf], ["9", "1"], [9.0, 1.0, 2.0], [None, 1.0]])
def test_a_prediction_that_is_none_is_refused(cell):
    with pytest.raises(InputError, match="table labelled_instances, instance_id 5, column predicted: "):
        read_instances(labelled().assign(predicted=[cell, [0.0, 1.0, 2.0]]), ITEMS)
