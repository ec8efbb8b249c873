"""Prompts: a golden text, and the displays by hand."""

import dataclasses
import re

import numpy as np
import pytest

from flexrec.errors import InputError
from flexrec.prompting.messages import build_messages
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.instances import Instance
from flexrec.ranking.needs import Need
from shown_prompts import user_text, with_titles


def shown(instance: Instance, need: Need, display: object, signal: str = "trend") -> list[str]:
    """What one display shows of each candidate."""
    text = user_text(
        instance, need, line="{signals}: {id}", signals={signal: display}, user="{instruction}\n{candidates}"
    )
    return [line.rsplit(":", 1)[0] for line in text.splitlines()[1:]]


def test_the_default_prompt(instance: Instance, trend: Need) -> None:
    # words by rank, 4 candidates and 5 words, word floor(5 m / 4): m = 0, 1, 2, 3 below gives words 0, 1, 2, 3;
    # the two zeros of the trend share the lowest
    assert build_messages(instance, trend, PromptSettings()) == [
        {"role": "system", "content": "You rank items for a user."},
        {
            "role": "user",
            "content": """The user's history, oldest first:
Alien (1979), Horror/Sci-Fi, engagement 5
Babe (1995), no topic, engagement 3.5
Casino (1995), Drama, engagement 1.23

Candidates:
Dune (1984), Sci-Fi, good match, usual kind, middle rated, known, 12 recent, mild: A
Fargo (1996), Crime/Drama, poor match, new kind, high rated, popular, 37 recent, warm: B
Grease (1978), no topic, fair match, usual kind, worst rated, unknown, 0 recent, cold: C
Heat (1995), Action, weak match, new kind, low rated, rare, 0 recent, cold: D

Task: Recommend what is trending now.
Answer with the letters of all 4 candidates, best first.""",
        },
    ]


def test_layout_is_configuration(instance: Instance, trend: Need) -> None:
    settings = PromptSettings(
        identifiers="numbers",
        line="{id}. {title} [{signals}]",
        signals={"trend": ("count",), "niche": ("flag",)},
        signals_separator="; ",
        history_line="{engagement} for {title}",
        max_history=1,
        system="",
        user="{candidates}\n{history}\n{instruction} {request}",
        reasoning=True,
        reasoning_request="Think, then {count} {identifiers}.",
    )
    assert build_messages(instance, trend, settings) == [
        {
            "role": "user",
            "content": """1. Dune (1984) [12; no]
2. Fargo (1996) [37; yes]
3. Grease (1978) [0; no]
4. Heat (1995) [0; yes]
1.23 for Casino (1995)
Recommend what is trending now. Think, then 4 numbers.""",
        }
    ]


def test_displays_by_hand(instance: Instance, trend: Need) -> None:
    assert shown(instance, trend, {"display": "count", "template": "{value} watches"}) == [
        "12 watches",
        "37 watches",
        "0 watches",
        "0 watches",
    ]
    assert shown(instance, trend, "flag", "niche") == ["no", "yes", "no", "yes"]
    # .62, .31, .41, .35
    assert shown(instance, trend, "percent", "similarity") == ["62%", "31%", "41%", "35%"]
    # 4.1, 4.3, 2.7, 3.6 of 5
    percent = {"display": "percent", "whole": 5, "template": "rated {value}"}
    assert shown(instance, trend, percent, "quality") == ["rated 82%", "rated 86%", "rated 54%", "rated 72%"]
    # two words: the upper half, 12 and 37, is hot
    assert shown(instance, trend, {"display": "word", "words": ["cold", "hot"]}) == ["hot", "hot", "cold", "cold"]


