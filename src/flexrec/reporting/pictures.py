"""Figures as pictures for pages that cannot hold a script: a Plotly figure as SVG, without a browser.

It draws what this project's figures are made of (lines and markers with error bars, heat maps, panels, straight lines,
titles) from the figure's own description, so that nothing is plotted twice.
"""

import html
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flexrec.errors import InputError

WIDTH = 900
"""Of a picture, in pixels; the figures' titles are broken for it."""

_DPI = 100
_POINTS = 72 / _DPI
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}
_SYMBOLS = {
    "circle": "o",
    "circle-open": "o",
    "square": "s",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "triangle-up": "^",
    "triangle-down": "v",
    "star": "*",
}
_CHARACTER = 0.6
"""Mean width of a letter in units of the size of its font."""

Values = Mapping[str, Any]


def picture(figure: go.Figure) -> bytes:
    """Draw a figure as SVG; the same figure gives the same bytes.

    Args:
        figure: Of scatter traces and heat maps on rectangular axes.

    Raises:
        InputError: It has a trace of another kind.
    """
    described = figure.to_plotly_json()
    traces, layout = described["data"], described["layout"]
    for trace in traces:
        if trace["type"] not in ("scatter", "heatmap"):
            raise InputError(f"a trace of the kind '{trace['type']}' cannot be drawn as a picture")
    target = BytesIO()
    # text stays text; ids are drawn from the salt instead of at random
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexrec", "font.size": 13 * _POINTS}):
        drawn = _Picture(traces, layout)
        drawn.draw()
        drawn.figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return target.getvalue()


