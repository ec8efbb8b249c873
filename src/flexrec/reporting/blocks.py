"""Plain tables as Markdown, terminal text and HTML, and self-contained pages: the building blocks of a report."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

import plotly.graph_objects as go

from flexrec.reporting.page_style import SCRIPT, STYLE

_HARD_SPACE = "\u00a0"


@dataclass(frozen=True)
class Block:
    """A table of texts under a heading, with a note on how to read it."""

    heading: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of a page: what links name it, its heading, and its HTML."""

    anchor: str
    heading: str
    inner: str


def markdown_text(text: object) -> str:
    """Escape what Markdown or HTML inside Markdown would read as markup, and keep the text on one line."""
    one_line = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of escaped cells."""
    lines = [[markdown_text(cell) for cell in row] for row in (headings, *rows)]
    lines.insert(1, ["---"] * len(headings))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def terminal_text(block: Block, *, width: int = 118) -> str:
    """A table as plain text of at most so many columns, its heading above; an interval stands below its mean."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape as escape_markup
    from rich.table import Table

    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    table = Table(
        title=escape_markup(block.heading),
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for place, heading in enumerate(block.headings):
        table.add_column(escape_markup(heading), justify="left" if place == 0 else "right")
    for row in block.rows:
        table.add_row(*(escape_markup(_stacked(text)) for text in row))
    console.print(table)
    text = console.file.getvalue().replace(_HARD_SPACE, " ")  # type: ignore[attr-defined]
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(lines).strip("\n") + "\n"


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "results") -> str:
    """An HTML table of escaped cells; the first of a row is its heading. A text in brackets stands in small print."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    body = "".join(
        f'<tr><th scope="row"><bdi>{escape(row[0])}</bdi></th>'
        + "".join(f"<td>{_small_print(text)}</td>" for text in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'
    )


def html_paragraphs(sentences: Iterable[str]) -> str:
    """Escaped paragraphs."""
    return "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)


def html_list(sentences: Iterable[str]) -> str:
    """An escaped list."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>\n"


def html_figure(identifier: str, caption: str, figure: go.Figure) -> str:
    """A figure with its caption; the identifier is given, as plotly would draw a random one."""
    drawing = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=identifier,
        default_width="100%",
        config={"displayModeBar": False, "displaylogo": False, "responsive": True},
    )
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>\n"


def page(title: str, subject: str, sections: Sequence[Section]) -> str:
    """One HTML document that needs no network: plotly.js is in it, and a policy forbids every request.

    Args:
        title: Heading of the page.
        subject: What it is about, one sentence.
        sections: Its parts; their HTML is taken as it is, everything else is escaped.
    """
    # imports IPython where there is one
    from plotly.offline import get_plotlyjs

    contents = "".join(f'<a href="#{one.anchor}">{escape(one.heading)}</a>' for one in sections)
    body = "".join(
        f'<section id="{one.anchor}"><h2>{escape(one.heading)}</h2>\n{one.inner}</section>\n' for one in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subject)}</p><nav>{contents}</nav></header>\n"
        f"<main>\n{body}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _small_print(text: str) -> str:
    mean, bounds = _parts(text)
    return f"<bdi>{escape(mean)}</bdi>" + (f"<small>{escape(bounds)}</small>" if bounds else "")


def _stacked(text: str) -> str:
    """An interval below its mean, on one line."""
    mean, bounds = _parts(text)
    return f"{mean}\n{bounds.replace(' ', _HARD_SPACE)}" if bounds else mean


def _parts(text: str) -> tuple[str, str]:
    """A text and what stands in brackets at its end."""
    first, bracket, rest = text.rpartition(" [")
    return (first, f"[{rest}") if bracket and rest.endswith("]") else (text, "")
