"""Figures as pictures: what stands in them, that they are the same every time, and what cannot be drawn."""

import xml.etree.ElementTree as ET

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from flexrec.errors import InputError
from flexrec.reporting.pictures import WIDTH, _Picture, picture, plain_text
from flexrec.reporting.style import finish


def panels() -> go.Figure:
    """Two panels with names along one axis, and numbers with bars along the other."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=["left &amp; wrong", "right"])
    for column, mean in ((1, 0.5), (2, 0.9)):
        for place, name in enumerate(("first $x$", "second")):
            figure.add_trace(
                go.Scatter(
                    x=[mean + place / 10],
                    y=[name],
                    error_x={"array": [0.1], "arrayminus": [None]},
                    mode="markers+text",
                    text=["<b>said</b>"],
                    name=name,
                    marker={"color": "rgba(255, 0, 0, 0.5)", "symbol": "circle-open"},
                    showlegend=column == 1,
                ),
                row=1,
                col=column,
            )
    figure.add_vline(x=0.7, line={"color": "#123456", "dash": "dash"})
    figure.update_yaxes(categoryorder="array", categoryarray=["first $x$", "second"], range=[1.5, -0.5])
    figure.update_xaxes(title_text="a measure")
    return finish(figure, "A title that says something. " * 5, height=300)


def texts(content: bytes) -> set[str]:
    root = ET.fromstring(content)
    return {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}


def drawn(figure: go.Figure) -> _Picture:
    described = figure.to_plotly_json()
    made = _Picture(described["data"], described["layout"])
    made.draw()
    return made


def test_a_picture_says_what_the_figure_says() -> None:
    found = texts(picture(panels()))
    assert {"left & wrong", "right", "first $x$", "second", "said", "a measure"} <= found
    assert "A title that says something." in " ".join(found)


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert picture(panels()) == picture(panels())
    assert b"flexrec" not in picture(panels())


def test_points_and_lines_are_where_they_belong() -> None:
    made = drawn(panels())
    assert len(made.axes) == 2
    for (x, _), axes in made.axes.items():
        points = [line.get_xydata() for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
        mean = 0.5 if x == "x" else 0.9
        np.testing.assert_allclose(np.concatenate(points), [[mean, 0], [mean + 0.1, 1]])
        # names from top to bottom, in both panels
        assert axes.get_ylim() == (1.5, -0.5)
        assert any(list(line.get_xdata()) == [0.7, 0.7] for line in axes.get_lines())
    width, _ = made.figure.get_size_inches()
    assert round(width * 100) == WIDTH
    boxes = [axes.get_position() for axes in made.axes.values()]
    assert boxes[0].x1 < boxes[1].x0
    assert all(0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)


def test_logarithms_and_shared_ranges() -> None:
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    for column in (1, 2):
        figure.add_trace(go.Scatter(x=[1, 2], y=[10.0**column, 10.0 ** (column + 1)]), row=1, col=column)
    figure.update_yaxes(type="log")
    made = drawn(finish(figure, "t", height=300))
    limits = {axes.get_ylim() for axes in made.axes.values()}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low < 10
    assert high > 1000
    assert {axes.get_yscale() for axes in made.axes.values()} == {"log"}


def test_a_heat_map_has_its_numbers() -> None:
    heat = go.Heatmap(
        x=["a", "b"], y=["c"], z=[[0.25, None]], text=[["a quarter", ""]], texttemplate="%{text}", colorscale="Viridis"
    )
    found = texts(picture(finish(go.Figure(heat), "t", height=300)))
    assert {"a", "b", "c", "a quarter"} <= found


def test_what_is_not_known_is_refused_and_what_is_empty_is_drawn() -> None:
    with pytest.raises(InputError, match="a trace of the kind 'pie' cannot be drawn as a picture"):
        picture(go.Figure(go.Pie(values=[1])))
    assert picture(finish(go.Figure(), "nothing", height=200)).startswith(b"<?xml")


def test_text_without_tags() -> None:
    assert plain_text("a<br>b <b>c</b> &lt;d&gt; 5 $") == "a\nb c <d> 5 $"