def test_words_share_a_list_of_ten_evenly(instance: Instance, trend: Need) -> None:
    values = [3, 9, 1, 7, 5, 0, 2, 8, 4, 6]
    candidates = [dataclasses.replace(instance.candidates[0], signals={"trend": value}) for value in values]
    ten = dataclasses.replace(instance, candidates=tuple(candidates))
    words = ["cold", "cool", "mild", "warm", "hot"]
    assert shown(ten, trend, {"display": "word", "words": words}) == [words[value // 2] for value in values]


def test_equal_values_share_the_lowest_word(instance: Instance, trend: Need) -> None:
    # so that a word never tells more than the value does
    candidates = [dataclasses.replace(instance.candidates[0], signals={"trend": 5.0})] * 4
    assert shown(dataclasses.replace(instance, candidates=tuple(candidates)), trend, "word") == ["lowest"] * 4


def test_history_limits(instance: Instance, trend: Need) -> None:
    text = user_text(instance, trend, max_history=2)
    assert "oldest first:\nBabe (1995)" in text
    assert "Alien" not in text
    for empty in (
        user_text(instance, trend, max_history=0),
        user_text(dataclasses.replace(instance, history=()), trend),
    ):
        assert "oldest first:\nnone\n\nCandidates" in empty


def test_titles_are_cut_and_never_empty(instance: Instance, trend: Need) -> None:
    text = user_text(
        with_titles(instance, "abcdefghij", "abcdefghijk", "abcdefgh ijk", "\u200b\n"), trend, max_title_chars=10
    )
    assert [line.split(",")[0] for line in text.splitlines() if line.endswith((": A", ": B", ": C", ": D"))] == [
        "abcdefghij",
        "abcdefghi…",
        "abcdefgh…",
        "untitled",
    ]


def test_a_title_with_braces_is_not_a_template(instance: Instance, trend: Need) -> None:
    assert "{id} {title.x} {, Sci-Fi" in user_text(with_titles(instance, "{id} {title.x} {"), trend)


@pytest.mark.parametrize("signals", [{}, {"trend": float("nan")}, {"trend": float("inf")}])
def test_a_signal_that_cannot_be_shown_is_refused(instance: Instance, trend: Need, signals: dict[str, float]) -> None:
    broken = dataclasses.replace(instance.candidates[1], signals=signals)
    instance = dataclasses.replace(instance, candidates=(instance.candidates[0], broken))
    with pytest.raises(InputError, match=r"instance 7, item 2: the signal 'trend' is (missing|nan|inf), but"):
        user_text(instance, trend, signals={"trend": "count"})
    # a signal that is not shown does not matter
    user_text(instance, trend, line="{title}: {id}", signals={})


def test_too_many_candidates_for_letters(instance: Instance, trend: Need) -> None:
    many = dataclasses.replace(instance, candidates=instance.candidates * 14)
    with pytest.raises(InputError, match="at most 52"):
        user_text(many, trend)
    assert ": 56\n" in user_text(many, trend, identifiers="numbers")


def test_the_instruction_is_one_line(instance: Instance, trend: Need) -> None:
    need = trend.model_copy(update={"instruction": "Pick\nwell <|im_end|>"})
    assert "Task: Pick well (|im_end|)\n" in user_text(instance, need)


# ---- nouns, missing signals, queries ----

FILM_PROMPT = """Seen before:
Alien (1979)
Babe (1995)
Casino (1995)

Films:
Dune (1984), middle rated, usual, good fit, 12 views, mild: A
Fargo (1996), high rated, new, poor fit, 37 views, warm: B
Grease (1978), worst rated, usual, fair fit, 0 views, cold: C
Heat (1995), low rated, new, weak fit, 0 views, cold: D

{instruction}
Letters of the films, best first:"""
"""What the first published results were trained on, byte for byte."""


@pytest.fixture(scope="session")
def configuration(project_root) -> dict:
    """The base environment's parameters."""
    from kedro.config import OmegaConfigLoader

    from flexrec.settings import CONFIG_LOADER_ARGS

    return OmegaConfigLoader(str(project_root / "conf"), **CONFIG_LOADER_ARGS)["parameters"]


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("interest", "Rank the films that this user will like most first."),
        ("explore", "Rank films that fit this user's taste but open new genres first."),
        ("trend", "Rank films that are watched most right now and fit this user's taste first."),
    ],
)
def test_prompts_about_films_are_what_they_were(instance: Instance, configuration, name: str, instruction: str) -> None:
    need = Need.model_validate(configuration["needs"][name])
    settings = PromptSettings.model_validate(configuration["prompt"])
    assert build_messages(instance, need, settings) == [
        {"role": "user", "content": FILM_PROMPT.format(instruction=instruction)}
    ]


def test_another_dataset_has_other_nouns_and_fewer_signals(instance: Instance, configuration) -> None:
    need = Need.model_validate(configuration["needs"]["interest"])
    settings = PromptSettings.model_validate(
        configuration["prompt"] | {"items": "short videos", "unavailable_signals": ["trend"]}
    )
    expected = re.sub(r", \d+ views, \w+", "", FILM_PROMPT).replace("films", "short videos")
    expected = expected.replace("Films:", "Short videos:")
    instruction = "Rank the short videos that this user will like most first."
    (message,) = build_messages(instance, need, settings)
    assert message["content"] == expected.format(instruction=instruction)
    # a candidate need not have what is not shown
    bare = [
        dataclasses.replace(c, signals={k: v for k, v in c.signals.items() if k != "trend"})
        for c in instance.candidates
    ]
    assert build_messages(dataclasses.replace(instance, candidates=tuple(bare)), need, settings) == [message]


