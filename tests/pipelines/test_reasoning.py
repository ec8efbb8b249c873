"""The whole graph where an answer begins with reasoning, trained by reinforcement learning and by fine-tuning."""

import numpy as np
import pytest

REASONING = {"prompt": {"reasoning": True}, "decoding": {"max_reasoning_tokens": 8}}


@pytest.fixture(scope="module")
def project(whole, tmp_path_factory):
    return whole.project.copy(tmp_path_factory.mktemp("reasoning") / "project")


@pytest.mark.parametrize("method", ["flexrec", "tallrec"])
def test_a_run_with_reasoning(project, method) -> None:
    asked = {"method": method, **REASONING}
    run = project.run(asked)
    assert {"train_rl", "rank_trained", "write_report"} <= run.ran
    assert {"fit_critic", "label_candidates", "complete_gains"} <= run.reused

    loss = project.load("warm_up_curve", asked).set_index("step")["value"]
    # of a random model: six tokens of an empty reasoning, any of the vocabulary, and the order of six candidates
    assert loss[1] == pytest.approx((6 * np.log(49152) + np.log(720)) / 12, rel=0.1)
    curves = project.load("rl_curves", asked)
    assert np.isfinite(curves["value"]).all()
    tokens = curves[curves["metric"] == "cost/answer_tokens"].set_index("step")["value"]
    if method == "tallrec":
        # the empty reasoning, the list, and three tokens of each of the tags around it
        assert (tokens % (6 + 6 + 2 * 3) == 0).all()
    else:
        # of 3 steps with 2 prompts and 3 rollouts: reasoning up to its budget, its end, and the list between its tags
        assert tokens[3] <= 18 * (8 + 3 + 6 + 2 * 3)
    rankings = project.load("rankings", asked)
    by_model = rankings[rankings["method"].isin(["untrained", "warmed_up", method])]
    assert set(by_model["method"]) == {"untrained", "warmed_up", method}
    assert (by_model[["invalid", "repeated", "missing"]].to_numpy() == 0).all()
