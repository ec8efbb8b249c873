from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from flexrec.reporting.examples import select_examples
from flexrec.reporting.figures import results_figure, tau_figure
from flexrec.reporting.page import Report, render_page

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements, references and text of a page; fails on an element that is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.identifiers: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in {"src", "href", "data", "action", "srcset"}:
                self.references.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.identifiers.append(value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open[-1] if self._open else "", []).append(data)


@pytest.fixture(scope="module")
def report(world) -> Report:
    # instance 0 holds the hostile titles; all instances are shown
    examples = select_examples(
        world.rankings,
        world.metrics,
        world.labelled,
        world.items,
        world.gains,
        need="trend",
        methods=("untrained", "flexrec"),
        count=40,
    )
    seen = tuple((title, 4.0) for title in world.items["title"].iloc[:3])
    chosen = [replace(example, history=seen) for example in examples if example.instance_id == 0]
    return Report(
        title="Films <1>",
        subject="K = 10 & H = 3",
        method="flexrec",
        summary=world.summary,
        figures={"Means <i>": results_figure(world.summary), "Tau": tau_figure(world.metrics)},
        examples=chosen,
        facts={"commit": "abc", "versions": {"numpy": "2"}, "command": "kedro run <x>"},
        notes=("A note & more",),
    )


@pytest.fixture(scope="module")
def html(report) -> str:
    return render_page(report)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_page_is_well_formed_and_complete(page):
    assert page.text["h2"] == ["In short", "Results", "Figures", "Examples", "How to read it", "Limits", "The run"]
    assert page.text["title"] == ["Films <1>"]
    # plotly.js, one per figure (two and one in the gallery), and the page's own
    assert page.tags["script"] == 1 + 3 + 1
    assert page.tags["figure"] == 3
    assert len(set(page.identifiers)) == len(page.identifiers)
    assert {"Means <i>", "Tau"} <= set(page.text["figcaption"])


def test_page_opens_with_the_summary_in_words(page):
    first, second, note = page.text["p"][1:4]
    assert first.startswith("The ranker 'FlexRec' reaches NDCG@5 0.")
    assert "on interest" in first
    assert "on trend" in second
    assert note == "A note & more"


def test_page_refers_to_nothing_outside(html, page):
    assert page.references
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert {reference.removeprefix("#") for reference in page.references[1:]} <= set(page.identifiers)
    assert html.count(get_plotlyjs()) == 1
    own = html.replace(get_plotlyjs(), "")
    assert "http" not in own.replace("http-equiv", "").replace("https:\\u002f\\u002fexample.org", "").replace(
        "https://example.org/", ""
    )
    assert "@import" not in own
    assert "url(" not in own
    assert "default-src 'none'" in own


def test_hostile_titles_stay_text(html, page, world):
    hostile = world.items["title"].iloc[:5].tolist()
    shown = page.text["bdi"]
    assert set(hostile) <= set(shown)
    # three of them stand in the history as well
    assert [shown.count(title) for title in hostile] == [2, 2, 2, 1, 1]
    assert page.tags["img"] == 0
    assert page.handlers == []
    own = html.replace(get_plotlyjs(), "")
    for title in hostile[:3]:
        assert title not in own
    # no title ends a script: each holds a figure or the page's own lines
    assert all("alert" not in text or "Plotly.newPlot" in text for text in page.text["script"])


def test_same_report_same_bytes(html, report):
    assert render_page(report) == html


def test_page_without_results_says_so(report):
    empty = replace(report, summary=report.summary.iloc[:0], figures={}, examples=(), facts={}, notes=())
    page = Page(render_page(empty))
    for sentence in (
        "The ranker 'FlexRec' was not evaluated, so there is nothing to sum up.",
        "Nothing was evaluated.",
        "This run made no figures.",
        "No instance to compare rankings on.",
        "No facts were recorded.",
    ):
        assert sentence in page.text["p"]


def test_gallery_shows_positions_and_gains(report, page):
    (example,) = report.examples
    cells = [text for text in page.text["td"] if text.strip()]
    for candidate in example.candidates:
        assert f" {candidate.gain:.2f}" in cells
    assert page.tags["meter"] == len(example.candidates)
    heading = next(text for text in page.text["summary"] if "instance 0" in text)
    change = example.ndcg_at_5["flexrec"] - example.ndcg_at_5["untrained"]
    assert heading.endswith(f"(FlexRec), {change:+.3f}")
