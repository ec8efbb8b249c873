"""Templates: plain fields only, and values are never templates."""

import pytest

from flexrec.prompting.templates import check_template, fill_template, template_fields

ALLOWED = ("title", "id")


def test_fields_and_literal_braces() -> None:
    template = check_template("{{{title}}}: {id}, {id}", name="line", allowed=ALLOWED, required=("id",))
    assert template_fields(template) == ["title", "id", "id"]
    assert fill_template(template, {"title": "{id} {0.__class__}", "id": "A"}) == "{{id} {0.__class__}}: A, A"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"unknown field \{titel\}; use \{title\}, \{id\}"),
        ("{title.__class__}", "unknown field"),
        ("{title[0]}", "unknown field"),
        ("{}", "unknown field"),
        ("{0}", "unknown field"),
        ("{title!r}", "stand alone"),
        ("{title:>1000000000}", "stand alone"),
        ("{title:{id}}", "stand alone"),
        ("{title", "write a literal brace twice"),
        ("title}", "write a literal brace twice"),
        ("{title}", r"\{id\} must be in it"),
    ],
)
def test_anything_else_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_template(template, name="line", allowed=ALLOWED, required=("id",))