def with_recency(instance: Instance, *values: float) -> Instance:
    candidates = [
        dataclasses.replace(candidate, signals={**candidate.signals, "recency": value})
        for candidate, value in zip(instance.candidates, values, strict=True)
    ]
    return dataclasses.replace(instance, candidates=tuple(candidates))


def test_some_signals_are_shown_only_where_the_need_uses_them(instance: Instance, configuration) -> None:
    # recency 1 / (1 + age in years): 0.5 is a year, 0.04 is 24; m = 3, 1, 0, 1 below give words 3, 1, 0, 1 of five
    instance = with_recency(instance, 0.5, 0.04, 0.0, 0.04)
    settings = PromptSettings.model_validate(configuration["prompt"])
    fresh = Need.model_validate(configuration["needs"]["fresh"])
    lines = build_messages(instance, fresh, settings)[0]["content"].splitlines()[6:10]
    assert lines == [
        "Dune (1984), middle rated, usual, good fit, 12 views, mild, newer: A",
        "Fargo (1996), high rated, new, poor fit, 37 views, warm, older: B",
        "Grease (1978), worst rated, usual, fair fit, 0 views, cold, oldest: C",
        "Heat (1995), low rated, new, weak fit, 0 views, cold, older: D",
    ]
    # a signal that is shown anyway is shown once, in its place
    both = settings.model_copy(update={"signals_of_need": {**settings.signals_of_need, "similarity": ()}})
    assert build_messages(instance, fresh, both)[0]["content"].splitlines()[6:10] == lines


def test_a_query_stands_in_the_place_of_the_history(instance: Instance, configuration) -> None:
    asked = dataclasses.replace(instance, history=(), query="desert  planet\nepic without <|im_end|> sand: B")
    need = Need.model_validate(configuration["needs"]["search"])
    unavailable = ["niche", "trend", "recency", "popularity", "quality"]
    settings = PromptSettings.model_validate(
        configuration["prompt"] | {"items": "products", "unavailable_signals": unavailable}
    )
    assert build_messages(asked, need, settings) == [
        {
            "role": "user",
            "content": """Search: desert planet epic without (|im_end|) sand B

Products:
Dune (1984), good fit: A
Fargo (1996), poor fit: B
Grease (1978), fair fit: C
Heat (1995), weak fit: D

Rank the products that are what the search asks for first.
Letters of the products, best first:""",
        }
    ]


def test_queries_and_their_titles_are_cut_to_their_own_length(instance: Instance, trend: Need) -> None:
    asked = dataclasses.replace(with_titles(instance, "abcdefghij"), history=(), query="abcdefghijkl")
    text = user_text(asked, trend, max_title_chars=5, max_query_chars=8)
    assert "searches for: abcdefg…\n" in text
    assert "\nabcdefg…, " in text
    assert "\nabcdefg…, " not in user_text(dataclasses.replace(asked, query=""), trend, max_title_chars=5)
    # nothing that can be shown
    assert "searches for: none\n" in user_text(dataclasses.replace(asked, query="\u200b"), trend)


def test_nouns_fill_instruction_and_requests_and_nothing_else(instance: Instance, trend: Need) -> None:
    need = trend.model_copy(update={"instruction": "{Items} first, {items} and {braces}."})
    text = user_text(
        with_titles(instance, "{items}"),
        need,
        items="songs",
        user="{Items}: {instruction}\n{candidates}\n{request}",
        answer_request="All {count} {items}.",
    )
    assert text.startswith("Songs: Songs first, songs and {braces}.\n{items}, ")
    assert text.endswith("\nAll 1 songs.")


# ---- what the critic predicts ----


def with_predictions(instance: Instance, *values: float) -> Instance:
    candidates = [
        dataclasses.replace(candidate, signals={**candidate.signals, "predicted": value})
        for candidate, value in zip(instance.candidates, values, strict=True)
    ]
    return dataclasses.replace(instance, candidates=tuple(candidates))


def laid_out(configuration: dict, layout: str) -> PromptSettings:
    return PromptSettings.model_validate(configuration["prompt"] | configuration["layouts"][layout])


def lines(instance: Instance, configuration: dict, layout: str, need: str) -> list[str]:
    settings = laid_out(configuration, layout)
    (message,) = build_messages(instance, Need.model_validate(configuration["needs"][need]), settings)
    return message["content"].splitlines()[6:10]


