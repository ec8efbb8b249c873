"""The page of a study: one HTML file with every table, figure and fact."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from flexrec.reporting.blocks import Section, html_figure, html_list, html_paragraphs, html_table, page
from flexrec.reporting.tables import flatten_facts
from flexrec.study.tables import StudyTable

HOW_TO_READ = (
    "Every row of a table was measured on the same instances. Methods that learn from the same gains share their "
    "warm-up, and all share the untrained model. A star marks the best measured mean of a column, among rows of all "
    "seeds.",
    "An interval is a bootstrap over seeds and, within a seed, over users with all their instances. Of one seed it "
    "covers users only. Of three seeds it is a little too narrow: their spread is estimated from three numbers.",
    "Differences are paired by seed and instance. p comes from a two-sided sign-flip test with users as units, for the "
    "models that were trained, and is adjusted by Holm's method over all tests of its table. A p above 0.05 is no "
    "evidence of a difference, nor of equality.",
    "NDCG@k is 1 for the ideal order and well above 0 for a random one, so compare with the row 'random'.",
    "tau is Kendall's correlation with the order in which the candidates were shown: 1 is a copy of it. invalid is "
    "the number of identifiers per candidate that name nothing; such answers are completed at random before they are "
    "scored.",
    "Training seconds and tokens (of prompts and answers, read and written while training) are means over seeds; they "
    "leave out the warm-up that methods share, which has its own row, and depend on the machine.",
    "Rows of the paper are its own numbers and were not measured here.",
)


def render_study(
    title: str,
    tables: Sequence[StudyTable],
    figures: Mapping[str, go.Figure],
    facts: Mapping[str, object],
    left: str,
) -> str:
    """Render a study as one HTML document; the same study gives the same text, byte for byte.

    Args:
        title: Heading.
        tables: Its tables.
        figures: Its figures by caption.
        facts: Facts of the run.
        left: Which runs are not done, one per line; empty where all are.
    """
    sentences = list(dict.fromkeys(sentence for table in tables for sentence in _told(table)))
    summary = html_paragraphs(sentences or ["Nothing was compared."])
    if left:
        summary += html_list(left.splitlines())
    sections = [
        Section("summary", "Who wins without an LLM", summary),
        Section("tables", "Tables", "".join(map(_table, tables)) or "<p>No table applies to this study.</p>"),
        Section(
            "figures",
            "Figures",
            "".join(html_figure(f"figure-{place}", *pair) for place, pair in enumerate(figures.items())),
        ),
        Section("reading", "How to read it", html_list(HOW_TO_READ)),
        Section("run", "The study", html_table(("fact", "value"), flatten_facts(facts), kind="facts")),
    ]
    return page(title, "Every row with its interval, its tests and its costs.", sections)


def _told(table: StudyTable) -> list[str]:
    dataset, _, _, need, _ = table.group
    return [f"{need} on {dataset}: {sentence}" for sentence in table.sentences]


def _table(table: StudyTable) -> str:
    heading = html_paragraphs([f"{table.subject}."])
    cross = html_table(table.cross[0], table.cross[1:]) if table.cross else ""
    rows = [[f"{cell.text} *" if cell.best else cell.text for cell in row] for row in table.rows]
    main = html_table(table.headings, [[_star_before_bracket(text) for text in row] for row in rows]) if rows else ""
    by_seed = html_table(table.by_seed[0], table.by_seed[1:]) if table.by_seed else ""
    return f"<h3>{escape(table.heading)}</h3>{heading}{cross}{main}{by_seed}{html_list(table.notes)}"


def _star_before_bracket(text: str) -> str:
    """The star of a best mean behind the mean, so that its interval can stand in small print."""
    if not text.endswith("] *"):
        return text
    mean, _, bounds = text.removesuffix(" *").partition(" [")
    return f"{mean} * [{bounds}"
