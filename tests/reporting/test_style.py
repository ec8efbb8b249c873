import math

import pytest

from flexrec import baselines
from flexrec.reporting.style import BASELINES, STAGES, interval, label, looks, number, ordered, p_value, title

METHODS = (*BASELINES, *STAGES, "flexrec", "rec_r1", "rank_grpo", *"abcdefghijkl")


def luminance(colour: str) -> float:
    """WCAG relative luminance."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#14171c"])
def test_every_colour_stands_out_in_both_themes(paper):
    for name, look in looks(METHODS).items():
        light, dark = sorted((luminance(look.colour), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, (name, look.colour)


def test_a_method_looks_the_same_whatever_else_is_drawn():
    full = looks(METHODS, METHODS)
    assert looks(["rec_r1"], METHODS)["rec_r1"] == full["rec_r1"]
    assert looks(["c", "random"], METHODS)["c"] == full["c"]


def test_methods_differ_by_colour_or_symbol():
    drawn = [(look.colour, look.symbol) for look in looks(METHODS, METHODS).values()]
    assert len(set(drawn)) == len(drawn)


def test_order_is_the_given_one_then_baselines_stages_others():
    assert ordered(["flexrec", "warmed_up", "random", "untrained", "flexrec"]) == [
        "random",
        "untrained",
        "warmed_up",
        "flexrec",
    ]
    assert ordered(["random", "flexrec"], ["flexrec", "random"]) == ["flexrec", "random"]


def test_numbers_and_names():
    assert (number(0.12345), number(math.nan), number(-0.5, 1)) == ("0.123", "-", "-0.5")
    assert interval(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert [p_value(p) for p in (0.0001, 0.001, 0.0499, 1.0, math.nan)] == ["< 0.001", "0.001", "0.050", "1.000", "-"]
    assert [label(name) for name in ("item_mean", "flexrec", "my_own")] == ["item mean", "FlexRec", "my own"]


def test_titles_are_escaped_and_broken_into_lines():
    assert title("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    lines = title("word " * 60).split("<br>")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 100


def test_what_is_no_language_model_is_known_to_tables_and_figures():
    assert tuple(baselines.BASELINES) == BASELINES