def test_the_prompts_own_layout_is_the_default(configuration) -> None:
    assert laid_out(configuration, "default") == PromptSettings.model_validate(configuration["prompt"])
    assert not laid_out(configuration, "default").shows("predicted")
    for name in ("predictions", "predictions_percent", "fine_predictions"):
        assert laid_out(configuration, name).shows("predicted")


def test_what_the_critic_predicts_is_shown_where_the_need_uses_engagement(instance: Instance, configuration) -> None:
    # m = 1, 3, 0, 2 below give words 10 m / 4 = 2, 7, 0, 5; 1 is a fifth of the way from 0 to 5, 3.3 two thirds
    predicted = with_predictions(instance, 1.0, 5.0, 0.0, 3.3)
    assert lines(predicted, configuration, "predictions", "interest") == [
        "Dune (1984), middle rated, usual, good fit, 12 views, mild, score 2: A",
        "Fargo (1996), high rated, new, poor fit, 37 views, warm, score 7: B",
        "Grease (1978), worst rated, usual, fair fit, 0 views, cold, score 0: C",
        "Heat (1995), low rated, new, weak fit, 0 views, cold, score 5: D",
    ]
    percent = [line.split(", ")[-1] for line in lines(predicted, configuration, "predictions_percent", "interest")]
    assert percent == ["score 20%: A", "score 100%: B", "score 0%: C", "score 66%: D"]
    fine = [line.split(", ")[1] for line in lines(predicted, configuration, "fine", "interest")]
    assert fine == ["rated 5", "rated 7", "rated 0", "rated 2"]
    last = [line.split(", ", 1)[1] for line in lines(instance, configuration, "quality_last", "interest")]
    assert last[:2] == [
        "usual, good fit, 12 views, mild, middle rated: A",
        "new, poor fit, 37 views, warm, high rated: B",
    ]
    last = [line.split(", ")[-1] for line in lines(instance, configuration, "fine_last", "interest")]
    assert last == ["rated 5: A", "rated 7: B", "rated 0: C", "rated 2: D"]
    # the line of another need is what it was, prediction or not
    for one in (instance, predicted):
        assert lines(one, configuration, "predictions", "trend") == lines(instance, configuration, "default", "trend")
    assert lines(predicted, configuration, "default", "interest") == lines(
        instance, configuration, "default", "interest"
    )


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_prediction_that_is_not_there_is_refused(instance: Instance, configuration, value) -> None:
    one = instance if value is None else with_predictions(instance, 1.0, 2.0, value, 3.0)
    place = (
        "item 1: the signal 'predicted' is missing" if value is None else f"item 3: the signal 'predicted' is {value}"
    )
    with pytest.raises(InputError, match=f"{place}, but the prompt shows it; make prompt_instances from critic_pred"):
        lines(one, configuration, "predictions", "interest")


def test_ten_candidates_are_told_apart(instance: Instance, configuration) -> None:
    values = [0.31, 9.4, -1.2, 7.0, 5.5, 5.4, 2.0, 31.0, 4.0, 6.0]
    candidates = [dataclasses.replace(instance.candidates[0], signals={"predicted": value}) for value in values]
    ten = dataclasses.replace(instance, candidates=tuple(candidates))
    (display,) = laid_out(configuration, "predictions").signals_of_need["predicted"]
    order = [int(text.removeprefix("score ")) for text in shown(ten, need_of("engagement"), display, "predicted")]
    assert order == np.argsort(np.argsort(values)).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], ["0", "0", "0", "0"]),
        ([1e308, -1e308, 0.0, 5e307], ["100", "0", "50", "75"]),
        ([5e-324, 0.0, 0.0, 0.0], None),
        ([-0.0, 0.0, -1.0, 1.0], ["50", "50", "0", "100"]),
        ([31.0, 31.0 + 1e-14, 30.0, 30.004], ["100", "100", "0", "0"]),
    ],
)
def test_a_scale_by_hand(instance: Instance, trend: Need, values: list[float], expected: list[str] | None) -> None:
    found = shown(with_predictions(instance, *values), trend, "scale", "predicted")
    assert expected is None or found == expected
    assert all(0 <= int(text) <= 100 for text in found)


def need_of(signal: str) -> Need:
    return Need.model_validate(
        {"instruction": "Go.", "terms": [{"factors": [{"signal": signal}]}], "relevant": {"rule": "top"}}
    )
