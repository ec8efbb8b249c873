import dataclasses

import pandas as pd
import pytest

from flexrec.reporting.figures.study import forest_figure
from flexrec.study.collection import collect, with_own_warm_up
from flexrec.study.statistics import comparisons, row_means
from flexrec.study.tables import study_tables
from made_study import curves_of, result, tables_of


def test_what_was_not_run_is_named_and_never_filled(tables):
    notes = " ".join(tables["6"].notes)
    assert "Not in this study: ppo." in notes
    assert "Failed: Rec-R1 + critic on interest, seed 1 (the row is of the other seeds): out of memory" in notes
    assert "ppo" not in {row[0].text for row in tables["6"].rows}
    assert tables["6"].cross[0] == ("", "GRPO", "PPO")
    assert tables["6"].cross[1][0] == "swap"
    own = tables["6"].numbers.set_index("method").loc["flexrec"]
    assert tables["6"].cross[1][1].startswith(f"{own['ndcg_at_5']:.3f} [")
    assert tables["6"].cross[1][2] == "not run"


def test_the_notes_say_what_an_interval_covers(tables):
    notes = " ".join(tables["1"].notes)
    assert "48 test instances of 12 users over 2 seeds (0, 1)." in notes
    assert "over seeds and, within a seed, over users" in notes
    assert "Rows of one seed have intervals over instances (users) only" in notes
    assert "over the 9 tests of this table" in notes


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (0.8, "The LLM is ahead (+0."),
        (0.6, "The LLM is behind (-0."),
        (0.7, "No difference between them is clear ("),
    ],
)
def test_who_wins_without_an_llm_is_said(settings, options, how, quality, words):
    found = collect([result("flexrec", seed, quality=quality) for seed in (0, 1, 2)])
    (sentence,) = tables_of(found, settings, options, how)[0].sentences
    assert sentence.startswith("Without an LLM the best row is item mean with NDCG@5 0.")
    assert words in sentence
    assert ("take" in sentence) == (quality < 0.75)


def test_the_best_is_the_best_of_those_with_all_seeds(settings, options, how):
    """The second method is ahead with the one seed that it has, on which the first is better still."""
    found = collect(
        [
            result("flexrec", 0, quality=0.8),
            result("flexrec", 1, quality=0.5),
            result("rec_r1_critic", 0, quality=0.75),
            result("rec_r1_critic", 1, state="failed", reason="out of memory", metrics=(), curves=None, seconds={}),
        ]
    )
    table = tables_of(found, settings, options, how)[0]
    (sentence,) = table.sentences
    assert "with one it is FlexRec with 0.6" in sentence
    assert "The LLM is behind (-0.0" in sentence or "No difference between them is clear (-0.0" in sentence
    rows = {row[0].text: row for row in table.rows}
    assert not any(cell.best for cell in rows["Rec-R1 + critic"])
    assert rows["item mean"][1].best
    title = forest_figure(row_means(found.instances, ["ndcg_at_5"], how)).layout.title.text
    assert "Highest mean: on interest item mean" in title


def test_a_comparison_over_fewer_seeds_says_so(settings, options, how):
    seeds = [result("flexrec", seed, quality=0.8) for seed in (0, 1)]
    found = collect(seeds)
    alone = found.instances[(found.instances["method"] != "item_mean") | (found.instances["seed"] == 0)]
    collected = dataclasses.replace(found, instances=alone[alone["method"] != "random"])
    (sentence,) = tables_of(collected, settings, options, how)[0].sentences
    assert "with 1 seed that both have" in sentence


def test_a_warm_up_of_ones_own_is_said(settings, options, how):
    """Of four updates the first two made up for the warm-up, and are not counted."""
    updates = pd.DataFrame({"step": [1, 2, 3, 4], "metric": "cost/updates", "value": [0.0, 0.0, 1.0, 2.0]})
    own = pd.concat([curves_of(), updates])
    found = collect([result("flexrec", 0), result("tallrec", 0, quality=0.6, curves=own)])
    assert with_own_warm_up(found.curves) == {"tallrec"}
    means = row_means(found.instances, options.metrics, how)
    compared = comparisons(found.instances, settings.references, options.primary, how)
    (table, *_) = study_tables(
        found.cells, found.instances, means, compared, settings, options, how, own_warm_up={"tallrec"}
    )
    assert "Training seconds of TALLRec include its own warm-up; tokens do not." in table.notes
    assert not any("include its own warm-up" in note for note in tables_of(found, settings, options, how)[0].notes)


def test_what_other_trainings_could_turn_round_is_not_clear(settings, options, how):
    """Far ahead with two seeds and behind with one: other users would hardly change the mean, other seeds would."""
    found = collect([result("flexrec", seed, quality=quality) for seed, quality in enumerate((0.9, 0.9, 0.6))])
    (table, *_) = tables_of(found, settings, options, how)
    (sentence,) = table.sentences
    assert "No difference between them is clear (+0.099" in sentence
    assert "p < 0.01" in sentence or "p = 0.0" in sentence
    assert "item mean needs no language model: take that." in sentence
