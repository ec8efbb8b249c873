import numpy as np
import pandas as pd
import pytest

from flexrec.reporting.figures.planted import (
    planted_curves_figure,
    planted_showing_figure,
    planted_spread_figure,
    planted_transfer_figure,
    planted_weights_figure,
)

NOTHING = pd.DataFrame(
    columns=["experiment", "setting", "choice", "variant", "rate", "need", "seed", "tokens", "metric", "value",
             "measure", "mean", "difference", "difference_low", "difference_high", "seeds"]
)  # fmt: skip


def title(figure) -> str:
    return figure.layout.title.text.replace("<br>", " ")


def test_learning_curves_are_means_over_seeds():
    rows = [
        ("rewards", choice, variant, 0.01, seed, tokens, "ndcg_at_5", height + 0.1 * seed + tokens / 100)
        for choice in ("own best rate", "common rate")
        for variant, height in (("swap causal, pooled", 0.5), ("swap causal, per rank", 0.6))
        for seed in (0, 1)
        for tokens in (0, 10)
    ]
    columns = ["experiment", "choice", "variant", "rate", "seed", "tokens", "metric", "value"]
    figure = planted_curves_figure(pd.DataFrame(rows, columns=columns), experiment="rewards")
    assert len(figure.data) == 4
    np.testing.assert_allclose(figure.data[0].y, [0.55, 0.65])
    # one reward: one colour; the normalisation shows in the dash
    assert figure.data[0].line.color == figure.data[1].line.color
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert sum(trace.showlegend for trace in figure.data) == 2
    assert "mean of 2 seeds" in title(figure)
    assert "own best rate: swap causal, per rank" in title(figure)


def test_lists_shown_and_rewarded_have_a_panel_per_setting():
    rows = [
        ("showing", setting, "best", variant, seed, step, "ndcg_at_5", seed / 10 + (height if step else 0.9 - height))
        for setting, heights in (("<even>, noise 0.3, 8 requests", (0.5, 0.4)), ("exact, 8 requests", (0.5, 0.6)),
                                 ("exact, 16 requests", (0.6, 0.5)), ("x, 1 requests", (0.6, 0.5)),
                                 ("y, 1 requests", (0.6, 0.5)))
        for variant, height in zip(("swap causal, pooled", "32 lists shown"), heights, strict=True)
        for seed in (0, 1)
        for step in (0, 10)
    ]  # fmt: skip
    columns = ["experiment", "setting", "choice", "variant", "seed", "step", "metric", "value"]
    figure = planted_showing_figure(pd.DataFrame(rows, columns=columns))
    assert len(figure.data) == 10
    np.testing.assert_allclose(figure.data[1].y, [0.55, 0.45])
    assert sum(trace.showlegend for trace in figure.data) == 2
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles[:2] == ["&lt;even&gt;, noise 0.3<br>8 requests", "exact<br>8 requests"]
    assert "Highest at the end, of 5 panels: swap causal, pooled in 4; 32 lists shown in 1." in title(figure)


def test_effects_of_weights():
    rows = [
        ("uncertainty", setting, "", scope, "area ndcg_at_5", 0.5, difference, difference - 0.1, difference + 0.1, 8)
        for setting, differences in (("uneven", (np.nan, 0.2)), ("even", (np.nan, -0.3)))
        for scope, difference in zip(("none", "group"), differences, strict=True)
    ]
    columns = ["experiment", "setting", "choice", "variant", "measure", "mean", "difference", "difference_low",
               "difference_high", "seeds"]  # fmt: skip
    figure = planted_weights_figure(pd.DataFrame(rows, columns=columns))
    (trace,) = figure.data
    assert (list(trace.x), list(trace.y)) == ([0.2, -0.3], ["uneven", "even"])
    np.testing.assert_allclose(trace.error_x.array, 0.1)
    assert "+0.2000 (group; uneven)" in title(figure)
    assert "-0.3000 (group; even)" in title(figure)


def test_the_transfer_matrix():
    rows = [
        ("transfer", variant, need, "final ndcg_at_5", mean, 8)
        for variant, means in (("a", (0.8, 0.4)), ("b", (0.3, 0.9)), ("all needs", (0.7, 0.7)))
        for need, mean in zip(("a", "b"), means, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["experiment", "variant", "need", "measure", "mean", "seeds"])
    # a row per reference
    figure = planted_transfer_figure(pd.concat([table, table]))
    np.testing.assert_allclose(figure.data[0].z, [[0.8, 0.4], [0.3, 0.9], [0.7, 0.7]])
    # (.8 + .9) / 2 and (.4 + .3) / 2
    assert "0.850 on the need trained for, 0.350 on others (means of 8 seeds)" in title(figure)


def test_spreads_over_ranks():
    rows = [
        ("tail", "own best rate", variant, f"{kind}/std_at_rank_{rank:02d}", value)
        for kind in ("reward", "advantage")
        for variant, last in (("swap causal, pooled", 0.1), ("swap causal, per rank", 1.0))
        for rank, value in enumerate((1.0, last, 0.0), start=1)
    ]
    columns = ["experiment", "choice", "variant", "measure", "mean"]
    figure = planted_spread_figure(pd.DataFrame(rows, columns=columns))
    assert len(figure.data) == 4
    # a rank without spread has no place on a logarithmic axis
    assert all(list(trace.x) == [1, 2] for trace in figure.data)
    assert "swap causal, pooled 10; swap causal, per rank 1." in title(figure)


@pytest.mark.parametrize(
    "draw",
    [lambda table: planted_curves_figure(table, experiment="rewards"), planted_weights_figure,
     planted_transfer_figure, planted_spread_figure, planted_showing_figure],
)  # fmt: skip
def test_nothing_to_draw_is_said(draw):
    figure = draw(NOTHING)
    assert not figure.data
    assert figure.layout.annotations[0].text.startswith("No ")
