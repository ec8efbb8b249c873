"""Text templates with named fields and nothing else.

`str.format` would follow attributes and indices of whatever is put in, and pad to any width; these templates know
plain fields only, and a text that is put in is never read as a template itself.
"""

from collections.abc import Collection, Mapping
from string import Formatter

CONTROL_TOKENS = (
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
"""Of chat templates, those without angle brackets; where there is a tokenizer, its own are added to them."""


def check_template(template: str, *, name: str, allowed: Collection[str], required: Collection[str] = ()) -> str:
    """Return the template if it uses allowed fields only, and every required one.

    Args:
        template: Text with `{field}`; literal braces are doubled.
        name: What the template is, for the message.
        allowed: Names of the fields that may be used.
        required: Names of the fields that must be used.

    Raises:
        ValueError: An unknown field, anything but a plain field, unbalanced braces, or an absent required field.
    """
    choice = ", ".join("{" + field + "}" for field in allowed)
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{name} {template!r}: {error}; write a literal brace twice") from error
    for _, field, spec, conversion in pieces:
        if field is None:
            continue
        if field not in allowed:
            raise ValueError(f"{name} {template!r}: unknown field {{{field}}}; use {choice}")
        if spec or conversion:
            raise ValueError(f"{name} {template!r}: {{{field}}} must stand alone, without conversion or format")
    used = template_fields(template)
    absent = [field for field in required if field not in used]
    if absent:
        raise ValueError(f"{name} {template!r}: the field {{{absent[0]}}} must be in it")
    return template


def template_fields(template: str) -> list[str]:
    """The fields of a checked template, in order, repeated ones repeated."""
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Put values into a checked template; braces in the values stay as they are."""
    return "".join(
        literal + ("" if field is None else values[field]) for literal, field, _, _ in Formatter().parse(template)
    )
