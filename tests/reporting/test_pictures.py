"""Figures as pictures: the same every time, what is missing in words."""

import struct
import sys

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from flexrec.errors import InputError
from flexrec.reporting.pictures import SCALE, WIDTH, picture, plain_text
from flexrec.reporting.style import finish


def panels() -> go.Figure:
    figure = make_subplots(rows=1, cols=2, subplot_titles=["left &amp; wrong", "right"])
    for column in (1, 2):
        figure.add_trace(go.Scatter(x=[0.5], y=["first $x"], error_x={"array": [0.1]}, name="one"), row=1, col=column)
    return finish(figure, "A title that says something. " * 5, height=300)


def test_a_picture_is_drawn_the_same_every_time() -> None:
    drawn = picture(panels())
    assert drawn == picture(panels())
    width, height = struct.unpack(">II", drawn[16:24])
    assert (width, height) == (round(SCALE * WIDTH), round(SCALE * 300))
    other = panels()
    other.data[0].x = [0.7]
    assert picture(other) != drawn


def test_what_is_missing_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[publish\]'"):
        picture(panels())


def test_text_without_tags() -> None:
    assert plain_text("a<br>b <b>c</b> &lt;d&gt; 5 $") == "a\nb c <d> 5 $"