class _Picture:
    """One figure while it is drawn; lengths are pixels."""

    def __init__(self, traces: Sequence[Values], layout: Values) -> None:
        self.traces, self.layout = traces, layout
        margin = layout.get("margin", {})
        self.keys = [_legend_entry(trace) for trace in traces] if layout.get("showlegend", True) else []
        self.named = list(dict.fromkeys(key for key in self.keys if key))
        self.left = max(margin.get("l", 72), self._widest_label() + 24)
        self.right, self.top = margin.get("r", 24), margin.get("t", 60)
        # ticks and the title of the horizontal axis, and rows of the legend below them
        self.legend_columns = self._legend_columns()
        rows = -(-len(self.named) // self.legend_columns)
        self.bottom = 58 + 20 * rows
        inner = layout.get("height", 450) - margin.get("t", 60) - margin.get("b", 60)
        self.height = self.top + inner + self.bottom
        self.figure = Figure(figsize=(WIDTH / _DPI, self.height / _DPI), dpi=_DPI)
        self.axes: dict[tuple[str, str], Axes] = {}

    def draw(self) -> None:
        for trace in self.traces:
            axes = self._axes(trace.get("xaxis", "x"), trace.get("yaxis", "y"))
            if trace["type"] == "heatmap":
                self._heatmap(axes, trace)
            else:
                self._scatter(axes, trace)
        for shape in self.layout.get("shapes", ()):
            self._line(shape)
        for names, axes in self.axes.items():
            for name in names:
                self._finish_axis(axes, name)
        self._share_ranges()
        self._texts()
        self._legend()

    # --- Places

    def _axes(self, x: str, y: str) -> Axes:
        if (x, y) not in self.axes:
            left, right = self._axis(x).get("domain", (0, 1))
            low, high = self._axis(y).get("domain", (0, 1))
            origin, end = self._place(left, low), self._place(right, high)
            box = (origin[0], origin[1], end[0] - origin[0], end[1] - origin[1])
            self.axes[x, y] = self.figure.add_axes(box)
        return self.axes[x, y]

    def _axis(self, name: str) -> Values:
        found: Values = self.layout.get(f"{name[0]}axis{name[1:]}", {})
        return found

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """A place in the area of the axes, in shares of the whole picture."""
        inner = (WIDTH - self.left - self.right, self.height - self.top - self.bottom)
        return (self.left + x * inner[0]) / WIDTH, (self.bottom + y * inner[1]) / self.height

    def _widest_label(self) -> float:
        names = [f"y{name.removeprefix('yaxis')}" for name in self.layout if name.startswith("yaxis")]
        labels = [str(text) for name in names for text in _list(self._axis(name).get("ticktext"))]
        labels += [text for name in names for text in self._categories(name)]
        return max((_CHARACTER * 13 * len(_text(text)) for text in labels), default=0)

    def _categories(self, name: str) -> list[str]:
        """The names along an axis of names, in their order; none along one of numbers."""
        axis = self._axis(name)
        key, which = name[0], "xaxis" if name[0] == "x" else "yaxis"
        # axes that match each other have their names in common
        family = axis.get("matches", name)
        found: list[str] = [str(text) for text in axis.get("categoryarray", ())]
        for trace in self.traces:
            own = trace.get(which, key)
            if own == name or self._axis(own).get("matches", own) == family:
                found += [str(value) for value in _list(trace.get(key)) if isinstance(value, str)]
        return list(dict.fromkeys(found))

    def _numbers(self, name: str, values: Any) -> np.ndarray:
        places = {text: float(place) for place, text in enumerate(self._categories(name))}
        return np.array([places[value] if isinstance(value, str) else _float(value) for value in _list(values)])

    # --- What is drawn

    def _scatter(self, axes: Axes, trace: Values) -> None:
        x, y = (self._numbers(trace.get(f"{key}axis", key), trace.get(key)) for key in "xy")
        line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace.get("mode", "lines+markers")
        colour = _colour(line.get("color", marker.get("color", "#444")))
        opacity = trace.get("opacity", 1.0)
        if "lines" in mode:
            dash = _DASHES.get(line.get("dash", "solid"), "-")
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=line.get("width", 2) * _POINTS, alpha=opacity)
        if "markers" in mode:
            symbol, own = marker.get("symbol", "circle"), _colour(marker.get("color", line.get("color", "#444")))
            axes.plot(
                x,
                y,
                linestyle="none",
                marker=_SYMBOLS.get(symbol, "o"),
                markersize=marker.get("size", 6) * _POINTS,
                color=own,
                markerfacecolor="white" if symbol.endswith("-open") else own,
                alpha=opacity,
            )
            colour = own
        errors: dict[str, Any] = {}
        for key, numbers in (("x", x), ("y", y)):
            bars = trace.get(f"error_{key}")
            if bars and bars.get("array") is not None:
                above = self._sizes(bars["array"], len(numbers))
                below = self._sizes(bars.get("arrayminus"), len(numbers)) if "arrayminus" in bars else above
                bounds = np.stack([below, above])
                # a point has a bar or none, not one of no length
                errors[f"{key}err"] = np.where(bounds.sum(axis=0) > 0, bounds, np.nan)
        if errors:
            axes.errorbar(x, y, fmt="none", ecolor=colour, elinewidth=2 * _POINTS, capsize=3, alpha=opacity, **errors)
        for place, text in enumerate(_list(trace.get("text")) if "text" in mode else ()):
            spot = x[place], y[place]
            axes.annotate(_text(text), spot, (0, 6), textcoords="offset points", ha="center", fontsize=8)

    @staticmethod
    def _sizes(values: Any, count: int) -> np.ndarray:
        numbers = np.array([_float(value) for value in _list(values)])
        # a bound that is not known is no bar
        return np.nan_to_num(np.maximum(numbers if len(numbers) == count else np.zeros(count), 0.0))

    def _heatmap(self, axes: Axes, trace: Values) -> None:
        z = np.array([[_float(value) for value in _list(row)] for row in _list(trace["z"])])
        x, y = (self._numbers(trace.get(f"{key}axis", key), trace.get(key)) for key in "xy")
        scale = trace.get("colorscale")
        steps = scale if isinstance(scale, list | tuple) else ()
        pairs = [(float(place), _colour(colour)) for place, colour in steps]
        drawn = axes.pcolormesh(
            x,
            y,
            np.ma.masked_invalid(z),
            shading="nearest",
            cmap=LinearSegmentedColormap.from_list("own", pairs) if pairs else "viridis",
            vmin=trace.get("zmin"),
            vmax=trace.get("zmax"),
        )
        if trace.get("showscale", True):
            self.figure.colorbar(drawn, ax=axes, label=_title(trace.get("colorbar", {})))
        middle = float(np.nanmean([np.nanmin(z), np.nanmax(z)]))
        for row, texts in enumerate(_list(trace.get("text")) if trace.get("texttemplate") else ()):
            for column, text in enumerate(_list(texts)):
                ink = "white" if z[row, column] < middle else "black"
                axes.text(x[column], y[row], _text(text), ha="center", va="center", color=ink)

    def _line(self, shape: Values) -> None:
        if shape.get("type") != "line":
            return
        line = shape.get("line", {})
        style = {
            "color": _colour(line.get("color", "#888")),
            "linewidth": line.get("width", 2) * _POINTS,
            "linestyle": _DASHES.get(line.get("dash", "solid"), "-"),
            "zorder": 1,
        }
        for (x, y), axes in self.axes.items():
            if shape.get("xref", "x") == x and shape["x0"] == shape["x1"]:
                axes.axvline(shape["x0"], **style)
            elif shape.get("yref", "y") == y and shape["y0"] == shape["y1"]:
                axes.axhline(shape["y0"], **style)

    # --- Around it

    def _finish_axis(self, axes: Axes, name: str) -> None:
        axis, of_x = self._axis(name), name[0] == "x"
        own = axes.xaxis if of_x else axes.yaxis
        categories = self._categories(name)
        if axis.get("type") == "log":
            (axes.set_xscale if of_x else axes.set_yscale)("log")
            own.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            own.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            own.set_minor_locator(NullLocator())
        elif categories:
            own.set_ticks(range(len(categories)), [_text(text) for text in categories])
        if axis.get("range") is not None:
            ends = [10 ** float(end) if axis.get("type") == "log" else float(end) for end in axis["range"]]
            (axes.set_xlim if of_x else axes.set_ylim)(*ends)
        elif axis.get("autorange") == "reversed":
            (axes.invert_xaxis if of_x else axes.invert_yaxis)()
        if axis.get("tickvals") is not None:
            values = [_float(value) for value in _list(axis["tickvals"])]
            texts = [_text(text) for text in _list(axis.get("ticktext"))] or [f"{value:g}" for value in values]
            own.set_ticks(values, texts)
        own.set_label_text(_title(axis))
        own.grid(True, color=_colour(axis.get("gridcolor", "#ddd")), linewidth=0.7)
        axes.set_axisbelow(True)
        own.set_tick_params(length=0)
        if not axis.get("showticklabels", True):
            own.set_tick_params(labelbottom=False, labelleft=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _share_ranges(self) -> None:
        """Axes that match each other show the same range."""
        for place, limits in ((0, "xlim"), (1, "ylim")):
            families: dict[str, list[Axes]] = {}
            for names, axes in self.axes.items():
                own = self._axis(names[place])
                if own.get("range") is None and own.get("autorange") != "reversed":
                    families.setdefault(own.get("matches", names[place]), []).append(axes)
            for members in families.values():
                ends = np.array([getattr(axes, f"get_{limits}")() for axes in members])
                for axes in members:
                    getattr(axes, f"set_{limits}")(ends[:, 0].min(), ends[:, 1].max())

    def _texts(self) -> None:
        for note in self.layout.get("annotations", ()):
            if note.get("xref") != "paper" or note.get("yref") != "paper":
                continue
            x, y = self._place(note["x"], note["y"])
            sides = {"center": "center", "left": "left", "right": "right", "auto": "center"}
            heights = {"middle": "center", "bottom": "bottom", "top": "top", "auto": "center"}
            self.figure.text(
                x,
                y,
                _text(note["text"]),
                ha=sides[note.get("xanchor", "center")],
                va=heights[note.get("yanchor", "bottom")],
                fontsize=note.get("font", {}).get("size", 14) * _POINTS,
            )
        title = _title(self.layout)
        self.figure.text(8 / WIDTH, 1 - 10 / self.height, title, ha="left", va="top", fontsize=15 * _POINTS)

    def _legend_columns(self) -> int:
        longest = max((len(_text(name)) for name in self.named), default=0)
        return max(1, int((WIDTH - 20) // (_CHARACTER * 13 * longest + 60)))

    def _legend(self) -> None:
        if not self.named:
            return
        handles = []
        for name in self.named:
            trace = self.traces[self.keys.index(name)]
            line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace.get("mode", "lines+markers")
            colour = _colour(line.get("color", marker.get("color", "#444")))
            (handle,) = next(iter(self.axes.values())).plot(
                [],
                [],
                color=colour,
                linestyle=_DASHES.get(line.get("dash", "solid"), "-") if "lines" in mode else "none",
                marker=_SYMBOLS.get(marker.get("symbol", "circle"), "o") if "markers" in mode else None,
                markersize=6 * _POINTS,
                label=_text(name),
            )
            handles.append(handle)
        self.figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 0),
            ncols=self.legend_columns,
            frameon=False,
            fontsize=13 * _POINTS,
        )


def _legend_entry(trace: Values) -> str:
    """Its name in the legend; empty where it has none."""
    return str(trace.get("name") or "") if trace.get("showlegend", True) else ""


def _list(values: Any) -> list[Any]:
    """Plotly's arrays as they come: lists, tuples, numpy's, or nothing."""
    if values is None:
        return []
    return list(values.tolist()) if isinstance(values, np.ndarray) else list(values)


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def plain_text(text: object) -> str:
    """Plotly's text without its tags."""
    lines = re.sub(r"<br\s*/?>", "\n", str(text))
    return html.unescape(re.sub(r"<[^<>]*>", "", lines))


def _text(text: object) -> str:
    """The same as it is drawn: a dollar sign begins no formula."""
    return plain_text(text).replace("$", r"\$")


def _title(of: Values) -> str:
    """The title of an axis or a scale, which is a text or a block with one."""
    title = of.get("title", "")
    return _text(title.get("text") or "" if isinstance(title, dict) else title)


def _colour(text: Any) -> tuple[float, float, float, float]:
    """A colour as Plotly writes it."""
    found = re.fullmatch(r"rgba?\(([^)]*)\)", str(text).strip())
    if found is None:
        return to_rgba(str(text))
    parts = [float(part) for part in found[1].split(",")]
    red, green, blue = (part / 255 for part in parts[:3])
    return red, green, blue, parts[3] if len(parts) > 3 else 1.0
