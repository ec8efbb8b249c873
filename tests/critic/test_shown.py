"""What the critic predicts beside the candidates that it is of."""

import pandas as pd
import pytest

from flexrec.critic.shown import with_predictions
from flexrec.errors import InputError

NAN = float("nan")
INSTANCES = pd.DataFrame(
    {
        "instance_id": [4, 6, 5],
        "candidates": [[20, 30, 40], [10, 20, 30], [10, 20, 30]],
        "quality": [[3.0] * 3] * 3,
        "observed_engagement": [[4.0, NAN, NAN], [NAN] * 3, [NAN] * 3],
    }
)
PREDICTED = pd.DataFrame({"instance_id": [4, 6], "mean": [[9.0, 6.0, 1.0]] * 2, "variance": [[4.0, 5.0, 6.0]] * 2})


def test_predictions_stand_beside_the_candidates_that_they_are_of() -> None:
    # found by the instance's id, in another order here, and whatever numbers the rows have
    predictions = pd.DataFrame(
        {"instance_id": [5, 4, 6], "mean": [[1.0, 2, 3], [9.0, 6, 1], [0.0, -4, 7]], "variance": [[1.0] * 3] * 3}
    )
    instances = INSTANCES.set_axis([7, 7, 3])
    shown = with_predictions(instances, predictions)
    assert [list(row) for row in shown["predicted"]] == [[9, 6, 1], [0, -4, 7], [1, 2, 3]]
    # an observed candidate (item 20 of the first) is predicted like the others
    assert shown["predicted"].iloc[0][0] != INSTANCES["observed_engagement"][0][0]
    pd.testing.assert_frame_equal(shown.drop(columns="predicted"), instances)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (PREDICTED, "instance 5 is missing"),
        (PREDICTED.iloc[:0], "instance 4 is missing"),
        (
            PREDICTED.assign(mean=[[1.0, 2.0], [1.0, 2.0, 3.0]]),
            "instance 4 has 2 values in mean for 3 candidates; predict these instances again",
        ),
    ],
)
def test_a_candidate_without_prediction_is_refused(predictions, message) -> None:
    with pytest.raises(InputError, match=message):
        with_predictions(INSTANCES, predictions)
