"""What stands for labels that are not observed."""

import logging
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from flexrec.critic.completion import COMPLETIONS, SHORTER, SILENT, count_left_out, training_gains
from flexrec.critic.settings import NeighbourSettings
from flexrec.errors import InputError
from flexrec.ranking.completions import Completion
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import TrainingGains


def need(signal: str) -> Need:
    return Need.model_validate(
        {"instruction": "Rank.", "terms": [{"factors": [{"signal": signal}]}], "relevant": {"rule": "top", "count": 2}}
    )


NEEDS = {"interest": need("engagement"), "trend": need("trend")}
NAN = float("nan")
INSTANCES = pd.DataFrame(
    {
        "instance_id": [4, 6, 5],
        "user_id": [1, 4, 9],
        "split": ["train", "train", "test"],
        "history_items": [[10], [40], []],
        "history_engagements": [[3.0], [2.0], []],
        "candidates": [[20, 30, 40], [10, 20, 30], [10, 20, 30]],
        **{name: [[0.0] * 3] * 3 for name in ("similarity", "niche", "popularity", "quality", "recency")},
        "trend": [[4.0, 0.0, 2.0]] * 3,
        # user 1 observed item 20; of the candidates of user 4 nothing is observed
        "observed_engagement": [[4.0, NAN, NAN], [NAN] * 3, [NAN] * 3],
    }
)
PREDICTED = pd.DataFrame({"instance_id": [4, 6], "mean": [[9.0, 6.0, 1.0]] * 2, "variance": [[4.0, 5.0, 6.0]] * 2})
# as in test_neighbours: there, user 1 is predicted to gain 3.36 (by users) or 24 / 7 (by items) of item 30, and item 40
# has a shrunken mean of 2.6. User 4 has nothing in common with anybody: means of others, who gained 3, 4, 4, 3, 3, 4
# (3.5 on average), remain: (6 + 3.5) / 3 of item 10, (8 + 3.5) / 3 of 20, (7 + 3.5) / 3 of 30
OBSERVED = pd.DataFrame(
    [(1, 10, 3.0), (1, 20, 4.0), (2, 20, 4.0), (2, 30, 3.0), (3, 10, 3.0), (3, 30, 4.0), (4, 40, 2.0)],
    columns=["user_id", "item_id", "engagement"],
).assign(event_id=range(7), timestamp=0, observed=True, split="train")
LONELY = [9.5 / 3, 11.5 / 3, 3.5]
WANTED = {
    "critic": ([4.0, 6.0, 1.0], [0.0, 5.0, 6.0], [9.0, 6.0, 1.0], [4.0, 5.0, 6.0]),
    "observed": ([4.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3, [0.0] * 3),
    "user_knn": ([4.0, 3.36, 2.6], [0.0] * 3, LONELY, [0.0] * 3),
    "item_knn": ([4.0, 24 / 7, 2.6], [0.0] * 3, LONELY, [0.0] * 3),
}


def complete(completion: Completion, **changes: object) -> pd.DataFrame:
    given = {"observations": OBSERVED, "neighbours": NeighbourSettings(shrinkage=0.0, mean_strength=1.0)} | changes
    return training_gains(INSTANCES, PREDICTED, NEEDS, "linear", completion=completion, **given)


def test_every_completion_is_one() -> None:
    assert set(COMPLETIONS) == set(WANTED) == set(get_args(Completion))


@pytest.mark.parametrize("completion", WANTED)
def test_by_hand(completion) -> None:
    table = complete(completion)
    TrainingGains.validate(table)
    interest = table[table["need"] == "interest"]
    assert interest["instance_id"].tolist() == [4, 6]
    made = [*zip(interest["mean"], interest["variance"], strict=True)]
    first, certain, second, uncertain = WANTED[completion]
    for (mean, variance), wanted in zip(made, ((first, certain), (second, uncertain)), strict=True):
        assert mean == pytest.approx(wanted[0])
        assert variance == wanted[1]
    # a need that does not use engagement is untouched
    trend = table[table["need"] == "trend"]
    assert trend["mean"].tolist() == [[4.0, 0.0, 2.0]] * 2
    assert trend["variance"].tolist() == [[0.0] * 3] * 2


def test_lists_that_teach_nothing_are_counted(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="flexrec"):
        complete("critic")
        assert not caplog.messages
        complete("observed")
    assert caplog.messages == [
        "training gains (observed): 1 of 2 training instances have the same gain for every candidate under interest: "
        "they teach nothing"
    ]
    none = {"instances": 2, SILENT: 0, SHORTER: 0}
    assert count_left_out(complete("critic")) == {"interest": none, "trend": none}
    assert count_left_out(complete("observed")) == {"interest": none | {SILENT: 1}, "trend": none}


def test_lists_that_are_shorter_are_counted_once() -> None:
    means = [[1.0, 0.0, 2.0], [1.0, 0.0], [1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]
    gains = pd.DataFrame({"need": ["a", "a", "b", "b"], "mean": means})
    # of three candidates, since the list of four teaches nothing
    assert count_left_out(gains) == {
        "a": {"instances": 2, SILENT: 0, SHORTER: 1},
        "b": {"instances": 2, SILENT: 2, SHORTER: 0},
    }


def test_predictions_are_read_by_the_critic_alone() -> None:
    with pytest.raises(InputError, match="instance 4 is missing"):
        training_gains(INSTANCES, PREDICTED.head(0), NEEDS, "linear")
    for completion in ("observed", "user_knn", "item_knn"):
        made = training_gains(
            INSTANCES, PREDICTED.head(0), NEEDS, "linear", completion=completion, observations=OBSERVED
        )
        assert np.isfinite(np.concatenate(made["mean"].tolist())).all()
    with pytest.raises(InputError, match="neighbours needs the table observations"):
        complete("user_knn", observations=None)
