"""One look for every figure and table: names, order, colours and numbers."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

BASELINES = (
    "random",
    "retriever",
    "popularity",
    "item_mean",
    "trend",
    "star",
    "critic",
    "mf",
    "lambdamart",
    "bert4rec",
)
"""Methods that are no language model, in table order; they share one grey, so that colour marks the policies."""

STAGES = ("untrained", "warmed_up")
"""The policy before reinforcement learning."""

METHOD_LABELS = {
    "warmed_up": "warmed-up",
    "flexrec": "FlexRec",
    "rec_r1": "Rec-R1",
    "rec_r1_critic": "Rec-R1 + critic",
    "rank_grpo": "Rank-GRPO",
    "tallrec": "TALLRec",
    "sft": "warm-up continued",
    "star": "STAR",
    "mf": "matrix factorisation",
    "bert4rec": "BERT4Rec",
    "lambdamart": "LambdaMART",
}

METRIC_LABELS = {
    "ndcg_at_5": "NDCG@5",
    "ndcg_at_10": "NDCG@10",
    "ndcg_at_30": "NDCG@30",
    "ndcg_at_100": "NDCG@100",
    "recall_at_5": "Recall@5",
    "recall_at_10": "Recall@10",
    "precision_at_5": "Precision@5",
    "mrr_at_5": "MRR@5",
    "kendall_tau": "Kendall tau with the input order",
    "invalid_rate": "invalid identifiers per candidate",
    "repeated_rate": "repeated identifiers per candidate",
    "missing_rate": "missing identifiers per candidate",
}

INK = "#6b6b6b"
"""Text that can be read on white and on near-black; the page replaces it by the theme's own."""

GRID = "rgba(128,128,128,0.25)"
GREY = "#808080"

# Okabe and Ito's colours, the light ones darkened to a contrast of 3:1 on white and on near-black alike
_STAGE_COLOURS = {"untrained": "#3C8DBC", "warmed_up": "#B37A00"}
_POLICY_COLOURS = ("#D55E00", "#0072B2", "#00916A", "#B8608F", "#8A6D3B", "#7A6BD1")
_SYMBOLS = ("diamond", "square", "triangle-up", "star", "hexagon", "cross")
_BASELINE_SYMBOLS = (
    "x-thin-open",
    "circle-open",
    "square-open",
    "diamond-open",
    "triangle-up-open",
    "star-open",
    "hexagon-open",
    "pentagon-open",
    "triangle-down-open",
    "cross-open",
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


class Look(NamedTuple):
    """How one method is drawn, the same in every figure."""

    label: str
    colour: str
    symbol: str


def label(name: str) -> str:
    """Turn an identifier such as `item_mean` into words, or into the name that a method goes by."""
    return METHOD_LABELS.get(name, name.replace("_", " "))


def metric_label(metric: str) -> str:
    """Return the usual short name of a metric."""
    return METRIC_LABELS.get(metric, label(metric))


def ordered(present: Iterable[str], methods: Sequence[str] = ()) -> list[str]:
    """Sort methods as every table shows them.

    Args:
        present: Names to sort; repeats are dropped.
        methods: The project's full list of methods in the wanted order. Names that it does not hold follow in the
            order baselines, stages before RL, others.
    """
    names = list(dict.fromkeys(present))
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys((*methods, *BASELINES, *STAGES, *names)))}
    return sorted(names, key=ranks.__getitem__)


def looks(present: Iterable[str], methods: Sequence[str] = ()) -> dict[str, Look]:
    """Assign every method its label, colour and symbol.

    Trained policies take their colours by their place in `methods`, so a figure that shows only some of them uses the
    same colours as one that shows all.
    """
    names = ordered((*methods, *present), methods)
    trained = [name for name in names if name not in BASELINES and name not in STAGES]
    styled: dict[str, Look] = {}
    for name in names:
        if name in BASELINES:
            symbol = _BASELINE_SYMBOLS[BASELINES.index(name) % len(_BASELINE_SYMBOLS)]
            styled[name] = Look(label(name), GREY, symbol)
        elif name in STAGES:
            styled[name] = Look(label(name), _STAGE_COLOURS[name], "circle")
        else:
            turn, place = divmod(trained.index(name), len(_POLICY_COLOURS))
            # a colour that comes again has another symbol
            styled[name] = Look(label(name), _POLICY_COLOURS[place], _SYMBOLS[(place + turn) % len(_SYMBOLS)])
    return styled


def dashes(names: Iterable[str]) -> dict[str, str]:
    """Assign a line dash to every name, the first one solid."""
    return {name: _DASHES[place % len(_DASHES)] for place, name in enumerate(dict.fromkeys(names))}


def number(value: float, digits: int = 3) -> str:
    """Format a metric; a missing one is a dash."""
    return "-" if value != value else f"{value:.{digits}f}"


def interval(mean: float, low: float, high: float) -> str:
    """Format a mean with its interval."""
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def p_value(value: float) -> str:
    """Format a p value; below the resolution of the permutation test it is a bound."""
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plotly_text(text: object) -> str:
    """Escape text for Plotly, which reads a part of HTML in titles, labels and hover texts."""
    return html.escape(str(text), quote=False)


def title(text: str) -> str:
    """Escape a figure's title and break it into lines that fit a width of 900 pixels."""
    return "<br>".join(plotly_text(line) for line in textwrap.wrap(text, width=100))


def finish(figure: go.Figure, text: str, *, height: int, legend: bool = True) -> go.Figure:
    """Apply the common layout: title above, no background, legend below, width of its container."""
    lines = 1 + title(text).count("<br>")
    figure.update_layout(
        template="none",
        # plotly lifts a title of several lines by about a line: the padding keeps it inside
        title={
            "text": title(text),
            "font": {"size": 15},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14 if lines == 1 else 34, "l": 8},
        },
        font={"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        autosize=True,
        height=height,
        margin={"t": 50 + 20 * lines, "r": 24, "b": 84 if legend else 56, "l": 72},
        showlegend=legend,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xref": "container"},
        hoverlabel={"align": "left"},
    )
    figure.update_annotations(font={"size": 14})
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"size": 13}, "standoff": 8},
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def empty_figure(sentence: str) -> go.Figure:
    """Return a figure that says in a sentence why there is nothing to draw."""
    figure = go.Figure()
    figure.add_annotation(text=title(sentence), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    finish(figure, "", height=160, legend=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
