import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.reporting.examples import ExampleCandidate, RankingExample
from flexrec.reporting.figures import (
    advantage_spread_figure,
    advantage_spread_heatmap,
    critic_calibration_figure,
    example_figure,
    results_figure,
    stack_curves,
    tau_figure,
    training_figure,
    uncertainty_weights_figure,
)

METHODS = ("random", "untrained", "warmed_up", "flexrec", "rec_r1")
HOSTILE = "<a href='https://example.org'>x</a>"


def titles(figure) -> str:
    return figure.layout.title.text.replace("<br>", " ")


def test_results_show_every_mean_and_interval(world):
    figure = results_figure(world.summary, methods=METHODS)
    rows = world.summary[world.summary["metric"] == "ndcg_at_5"].drop_duplicates(["method", "need"])
    drawn = sorted((trace.x[0], trace.error_x.array[0], trace.error_x.arrayminus[0]) for trace in figure.data)
    expected = sorted(zip(rows["mean"], rows["high"] - rows["mean"], rows["mean"] - rows["low"], strict=True))
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-12)
    best = rows[rows["method"] == "flexrec"].set_index("need")["mean"]
    assert f"on interest FlexRec with {best['interest']:.3f}; on trend FlexRec with {best['trend']:.3f}" in titles(
        figure
    )


def test_a_method_has_one_colour_in_all_figures(world):
    results = results_figure(world.summary, methods=METHODS)
    colours = {trace.y[0]: trace.marker.color for trace in results.data}
    taus = {trace.y[0]: trace.marker.color for trace in tau_figure(world.metrics, methods=METHODS).data}
    assert taus == colours
    curves = {
        trace.name.split(",")[0]: trace.line.color for trace in training_figure(world.curves, methods=METHODS).data
    }
    assert curves == {name: colours[name] for name in ("FlexRec", "Rec-R1")}


def test_tau_boxes_are_the_quantiles():
    taus = np.linspace(-1, 1, 41)
    metrics = pd.DataFrame({"method": "random", "need": "trend", "kendall_tau": taus})
    figure = tau_figure(metrics)
    (box,) = figure.data
    drawn = [box.lowerfence[0], box.q1[0], box.median[0], box.q3[0], box.upperfence[0]]
    np.testing.assert_allclose(drawn, [-0.9, -0.5, 0.0, 0.5, 0.9], rtol=0, atol=1e-12)
    assert "random on trend, 0.00" in titles(figure)
    copied = tau_figure(pd.concat([metrics, metrics.assign(method="copier", kendall_tau=1.0)]))
    assert "copier on trend, 1.00" in titles(copied)


def test_curves_are_drawn_as_recorded_and_sorted_by_step():
    curves = stack_curves(
        {
            "flexrec": pd.DataFrame(
                {"step": [2, 1, 0, 2, 1], "metric": ["reward"] * 2 + ["validation/ndcg_at_5"] * 2 + ["unknown"],
                 "value": [0.7, 0.6, 0.5, 0.75, 9.0]}
            )
        }
    )  # fmt: skip
    figure = training_figure(curves)
    assert [(list(trace.x), list(trace.y)) for trace in figure.data] == [([1, 2], [0.6, 0.7]), ([0, 2], [0.5, 0.75])]
    assert [note.text for note in figure.layout.annotations] == ["reward of a rollout (mean)", "validation NDCG@5"]
    assert "FlexRec 0.500 to 0.750 by step 2" in titles(figure)
    only_reward = training_figure(curves[curves["metric"] == "reward"])
    assert "FlexRec 0.600 to 0.700 by step 2" in titles(only_reward)


def test_validation_has_a_line_per_need_where_there_are_several(world):
    def validation_lines(curves: pd.DataFrame) -> set:
        figure = training_figure(curves[curves["metric"].str.startswith("validation")])
        return {(trace.name, trace.line.dash) for trace in figure.data}

    flexrec = world.curves[world.curves["method"] == "flexrec"]
    assert validation_lines(flexrec) == {("FlexRec, interest", "solid"), ("FlexRec, trend", "dash")}
    one_need = flexrec[~flexrec["metric"].str.endswith("/trend")]
    assert validation_lines(one_need) == {("FlexRec", "solid")}


