import pytest

from flexrec.study.collection import collect
from made_study import result, tables_of


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


def test_what_other_trainings_could_turn_round_is_not_clear(settings, options, how):
    """Far ahead with two seeds and behind with one: other users would hardly change the mean, other seeds would."""
    found = collect([result("flexrec", seed, quality=quality) for seed, quality in enumerate((0.9, 0.9, 0.6))])
    (table, *_) = tables_of(found, settings, options, how)
    (sentence,) = table.sentences
    assert "No difference between them is clear (+0.099" in sentence
    assert "p < 0.01" in sentence or "p = 0.0" in sentence
    assert "item mean needs no language model: take that." in sentence
