"""What a node made of a function with a bound argument is to Kedro and to the fingerprint."""

from kedro.pipeline import node
from kedro.validation.type_extractor import TypeExtractor

from flexrec.config import Settings
from flexrec.pipelines.shared import bound
from flexrec.source_code import unwrap


class Given(Settings):
    size: int


def stretch(text: str, settings: Given, times: int = 1) -> str:
    """Repeat it."""
    return text * settings.size * times


def test_a_bound_node_keeps_the_name_and_the_types_of_its_function() -> None:
    made = node(bound(stretch, times=2), ["text", "params:given"], "long", name="stretch_twice")
    assert made.func.__name__ == "stretch"
    assert TypeExtractor({})._extract_types_from_node(made) == {"given": Given}
    assert made.run({"text": "ab", "params:given": Given(size=1)}) == {"long": "abab"}


def test_what_is_bound_is_part_of_the_fingerprint() -> None:
    functions, twice = unwrap(bound(stretch, times=2))
    assert functions == [stretch]
    assert twice != unwrap(bound(stretch, times=3))[1] != unwrap(stretch)[1]
