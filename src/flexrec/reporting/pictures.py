"""Figures as pictures, for pages that cannot hold a script."""

import html
import re

import plotly.graph_objects as go

from flexrec.errors import InputError

WIDTH = 900
"""Of a picture, in pixels; the figures' titles are broken for it."""
SCALE = 1.5
"""Pixels of the file to each of those."""


def picture(figure: go.Figure) -> bytes:
    """A figure as PNG; the same figure gives the same bytes, which it would not as SVG.

    Raises:
        InputError: Plotly has nothing to write pictures with.
    """
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise InputError("pictures need kaleido: pip install -e '.[publish]'") from error
    drawn: bytes = figure.to_image(format="png", width=WIDTH, scale=SCALE)
    return drawn


def plain_text(text: object) -> str:
    """Plotly's text without its tags."""
    lines = re.sub(r"<br\s*/?>", "\n", str(text))
    return html.unescape(re.sub(r"<[^<>]*>", "", lines))
