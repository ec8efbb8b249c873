"""Word lists."""


def words(text: str) -> tuple[str, ...]:
    """The words of a text; a list of many short words is easier to read without quotes and commas."""
    return tuple(text.split())
