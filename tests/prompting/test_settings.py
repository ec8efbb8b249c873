"""Prompt settings: shorthands, and every refusal says what is allowed."""

import pytest
from pydantic import ValidationError

from flexrec.prompting.settings import CountDisplay, PercentDisplay, PromptSettings, WordDisplay


def test_shorthands_of_a_configuration_file() -> None:
    settings = PromptSettings.model_validate(
        {"signals": {"trend": ["count", {"display": "word", "words": ["cold", "hot"]}], "quality": "percent"}}
    )
    assert list(settings.signals) == ["trend", "quality"]
    assert settings.signals["trend"] == (CountDisplay(), WordDisplay(words=("cold", "hot")))
    assert settings.signals["quality"] == (PercentDisplay(),)
    # what a run records can be read back
    assert PromptSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"line": "{title}, {signals}"}, "{id} must be in it"),
        ({"line": "{id} {signals}: {id}"}, "{id} must be in it once"),
        ({"line": "{{id}} {signals}: {id} {id}"}, "{id} must be in it once"),
        ({"line": "{title}\n{signals}: {id}"}, "must be one line"),
        ({"line": "{title.__class__} {signals}: {id}"}, "unknown field {title.__class__}; use {title}, {topics}"),
        ({"line": "{engagement} {signals}: {id}"}, "unknown field {engagement}"),
        ({"line": "{title}: {id}"}, "would never be shown"),
        ({"signals": {}}, "but signals names none"),
        ({"history_line": "{title} {id}"}, "unknown field {id}; use {title}, {topics}, {engagement}"),
        ({"history_line": "{title}\n"}, "must be one line"),
        ({"user": "{candidates}"}, "{instruction} must be in it"),
        ({"user": "{instruction} {candidates} {query}"}, "unknown field {query}"),
        ({"user_query": "{instruction} {candidates}"}, "{query} must be in it"),
        ({"user_query": "{instruction} {candidates} {query} {history}"}, "unknown field {history}"),
        ({"items": "films\nmore"}, "must be one line"),
        ({"items": ""}, "at least 1"),
        ({"signals_of_need": {"engagement": "count"}}, "unknown at request time"),
        ({"signals": {"trend": "count"}, "unavailable_signals": ["trend"]}, "the dataset has none of trend"),
        ({"system": "{gains}"}, "unknown field {gains}"),
        (
            {"answer_request": "{candidates}"},
            "unknown field {candidates}; use {count}, {identifiers}, {items}, {Items}",
        ),
        ({"signals": {"engagement": "count"}}, "unknown at request time"),
        ({"signals": {"trends": "count"}}, "a prompt can show similarity, niche, trend, popularity, quality, recency"),
        ({"signals": {"trend": []}}, "at least 1"),
        ({"signals": {"trend": "stars"}}, "'count', 'percent', 'scale', 'word', 'flag'"),
        ({"signals": {"trend": {"display": "count", "template": "watches"}}}, "{value} must be in it"),
        ({"signals": {"trend": {"display": "count", "template": "{value}\n"}}}, "must be one line"),
        ({"signals": {"trend": {"display": "word", "words": ["hot", "hot"]}}}, "must differ"),
        ({"signals": {"trend": {"display": "word", "words": ["hot"]}}}, "at least 2"),
        ({"signals": {"niche": {"display": "flag", "words": ["a", "a"]}}}, "must differ"),
        ({"signals": {"quality": {"display": "percent", "whole": 0}}}, "greater than 0"),
        ({"separator": " and "}, "must not contain a letter or digit"),
        ({"separator": ""}, "at least 1"),
        ({"identifiers": "roman"}, "'letters' or 'numbers'"),
        ({"max_titel_chars": 5}, "Extra inputs are not permitted"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        PromptSettings.model_validate(change)
    assert message in str(error.value)


def test_a_line_without_signals_goes_with_no_signals() -> None:
    assert PromptSettings(line="{title}: {id}", signals={}).signals == {}
