import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.evaluation.gallery import gallery
from flexrec.prompting import PromptSettings
from flexrec.ranking.needs import Need

NEEDS = {
    name: Need.model_validate(
        {"instruction": text, "terms": [{"factors": [{"signal": "trend"}]}], "relevant": {"rule": "top"}}
    )
    for name, text in {"trend": "Rank trending {items} first.", "calm": "<b>Calm</b> ones first."}.items()
}
LAYOUT = PromptSettings(items="songs", line="{title}: {id}", signals={}, system="You rank.")
SIGNALS = ("similarity", "niche", "trend", "popularity", "quality", "recency")


def labelled(count: int = 7, query: str = "") -> pd.DataFrame:
    rows = [
        {
            "instance_id": 100 + number,
            "user_id": number,
            "query_time": 1000,
            "query": query,
            "history_items": [] if query else [4, 5],
            "history_engagements": [] if query else [3.0, 4.0],
            "candidates": [1, 2, 3],
            **{name: [0.0, 1.0, 2.0] for name in SIGNALS},
        }
        for number in range(count)
    ]
    return pd.DataFrame(rows)


ITEMS = pd.DataFrame({"item_id": range(1, 6), "title": ["one", "two", "three", "old", "new"], "topics": [[]] * 5})


def answers(count: int = 7, arrangement: str = "shown") -> pd.DataFrame:
    rows = [
        (method, need, 100 + number, [3, 1, 2], arrangement, f"{method} {need} {number}")
        for method in ("untrained", "flexrec")
        for need in NEEDS
        for number in range(count)
    ]
    return pd.DataFrame(rows, columns=["method", "need", "instance_id", "ranking", "arrangement", "text"])


def gains(count: int = 7) -> pd.DataFrame:
    rows = [
        (100 + number, need, values)
        for number in range(count)
        for need, values in (("trend", [0.0, 2.0, 4.0]), ("calm", [3.0, 0.0, 0.0]))
    ]
    return pd.DataFrame(rows, columns=["instance_id", "need", "gains"])


def test_the_same_instances_under_every_need() -> None:
    table = gallery(answers(), labelled(), ITEMS, gains(), NEEDS, LAYOUT, count=3)
    # even steps over seven rows: the first, the middle, the last
    assert table["instance_id"].tolist() == [100] * 4 + [103] * 4 + [106] * 4
    assert table["need"].tolist()[:4] == ["trend", "trend", "calm", "calm"]
    assert table["method"].tolist()[:2] == ["untrained", "flexrec"]
    assert table["text"].tolist()[:4] == ["untrained trend 0", "flexrec trend 0", "untrained calm 0", "flexrec calm 0"]
    row = table.iloc[0]
    assert row["titles"] == ["three", "one", "two"]
    assert row["history"] == ["new", "old"]
    # gains 4, 0, 2 in ranked order: (4 + 2 / log2(4)) / (4 + 2 / log2(3))
    assert row["gains"] == [4.0, 0.0, 2.0]
    assert row["ndcg_at_5"] == pytest.approx((4 + 2 / 2) / (4 + 2 / np.log2(3)))
    # calm: 3 at the second place: (3 / log2(3)) / 3
    assert table.iloc[2]["ndcg_at_5"] == pytest.approx(1 / np.log2(3))


def test_the_instruction_is_that_of_the_prompt() -> None:
    table = gallery(answers(), labelled(), ITEMS, gains(), NEEDS, LAYOUT, count=1)
    shown = dict(zip(table["need"], table["instruction"], strict=True))
    assert shown == {"trend": "Rank trending songs first.", "calm": "(b)Calm(/b) ones first."}


def test_a_query_stands_for_a_history() -> None:
    table = gallery(answers(), labelled(query="red shoes"), ITEMS, gains(), NEEDS, LAYOUT, count=1)
    assert table.iloc[0]["history"] == ["red shoes"]
    assert table.iloc[0]["instruction"] == "Rank trending songs first."


def test_nothing_to_show() -> None:
    for table in (
        gallery(answers(), labelled(), ITEMS, gains(), NEEDS, LAYOUT, count=0),
        gallery(answers(arrangement="ideal"), labelled(), ITEMS, gains(), NEEDS, LAYOUT, count=2),
    ):
        assert table.empty
        assert "titles" in table
    # fewer instances than asked for: all of them
    few = gallery(answers(2), labelled(2), ITEMS, gains(2), NEEDS, LAYOUT, count=9)
    assert few["instance_id"].nunique() == 2


def test_gains_that_are_missing_are_named() -> None:
    lacking = gains().query("need != 'calm'")
    with pytest.raises(InputError, match="gains: instance 100 has none for the need 'calm'"):
        gallery(answers(), labelled(), ITEMS, lacking, NEEDS, LAYOUT, count=1)
