"""One ranked instance: where each method puts the candidates with the largest gains."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.reporting.examples import RankingExample
from flexrec.reporting.style import empty_figure, finish, looks, number, plotly_text

_SHOWN_CHARACTERS = 60


def example_figure(example: RankingExample, *, methods: Sequence[str] = ()) -> go.Figure:
    """Draw the true gain at every position, one row per method; a good ranking falls from left to right.

    Args:
        example: One instance with the orders of several methods.
        methods: Order of all methods, for their colours.
    """
    if not example.orders:
        return empty_figure("No method ranked this instance.")
    names = list(example.orders)
    styles = looks(names, methods)
    gains = {candidate.item_id: candidate.gain for candidate in example.candidates}
    titles = {candidate.item_id: candidate.title[:_SHOWN_CHARACTERS] for candidate in example.candidates}
    headings = [f"{styles[name].label}: NDCG@5 {number(example.ndcg_at_5[name])}" for name in names]
    figure = make_subplots(
        rows=len(names),
        cols=1,
        shared_xaxes=True,
        shared_yaxes="all",
        vertical_spacing=0.22 / len(names),
        subplot_titles=[plotly_text(heading) for heading in headings],
    )
    for row, name in enumerate(names, start=1):
        order = example.orders[name]
        figure.add_trace(
            go.Bar(
                x=list(range(1, len(order) + 1)),
                y=[gains[item] for item in order],
                customdata=[plotly_text(titles[item]) for item in order],
                marker={"color": styles[name].colour},
                hovertemplate="position %{x}: %{customdata}<br>gain %{y:.2f}<extra></extra>",
            ),
            row=row,
            col=1,
        )
    figure.update_annotations(x=0, xanchor="left")
    figure.update_xaxes(title_text="position in the ranking", row=len(names), col=1)
    figure.update_yaxes(title_text="gain", rangemode="tozero")
    text = f"{example.need}, instance {example.instance_id}: true gain at every position."
    return finish(figure, text, height=90 + 130 * len(names), legend=False)
