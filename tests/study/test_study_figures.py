import numpy as np
import pandas as pd

from flexrec.pipelines.study.nodes import draw_study
from flexrec.reporting.figures import advantage_spread_figure, uncertainty_weights_figure
from flexrec.reporting.figures.study import forest_figure, learning_figure, mean_curves
from flexrec.study.collection import collect
from flexrec.study.statistics import row_means
from made_study import curves_of, result


def test_every_row_is_drawn_with_its_interval(collected, how):
    means = row_means(collected.instances, ["ndcg_at_5"], how)
    figure = forest_figure(means, methods=["flexrec", "rec_r1_critic"])
    drawn = {trace.y[0]: trace for trace in figure.data}
    assert list(figure.layout.yaxis.categoryarray) == [
        "random", "item mean", "untrained", "warmed-up", "FlexRec", "Rec-R1 + critic",
    ]  # fmt: skip
    row = means[(means["method"] == "flexrec") & (means["metric"] == "ndcg_at_5")].iloc[0]
    assert drawn["FlexRec"].x[0] == row["mean"]
    assert drawn["FlexRec"].error_x.array[0] == row["high"] - row["mean"]
    assert "2 seeds" in drawn["FlexRec"].hovertemplate


def test_a_row_has_the_name_that_it_has_in_the_tables(how):
    found = collect([result("flexrec", 0), result("rec_r1_critic", 0, gains="observed")])
    figure = forest_figure(row_means(found.instances, ["ndcg_at_5"], how), methods=["flexrec", "rec_r1_critic"])
    labels = list(figure.layout.yaxis.categoryarray)
    assert labels[2:] == ["untrained", "warmed-up", "warmed-up, observed", "FlexRec", "Rec-R1 + critic"]


def test_learning_is_drawn_by_steps_and_by_tokens(collected):
    for by, last in (("steps", 4.0), ("tokens", 4040.0)):
        figure = learning_figure(collected.curves, by=by)
        thick = [trace for trace in figure.data if trace.name]
        assert [trace.name for trace in thick] == ["FlexRec", "Rec-R1 + critic"]
        assert thick[0].x[-1] == last
        assert thick[0].y[-1] == 0.9
        # the two seeds of one of them
        assert len(figure.data) == 2 + 2


def test_learning_is_drawn_from_the_end_of_the_warm_up():
    """Of four updates the first two made up for the warm-up, and are not counted."""
    updates = pd.DataFrame({"step": [1, 2, 3, 4], "metric": "cost/updates", "value": [0.0, 0.0, 1.0, 2.0]})
    tokens = pd.DataFrame({"step": [1, 2, 3, 4], "metric": "cost/prompt_tokens", "value": [0.0, 0.0, 70.0, 140.0]})
    own = pd.concat([curves_of(tokens=False), tokens, updates])
    collected = collect([result("flexrec", 0), result("tallrec", 0, quality=0.6, curves=own)])
    drawn = {
        by: {trace.name: trace for trace in learning_figure(collected.curves, by=by).data} for by in ("steps", "tokens")
    }
    assert list(drawn["steps"]["FlexRec"].x) == [1, 2, 3, 4]
    assert list(drawn["steps"]["TALLRec"].x) == [-1, 0, 1, 2]
    assert list(drawn["tokens"]["TALLRec"].x) == [0, 70, 140]
    assert list(drawn["tokens"]["TALLRec"].y) == [0.7, 0.8, 0.9]


def test_of_several_tasks_the_best_of_each_is_named():
    found = collect([result("flexrec", 0), result("rec_r1_critic", 0), result("flexrec", 0, need="trend")])
    title = " ".join(learning_figure(found.curves).layout.title.text.replace("<br>", " ").split())
    assert "At the end: on interest Rec-R1 + critic 0.900; on trend FlexRec 0.900." in title


def test_a_training_that_counted_no_tokens_is_left_out_of_their_figure():
    found = collect([result("flexrec", 0), result("rec_r1_critic", 0, curves=curves_of(tokens=False))])
    names = [trace.name for trace in learning_figure(found.curves, by="tokens").data]
    assert names == ["FlexRec"]
    none = learning_figure(collect([result("flexrec", 0, curves=None)]).curves, by="tokens")
    assert "No learning curves by tokens" in none.layout.annotations[0].text


def test_curves_are_averaged_over_seeds():
    curves = pd.concat([curves_of(steps=1), curves_of(steps=1).assign(value=lambda table: table["value"] + 2.0)])
    parts = [result("flexrec", seed, curves=curves.iloc[seed * 5 : seed * 5 + 5]) for seed in (0, 1)]
    means = mean_curves(collect(parts).curves, ["advantage/", "weight/"])
    # 1 of the first seed, 3 of the second
    assert means["value"].tolist() == [2.0, 2.0]
    assert means["method"].unique().tolist() == ["flexrec"]
    assert len(advantage_spread_figure(means).data) == 1


def test_a_method_trained_for_two_tasks_has_two_names():
    found = collect([result("flexrec", 0), result("flexrec", 0, need="trend")])
    means = mean_curves(found.curves, ["advantage/"])
    assert means["method"].unique().tolist() == ["FlexRec, interest", "FlexRec, trend"]


def test_a_study_without_rewards_says_why_it_has_no_advantages(options):
    curves = pd.DataFrame({"step": [1, 2], "metric": "loss", "value": [1.5, 1.4]})
    found = collect([result("sft", 0, quality=0.6, curves=curves)])
    figures = draw_study(row_means_of_nothing(), found.curves, pd.DataFrame(), pd.DataFrame(), options)
    for figure in figures[-2:]:
        assert "learned from optimal lists, not from rewards" in figure.layout.annotations[0].text


def test_nothing_gives_figures_that_say_so():
    nothing = collect([])
    assert forest_figure(row_means_of_nothing()).data == ()
    assert learning_figure(nothing.curves).data == ()
    assert uncertainty_weights_figure(mean_curves(nothing.curves, ["weight/"])).data == ()
    assert np.array_equal(nothing.cells.index, [])


def row_means_of_nothing() -> pd.DataFrame:
    columns = ["dataset", "density", "model", "need", "sample", "trained_on", "method", "kind", "metric", "mean"]
    return pd.DataFrame(columns=columns)