def test_stack_curves_refuses_a_table_without_its_columns():
    with pytest.raises(InputError, match="'m': column value is missing"):
        stack_curves({"m": pd.DataFrame({"step": [1], "metric": ["reward"]})})
    assert list(stack_curves({})) == ["method", "step", "metric", "value"]


SPREAD = pd.DataFrame(
    [
        ("flexrec", step, f"advantage/std_at_rank_{rank:02d}", value)
        for step, values in enumerate([(3.0, 0.3, 0.0), (1.0, 0.1, 0.0)])
        for rank, value in enumerate(values, start=1)
    ],
    columns=["method", "step", "metric", "value"],
)


def test_spread_is_the_mean_over_steps_and_says_the_ratio():
    figure = advantage_spread_figure(SPREAD)
    (line,) = figure.data
    # rank 3 has no spread at all, and no place on a logarithmic axis
    assert (list(line.x), list(line.y)) == ([1, 2], [2.0, 0.2])
    assert "rank 1 has 10 times that of rank 2" in titles(figure)


def test_spread_heatmap_is_logarithmic_and_blank_where_nothing_is():
    (heatmap,) = advantage_spread_heatmap(SPREAD, method="flexrec").data
    assert (list(heatmap.x), list(heatmap.y)) == ([0, 1], [1, 2, 3])
    np.testing.assert_allclose(heatmap.z[:2], np.log10([[3.0, 1.0], [0.3, 0.1]]), rtol=0, atol=1e-12)
    assert np.isnan(heatmap.z[2]).all()
    assert list(heatmap.colorbar.ticktext) == ["0.1", "1"]
    silent = SPREAD.assign(value=0.0)
    assert advantage_spread_heatmap(silent, method="flexrec").data[0].colorbar.ticktext is None
    narrow = SPREAD[SPREAD["metric"].str.endswith("01")].assign(value=[2.0, 3.0])
    assert list(advantage_spread_heatmap(narrow, method="flexrec").data[0].colorbar.ticktext) == ["2", "3"]


def test_weights_show_the_middle_of_the_rollouts():
    names = ("weight/low", "weight/median", "weight/high")
    rows = [
        ("flexrec", step, name, value) for step in (1, 2) for name, value in zip(names, (0.5, 0.9, 2.0), strict=True)
    ]
    rows += [("rec_r1", step, name, 1.0) for step in (1, 2) for name in names]
    figure = uncertainty_weights_figure(pd.DataFrame(rows, columns=["method", "step", "metric", "value"]))
    assert [list(trace.y) for trace in figure.data[:3]] == [[0.5, 0.5], [0.9, 0.9], [2.0, 2.0]]
    assert "FlexRec: 0.50 to 2.00; Rec-R1: all 1" in titles(figure)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["FlexRec", "Rec-R1"]


def test_fine_tuning_has_a_loss_and_no_rewards():
    rows = [("tallrec", step, "loss", value) for step, value in ((1, 0.8), (2, 0.5))]
    rewarded = [("flexrec", 1, "reward", 0.7), ("flexrec", 1, "loss", 0.0)]
    columns = ["method", "step", "metric", "value"]
    curves = pd.DataFrame(rows, columns=columns)
    both = training_figure(pd.DataFrame(rows + rewarded, columns=columns))
    assert [(trace.name, list(trace.y)) for trace in both.data] == [("TALLRec", [0.8, 0.5]), ("FlexRec", [0.7])]
    assert "TALLRec 0.800 to 0.500 by step 2" in titles(training_figure(curves))
    for draw in (advantage_spread_figure, uncertainty_weights_figure):
        (note,) = draw(curves).layout.annotations
        assert note.text.endswith(": TALLRec learned from optimal lists, not from rewards.")
        (note,) = draw(pd.DataFrame(rewarded, columns=columns)).layout.annotations
        assert note.text.endswith(": the training by FlexRec has none.")


