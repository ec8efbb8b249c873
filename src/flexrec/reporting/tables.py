"""The results as tables (Markdown, plain text) and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

import pandas as pd

from flexrec.evaluation.names import QUALITY_METRICS
from flexrec.ranking.columns import Columns
from flexrec.reporting.blocks import markdown_text
from flexrec.reporting.style import BASELINES, interval, label, metric_label, number, ordered, p_value

_SIGNIFICANT = 0.05
_SIDE_METRICS = {"invalid_rate": "invalid", "kendall_tau": "tau"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class NeedTable:
    """The results of one need: headings, and one row of cells per method."""

    need: str
    instances: int
    users: int
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def need_tables(
    summary: pd.DataFrame,
    *,
    primary: str = "ndcg_at_5",
    metrics: Sequence[str] = QUALITY_METRICS,
    methods: Sequence[str] = (),
) -> list[NeedTable]:
    """Lay the summary out as one table per need.

    Columns: the method, every metric as mean [low, high], the Holm-adjusted p of the primary metric against the
    policy's earlier stages and against the strongest baseline (the other comparisons stay in the summary), the rate
    of invalid identifiers and Kendall's tau with the input order. Equal means at the printed precision are all marked
    as best.

    Args:
        summary: Table of `flexrec.evaluation.summarise`.
        primary: Metric whose p values are shown.
        metrics: Metrics shown with their intervals.
        methods: Order of the methods.
    """
    tables = []
    for need in dict.fromkeys(summary[Columns.NEED]):
        part = summary[summary[Columns.NEED] == need]
        strongest = _strongest_baseline(part[part["metric"] == primary], methods)
        references = [
            name for name in ordered(part["reference"].dropna(), methods) if name not in BASELINES or name == strongest
        ]
        means = part.drop_duplicates([Columns.METHOD, "metric"]).set_index([Columns.METHOD, "metric"])
        tests = part[part["metric"] == primary].set_index([Columns.METHOD, "reference"])["p_holm"]
        present = set(part["metric"])
        shown = [metric for metric in metrics if metric in present and not _says_nothing_new(means, metric)]
        side = [metric for metric in _SIDE_METRICS if metric in present]
        best = {metric: number(float(means.xs(metric, level="metric")["mean"].max())) for metric in shown}
        rows = []
        for method in ordered(part[Columns.METHOD], methods):
            own = means.loc[method].reindex([*shown, *side])
            cells = [Cell(label(method))]
            for metric in shown:
                mean, low, high = (float(own.loc[metric, name]) for name in ("mean", "low", "high"))
                cells.append(Cell(interval(mean, low, high), number(mean) == best[metric]))
            cells += [
                Cell(p_value(float(tests.loc[(method, other)])) if (method, other) in tests.index else "")
                for other in references
            ]
            cells += [Cell(number(float(own.loc[metric, "mean"]))) for metric in side]
            rows.append(tuple(cells))
        headings = (
            "method",
            *(metric_label(metric) for metric in shown),
            *(f"p vs {label(other)}" for other in references),
            *(_SIDE_METRICS[metric] for metric in side),
        )
        tables.append(NeedTable(need, int(part["n"].max()), int(part["users"].max()), headings, tuple(rows)))
    return tables


def _says_nothing_new(means: pd.DataFrame, metric: str) -> bool:
    """Whether NDCG@30 repeats NDCG@10, as it does for lists of up to ten candidates."""
    if metric != "ndcg_at_30" or "ndcg_at_10" not in means.index.get_level_values("metric"):
        return False
    return means.xs(metric, level="metric")["mean"].equals(means.xs("ndcg_at_10", level="metric")["mean"])


def results_markdown(
    summary: pd.DataFrame,
    *,
    primary: str = "ndcg_at_5",
    metrics: Sequence[str] = QUALITY_METRICS,
    methods: Sequence[str] = (),
) -> str:
    """Write the results as one Markdown table per need; the best mean of each column is bold."""
    tables = need_tables(summary, primary=primary, metrics=metrics, methods=methods)
    if not tables:
        return "No results: nothing was evaluated.\n"
    return "\n".join(
        f"### {markdown_text(table.need)}\n\n{table.instances} instances of {table.users} users.\n\n"
        + _markdown_table(
            table.headings,
            [
                [markdown_text(row[0].text), *(f"**{cell.text}**" if cell.best else cell.text for cell in row[1:])]
                for row in table.rows
            ],
        )
        for table in tables
    )


def facts_markdown(facts: Mapping[str, object]) -> str:
    """Write run facts (nested mappings, see `flexrec.reporting.facts`) as a Markdown table of two columns."""
    return _markdown_table(
        ("fact", "value"), [[markdown_text(name), markdown_text(value)] for name, value in flatten_facts(facts)]
    )


def flatten_facts(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Flatten run facts into (name, text) pairs; nested names are joined by a space, sequences by commas."""
    pairs: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            pairs += [(f"{label(str(name))} {inner}".strip(), text) for inner, text in flatten_facts(value)]
        elif isinstance(value, (list, tuple)):
            pairs.append((label(str(name)), ", ".join(str(one) for one in value)))
        elif isinstance(value, float):
            # a density of 0.25 and a correlation of 0.04 are not to be told by their first decimal alone
            pairs.append((label(str(name)), f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"))
        else:
            pairs.append((label(str(name)), "-" if value is None else str(value)))
    return pairs


def terminal_table(
    summary: pd.DataFrame,
    *,
    primary: str = "ndcg_at_5",
    methods: Sequence[str] = (),
    width: int = 110,
) -> str:
    """Write the primary metric of every method and need as plain text, for the end of a run on a terminal.

    Args:
        summary: Table of `flexrec.evaluation.summarise`.
        primary: The metric shown.
        methods: Order of the methods.
        width: Columns of the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    tables = need_tables(summary, primary=primary, metrics=(primary,), methods=methods)
    if not tables:
        return "No results: nothing was evaluated.\n"
    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for table in tables:
        text = Table(
            title=escape(f"{table.need}: {table.instances} instances of {table.users} users, * best mean"),
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        for place, heading in enumerate(table.headings):
            # a mean stays beside its interval; headings may be broken
            text.add_column(escape(heading), justify="left" if place < 2 else "right", no_wrap=place < 2)
        for row in table.rows:
            text.add_row(*(escape(f"{cell.text} *" if cell.best else cell.text) for cell in row))
        console.print(text)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    return "\n".join(lines).strip("\n") + "\n"


def summary_sentences(
    summary: pd.DataFrame, *, method: str, primary: str = "ndcg_at_5", methods: Sequence[str] = ()
) -> list[str]:
    """Say in words what one method reaches, per need, against its references and against the strongest baseline.

    Args:
        summary: Table of `flexrec.evaluation.summarise`.
        method: The method that the report is about.
        primary: The metric told.
        methods: Order of the methods (breaks ties between baselines).
    """
    rows = summary[summary["metric"] == primary]
    sentences = []
    for need in dict.fromkeys(rows[Columns.NEED]):
        part = rows[rows[Columns.NEED] == need]
        own = part[part[Columns.METHOD] == method]
        if own.empty:
            continue
        first = own.iloc[0]
        reached = interval(float(first["mean"]), float(first["low"]), float(first["high"]))
        text = (
            f"The ranker '{label(method)}' reaches {metric_label(primary)} {reached} on {need} "
            f"({int(first['n'])} instances of {int(first['users'])} users)"
        )
        means = part.drop_duplicates(Columns.METHOD).set_index(Columns.METHOD)["mean"]
        tests = {row["reference"]: row for _, row in own[own["reference"].notna()].iterrows()}
        told = [
            f"{label(name)} {number(float(means[name]))} ({_difference(tests[name])})"
            for name in ordered(tests, methods)
            if name not in BASELINES
        ]
        text += f"; {'; '.join(told)}." if told else "."
        strongest = _strongest_baseline(part, methods)
        if strongest is not None:
            gap = float(first["mean"]) - float(means[strongest])
            compared = _difference(tests[strongest]) if strongest in tests else f"difference {gap:+.3f}"
            text += (
                f" The strongest baseline is {label(strongest)} with {number(float(means[strongest]))} ({compared})."
            )
        sentences.append(text)
    return sentences


def _strongest_baseline(rows: pd.DataFrame, methods: Sequence[str]) -> str | None:
    """The method with the largest mean among those that are no language model; the first in order of equals."""
    means = rows.drop_duplicates(Columns.METHOD).set_index(Columns.METHOD)["mean"]
    baselines = [name for name in ordered(means.index, methods) if name in BASELINES]
    return max(baselines, key=lambda name: float(means[name]), default=None)


def _difference(row: pd.Series) -> str:
    """Whether the ranker is ahead, by how much, and how sure that is."""
    low, high = float(row["difference_low"]), float(row["difference_high"])
    # a single user has no interval
    bounds = f" [{low:+.3f}, {high:+.3f}]" if low == low else ""
    size = f"{float(row['difference']):+.3f}{bounds}, p {_relation(float(row['p_holm']))}"
    if float(row["p_holm"]) < _SIGNIFICANT:
        return f"the ranker is {'ahead' if row['difference'] > 0 else 'behind'}: {size}"
    return f"no clear difference: {size}"


def _relation(p_holm: float) -> str:
    text = p_value(p_holm)
    return text if text.startswith("<") else f"= {text}"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[markdown_text(heading) for heading in headings], ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
