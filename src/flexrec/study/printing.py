"""A study for its readers: as Markdown, as text for a terminal, as files of numbers, and what it consists of."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.reporting.blocks import markdown_table, markdown_text
from flexrec.reporting.tables import facts_markdown
from flexrec.study.tables import StudyTable


def table_markdown(table: StudyTable) -> str:
    """One table as Markdown, with what it shows above and how to read it below."""
    rows = [
        [markdown_text(row[0].text), *(f"**{cell.text}**" if cell.best else cell.text for cell in row[1:])]
        for row in table.rows
    ]
    parts = [f"### {markdown_text(table.heading)}", f"{markdown_text(table.subject)}."]
    parts += [markdown_text(sentence) for sentence in table.sentences]
    if table.cross:
        parts.append(markdown_table(table.cross[0], table.cross[1:]))
    if rows:
        lines = [[markdown_text(text) for text in table.headings], ["---"] * len(table.headings), *rows]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if table.by_seed:
        parts.append(markdown_table(table.by_seed[0], table.by_seed[1:]))
    parts.append("\n".join(f"- {markdown_text(note)}" for note in table.notes))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def study_markdown(title: str, tables: Sequence[StudyTable], facts: Mapping[str, object]) -> str:
    """A whole study as Markdown."""
    parts = [table_markdown(table) for table in tables] or ["No table applies to what this study runs.\n"]
    return "\n".join([f"## {markdown_text(title)}\n", *parts, facts_markdown(facts)])


def study_text(tables: Sequence[StudyTable], cells: pd.DataFrame, width: int = 110) -> str:
    """The primary metric of every table as plain text, for the end of a run on a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for table in tables:
        if not table.rows:
            continue
        keep = [0, 1, *(place for place, text in enumerate(table.headings) if text.startswith("p vs ")),
                table.headings.index("seeds")]  # fmt: skip
        text = Table(
            title=escape(f"{table.heading}\n{table.subject}, * best mean"), title_justify="left", box=SIMPLE_HEAD
        )
        for place in keep:
            text.add_column(escape(table.headings[place]), justify="left" if place < 2 else "right", no_wrap=place < 2)
        for row in table.rows:
            shown = (row[place] for place in keep)
            text.add_row(*(escape(f"{cell.text} *" if cell.best else cell.text) for cell in shown))
        console.print(text)
        for sentence in table.sentences:
            console.print(escape(sentence), highlight=False)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    return "\n".join([*lines, "", failures(cells)]).strip("\n") + "\n"


def failures(cells: pd.DataFrame) -> str:
    """Which cells are not done, one line each; empty where all are."""
    left = cells[cells["state"] != "done"]
    keys = ["dataset", Columns.NEED, Columns.METHOD, "seed", "state", "reason"]
    lines = [
        f"{dataset} {need} {method} seed {seed}: {state}; {reason}"
        for dataset, need, method, seed, state, reason in left[keys].itertuples(index=False)
    ]
    return "\n".join([f"{len(left)} of {len(cells)} runs are not done:", *lines]) if lines else ""


def study_facts(name: str, cells: pd.DataFrame) -> dict[str, object]:
    """What a study consists of: names, seeds and the days on which its runs were made."""
    days = sorted(day for day in cells["made"] if day)
    done = int((cells["state"] == "done").sum())
    return {
        "study": name,
        "runs": f"{done} of {len(cells)}",
        "datasets": list(dict.fromkeys(cells["dataset"])),
        "density": [f"{density:g}" for density in dict.fromkeys(cells["density"])],
        "models": list(dict.fromkeys(cells["model"])),
        "needs": list(dict.fromkeys(cells[Columns.NEED])),
        "methods": list(dict.fromkeys(cells[Columns.METHOD])),
        "seeds": sorted({int(seed) for seed in cells["seed"]}),
        "overrides": list(dict.fromkeys(text for text in cells["overrides"] if text)) or ["none"],
        "runs made": f"{days[0]} to {days[-1]}" if days else "never",
        **_places(cells),
        "hours of training": float((cells["training_seconds"].sum() + _warm_up_seconds(cells)) / 3600),
    }


def _places(cells: pd.DataFrame) -> dict[str, object]:
    """What the base model computed in, and the commits of the code of seeds that were made elsewhere."""
    done = cells[cells["state"] == "done"]
    said: dict[str, object] = {"dtype": list(dict.fromkeys(done["dtype"]))}
    if (done["part"] != "").any():
        commits = dict.fromkeys(zip(done["seed"], done["part"], done["commit"], done["dtype"], strict=True))
        said["seeds made"] = [
            f"{seed}: {part or 'here'}, commit {commit or 'unknown'}, {dtype}" for seed, part, commit, dtype in commits
        ]
    return said


def _warm_up_seconds(cells: pd.DataFrame) -> float:
    """Of every warm-up once, however many cells share it."""
    shared = ["dataset", "density", "model", Columns.NEED, "gains", "seed"]
    known = cells[cells["warm_up_seconds"].notna()]
    return float(known.drop_duplicates(shared)["warm_up_seconds"].sum())


def write_tables(tables: Sequence[StudyTable], folder: Path) -> None:
    """Write every table as CSV and as Parquet into an existing folder."""
    for table in tables:
        table.numbers.to_csv(folder / f"{table.file_name}.csv", index=False)
        table.numbers.to_parquet(folder / f"{table.file_name}.parquet")
    if not tables:
        (folder / "empty.txt").write_text("No table applies to what this study runs.\n", encoding="utf-8")