def test_calibration_groups_by_prediction(reliability):
    # 20 predictions 1..20 in ten groups of two; the truth is 1 above and below in turn
    mean = np.arange(20, 0, -1.0)
    predictions = pd.DataFrame({"variant": "with_statistics", "mean": mean, "gain": mean + np.tile([1.0, -1.0], 10)})
    figure = critic_calibration_figure(predictions, reliability)
    gains, errors = figure.data[:2]
    np.testing.assert_allclose(gains.x, np.arange(1.5, 21, 2), rtol=0, atol=1e-12)
    np.testing.assert_allclose(gains.y, np.arange(1.5, 21, 2), rtol=0, atol=1e-12)
    # each group holds p + 1 + 1 and p - 1: their deviation is 1.5
    np.testing.assert_allclose(gains.error_y.array, [1.5] * 10, rtol=0, atol=1e-12)
    assert (list(errors.x), list(errors.y)) == ([2.0, 4.0, 6.0], [2.2, 3.9, 6.5])
    # the middle of 1.1, 0.975 and 1.083
    assert "with statistics: group means 0.00 off, errors 1.08 times as large as predicted" in titles(figure)
    single = critic_calibration_figure(predictions[["mean", "gain"]], reliability.loc[:2, ["predicted_std", "rmse"]])
    assert [list(trace.x) for trace in single.data[:2]] == [list(gains.x), list(errors.x)]
    few = critic_calibration_figure(predictions.head(3), reliability)
    assert len(few.data[0].x) == 3


def example(title: str = "A film", orders: dict | None = None) -> RankingExample:
    candidates = tuple(
        ExampleCandidate(item, title, ("Drama",), {"trend": 1.0}, gain) for item, gain in ((1, 5.0), (2, 0.0), (3, 2.0))
    )
    orders = {"untrained": (2, 3, 1), "flexrec": (1, 3, 2)} if orders is None else orders
    return RankingExample("trend", 4, (("Seen", 5.0),), candidates, orders, dict.fromkeys(orders, 0.5))


def test_example_shows_gains_in_ranked_order():
    figure = example_figure(example())
    assert [list(bars.y) for bars in figure.data] == [[0.0, 2.0, 5.0], [5.0, 2.0, 0.0]]
    assert [note.text for note in figure.layout.annotations] == ["untrained: NDCG@5 0.500", "FlexRec: NDCG@5 0.500"]


def test_text_from_data_is_escaped(world):
    hostile_need = world.summary.assign(need=HOSTILE)
    figures = [
        example_figure(example(HOSTILE)),
        results_figure(hostile_need),
        results_figure(world.summary.assign(method=HOSTILE)),
        tau_figure(world.metrics.assign(need=HOSTILE, method=HOSTILE)),
        training_figure(world.curves.assign(method=HOSTILE)),
        advantage_spread_figure(world.curves.assign(method=HOSTILE)),
        advantage_spread_heatmap(world.curves.assign(method=HOSTILE), method=HOSTILE),
        uncertainty_weights_figure(world.curves.assign(method=HOSTILE)),
    ]
    for figure in figures:
        text = figure.to_json()
        assert "example.org" in text
        assert "<a" not in text.replace("\\u003c", "<")


@pytest.mark.parametrize(
    "draw",
    [
        results_figure,
        tau_figure,
        training_figure,
        advantage_spread_figure,
        lambda frame: advantage_spread_heatmap(frame, method="flexrec"),
        uncertainty_weights_figure,
        lambda frame: critic_calibration_figure(frame, frame),
        lambda frame: example_figure(example(orders={})),
    ],
)
def test_nothing_to_draw_is_said_in_a_sentence(draw):
    columns = ["method", "need", "metric", "step", "value", "variant", "mean", "gain", "kendall_tau"]
    figure = draw(pd.DataFrame(columns=columns))
    assert not figure.data
    (note,) = figure.layout.annotations
    assert note.text.startswith("No ")
    assert note.text.endswith(".")


def test_figures_are_deterministic(world):
    for draw in (lambda: results_figure(world.summary), lambda: training_figure(world.curves)):
        assert draw().to_json() == draw().to_json()
