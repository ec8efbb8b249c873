"""The tables of a study: every row with its interval, its tests and its costs, and what was not run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.ranking.statistics import holm
from flexrec.reporting.blocks import markdown_table, markdown_text
from flexrec.reporting.style import interval, label, metric_label, number, ordered, p_value
from flexrec.reporting.tables import Cell, facts_markdown
from flexrec.study.collection import BASELINE, OTHER, TRAINED, UNTRAINED, WARMED_UP
from flexrec.study.paper import PaperRow, paper_rows
from flexrec.study.settings import CrossSettings, StudyOptions, StudySettings, TableSettings, regime_of
from flexrec.study.statistics import GROUP, ROW, Resampling, compare

_KINDS = (BASELINE, OTHER, UNTRAINED, WARMED_UP, TRAINED)
_SIGNIFICANT = 0.05
_SIDE = {"invalid_rate": "invalid", "kendall_tau": "tau"}

Group = tuple[str, float, str, str, str]
"""Dataset, density, model, need and sample of instances."""


@dataclass(frozen=True)
class StudyTable:
    """One table.

    Attributes:
        name: Of its kind, a key of `study_options.tables`.
        title: What it compares.
        group: Dataset, density, model, need and sample of instances.
        headings: One per column.
        rows: Cells as they are printed; those of the paper come last.
        numbers: The same rows as numbers, unrounded; the column `source` is `measured` or `paper`.
        cross: The primary metric in two ways, headings first; empty where the kind has none.
        sentences: What it shows, in words.
        notes: How to read it, and what is not in it.
    """

    name: str
    title: str
    group: Group
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: pd.DataFrame
    cross: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def heading(self) -> str:
        """Its name for people."""
        return f"Table {self.name}: {self.title}"

    @property
    def subject(self) -> str:
        """What was measured."""
        dataset, density, model, need, _ = self.group
        return f"{need} on {dataset}, {density:g} of the labels observed, {model}"

    @property
    def file_name(self) -> str:
        """A name for files; tables of one study have different ones."""
        dataset, density, model, need, _ = self.group
        return f"table-{self.name}-{dataset}-{need}-density-{density:g}-{model}".replace(",", "+")


def study_tables(
    cells: pd.DataFrame,
    instances: pd.DataFrame,
    means: pd.DataFrame,
    comparisons: pd.DataFrame,
    settings: StudySettings,
    options: StudyOptions,
    how: Resampling,
) -> list[StudyTable]:
    """Lay a study out as its tables.

    A kind of table is made for every dataset, density, model and need that it applies to, and of which the study plans
    at least two of its rows (or one, where it takes all).

    Args:
        cells: Table `study_cells`.
        instances: Table `study_instances`.
        means: Table of `row_means`.
        comparisons: Table of `comparisons`.
        settings: Of the study.
        options: Of all studies.
        how: Resampling, for the best row with an LLM against the best without.
    """
    groups = _groups(cells, means)
    if settings.tables is None:
        # a need that no kind of table is about has one of its own
        about = {need for kind in options.tables.values() for need in kind.needs}
        others = dict.fromkeys(group[3] for group in groups if group[4] == "test" and group[3] not in about)
        kinds = {**options.tables, **{need: TableSettings(title="every row", needs=(need,)) for need in others}}
    else:
        kinds = {name: options.tables[name] for name in settings.tables}
    tables = []
    for name, kind in kinds.items():
        for group in groups:
            dataset, density, _, need, sample = group
            if sample != kind.sample:
                continue
            if (kind.needs and need not in kind.needs) or kind.regime not in (None, regime_of(density)):
                continue
            planned = _planned(cells, group)
            wanted = kind.rows or tuple(dict.fromkeys(planned[Columns.METHOD]))
            if len(set(wanted) & set(planned[Columns.METHOD])) < (2 if kind.rows else 1):
                continue
            part = _with(means, group)
            part = part[_in_table(part, kind, planned)]
            paper = paper_rows(name, dataset, need, regime_of(density))
            tables.append(
                _table(
                    name, kind, group, wanted, planned, part, _with(comparisons, group), _with(instances, group),
                    paper, settings, options, how,
                )
            )  # fmt: skip
    return tables


def _groups(cells: pd.DataFrame, means: pd.DataFrame) -> list[Group]:
    """What was measured, and what was planned and nothing measured of."""
    measured = list(means[GROUP].drop_duplicates().itertuples(index=False, name=None)) if len(means) else []
    planned = [
        (row["dataset"], row["density"], row["model"], need, "test")
        for _, row in cells.iterrows()
        for need in row[Columns.NEED].replace("+", ",").split(",")
        if need != "all"
    ]
    return list(dict.fromkeys([*measured, *planned]))


def _with(table: pd.DataFrame, group: Group) -> pd.DataFrame:
    for name, value in zip(GROUP, group, strict=True):
        table = table[table[name] == value]
    return table


def _planned(cells: pd.DataFrame, group: Group) -> pd.DataFrame:
    """The cells that measure a need on a sample of instances."""
    dataset, density, model, need, sample = group
    same = cells[(cells["dataset"] == dataset) & (cells["density"] == density) & (cells["model"] == model)]
    if sample == "probe":
        return same[same["also"].map(lambda text: sample in text.split(", ")).astype(bool)]
    asked = same[Columns.NEED].map(lambda text: need in text.replace("+", ",").split(",") or text == "all")
    return same[asked.astype(bool)]


def _in_table(part: pd.DataFrame, kind: TableSettings, planned: pd.DataFrame) -> pd.Series:
    if not kind.rows:
        return pd.Series(True, index=part.index)
    trained = (part["kind"] == TRAINED) & part[Columns.METHOD].isin(kind.rows)
    gains = planned.loc[planned[Columns.METHOD].isin(kind.rows), "gains"]
    starts = {WARMED_UP, *(f"{WARMED_UP}_{name}" for name in gains)}
    return trained | part["kind"].isin([BASELINE, OTHER, UNTRAINED]) | part[Columns.METHOD].isin(starts)


def row_label(method: str, kind: str, trained_on: str, need: str) -> str:
    """The name of a row: its method, and the need it was trained for where that is another."""
    text = label(method)
    if kind == WARMED_UP and method != WARMED_UP:
        text = f"{label(WARMED_UP)}, {label(method.removeprefix(f'{WARMED_UP}_'))}"
    return text if trained_on in ("", need) else f"{text}, trained on {trained_on}"


def _table(
    name: str,
    kind: TableSettings,
    group: Group,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    instances: pd.DataFrame,
    paper: Sequence[PaperRow],
    settings: StudySettings,
    options: StudyOptions,
    how: Resampling,
) -> StudyTable:
    need = group[3]
    references = [reference for reference in settings.references if reference in set(compared["reference"])]
    numbers = _numbers(group, wanted, planned, means, compared, references, options)
    shown = [metric for metric in options.metrics if not _says_nothing_new(numbers, metric)]
    best = {metric: number(float(numbers[metric].max())) if len(numbers) else "" for metric in shown}
    rows = [_row(row, shown, best, references, options.primary) for _, row in numbers.iterrows()]
    headings = (
        "method",
        *(metric_label(metric) for metric in shown),
        *(
            heading
            for reference in references
            for heading in (f"difference to {label(reference)}", f"p vs {label(reference)}")
        ),
        "seeds",
        "spread",
        *_SIDE.values(),
        "training s",
        "tokens",
    )
    rows += [_paper_row(row, shown, len(headings)) for row in paper]
    told = pd.DataFrame([_paper_numbers(row, options.metrics) for row in paper])
    return StudyTable(
        name=name,
        title=kind.title,
        group=group,
        headings=headings,
        rows=tuple(rows),
        numbers=pd.concat([numbers, told], ignore_index=True) if len(told) else numbers,
        cross=_cross(kind.cross, numbers, need, options.primary),
        sentences=tuple(_sentences(instances, means, need, options, how)) if kind.sample == "test" else (),
        notes=tuple(_notes(kind, wanted, planned, numbers, references, bool(paper), options)),
    )


def _numbers(
    group: Group,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    references: Sequence[str],
    options: StudyOptions,
) -> pd.DataFrame:
    """The measured rows of a table, in its order, unrounded."""
    need = group[3]
    methods = [*wanted, *dict.fromkeys(planned[Columns.METHOD])]
    order = ordered(means[Columns.METHOD], methods) if len(means) else []
    rows: list[dict[str, Any]] = []
    for key, part in means.groupby(ROW, sort=False, dropna=False):
        named = dict(zip(ROW, map(str, key), strict=True))
        method, kind, trained_on = named[Columns.METHOD], named["kind"], named["trained_on"]
        told = {str(one["metric"]): one for _, one in part.iterrows()}
        first = part.iloc[0]
        row: dict[str, Any] = {
            "source": "measured",
            "label": row_label(method, kind, trained_on, need),
            Columns.METHOD: method,
            "kind": kind,
            "trained_on": trained_on,
            "seeds": int(first["seeds"]),
            "instances": int(first["n"]),
            "users": int(first["users"]),
        }
        for metric in options.metrics:
            row[metric] = float(told[metric]["mean"])
            row |= {f"{metric}_{end}": float(told[metric][end]) for end in ("low", "high", "spread")}
        for metric in _SIDE:
            row[metric] = float(told[metric]["mean"])
        own = _compared_row(compared, named)
        for reference in references:
            found = own[own["reference"] == reference]
            for value in ("difference", "difference_low", "difference_high", "p", "paired_seeds"):
                row[f"{value}_{reference}"] = float(found[value].iloc[0]) if len(found) else float("nan")
        rows.append(row | _costs(method, kind, trained_on, planned))
    rows.sort(key=lambda row: (_KINDS.index(row["kind"]), order.index(row[Columns.METHOD]), row["trained_on"]))
    numbers = pd.DataFrame(rows)
    return _adjusted(numbers, references) if len(numbers) else pd.DataFrame(columns=[*options.metrics])


def _compared_row(compared: pd.DataFrame, named: Mapping[str, object]) -> pd.DataFrame:
    for name in ("trained_on", Columns.METHOD, "kind"):
        compared = compared[compared[name] == named[name]]
    return compared


def _adjusted(numbers: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """With Holm's correction over all tests of the table."""
    places = [(row, reference) for reference in references for row in numbers.index]
    p = [float(numbers.loc[row, f"p_{reference}"]) for row, reference in places]
    made = [place for place, value in zip(places, p, strict=True) if value == value]
    for reference in references:
        numbers[f"p_holm_{reference}"] = float("nan")
    for (row, reference), value in zip(made, holm([value for value in p if value == value]), strict=True):
        numbers.loc[row, f"p_holm_{reference}"] = value
    return numbers


def _costs(method: str, kind: str, trained_on: str, planned: pd.DataFrame) -> dict[str, float]:
    """Seconds and tokens of a training, means over its runs; the warm-up's own for the warmed-up rows."""
    nothing = {"training_seconds": float("nan"), "tokens": float("nan"), "updates": float("nan")}
    done = planned[(planned["state"] == "done") & (planned[Columns.NEED] == trained_on)]
    if kind == WARMED_UP:
        gains = method.removeprefix(WARMED_UP).removeprefix("_") or "critic"
        own = done[done["gains"].isin([gains, ""])]
        return nothing | {"training_seconds": float(own.groupby("seed")["warm_up_seconds"].first().mean())}
    if kind != TRAINED:
        return nothing
    own = done[done[Columns.METHOD] == method]
    return {
        "training_seconds": float(own["training_seconds"].mean()),
        "tokens": float((own["prompt_tokens"] + own["answer_tokens"]).mean()),
        "updates": float(own["updates"].mean()),
    }


def _says_nothing_new(numbers: pd.DataFrame, metric: str) -> bool:
    """Whether NDCG@30 repeats NDCG@10, as it does for lists of up to ten candidates."""
    return bool(
        metric == "ndcg_at_30"
        and "ndcg_at_10" in numbers
        and len(numbers)
        and numbers["ndcg_at_10"].equals(numbers[metric].rename("ndcg_at_10"))
    )


def _row(
    row: pd.Series, shown: Sequence[str], best: Mapping[str, str], references: Sequence[str], primary: str
) -> tuple[Cell, ...]:
    cells = [Cell(row["label"])]
    for metric in shown:
        text = interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
        cells.append(Cell(text, number(row[metric]) == best[metric]))
    for reference in references:
        difference = float(row[f"difference_{reference}"])
        if difference != difference:
            cells += [Cell(""), Cell("")]
            continue
        low, high = row[f"difference_low_{reference}"], row[f"difference_high_{reference}"]
        bounds = f" [{low:+.3f}, {high:+.3f}]" if low == low else ""
        fewer = int(row[f"paired_seeds_{reference}"]) < int(row["seeds"])
        seeds = f" ({int(row[f'paired_seeds_{reference}'])} seeds)" if fewer else ""
        cells += [Cell(f"{difference:+.3f}{bounds}{seeds}"), Cell(p_value(float(row[f"p_holm_{reference}"])))]
    spread = float(row[f"{primary}_spread"])
    cells += [Cell(str(row["seeds"])), Cell(number(spread) if spread == spread else "")]
    cells += [Cell(number(row[metric])) for metric in _SIDE]
    seconds, tokens = float(row["training_seconds"]), float(row["tokens"])
    cells += [Cell(f"{seconds:.0f}" if seconds == seconds else ""), Cell(readable_count(tokens))]
    return tuple(cells)


def readable_count(count: float) -> str:
    """A large number for people; nothing where it is not known."""
    if count != count:
        return ""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f}{unit}"
    return f"{count:.0f}"


def _paper_label(row: PaperRow) -> str:
    text = f"the paper: {label(row.method)}"
    if row.trained_on != row.need:
        text += f", trained on {row.trained_on}"
    return f"{text} ({row.model})" if row.model else text


def _paper_row(row: PaperRow, shown: Sequence[str], columns: int) -> tuple[Cell, ...]:
    values = [number(row.metrics[metric]) if metric in row.metrics else "" for metric in shown]
    cells = [Cell(_paper_label(row)), *map(Cell, values)]
    return (*cells, *(Cell("") for _ in range(columns - len(cells))))


def _paper_numbers(row: PaperRow, metrics: Sequence[str]) -> dict[str, object]:
    known = {metric: value for metric, value in row.metrics.items() if metric in metrics}
    return {
        "source": "paper",
        "label": _paper_label(row),
        Columns.METHOD: row.method,
        "trained_on": row.trained_on,
        **known,
    }


def _cross(cross: CrossSettings | None, numbers: pd.DataFrame, need: str, primary: str) -> tuple[tuple[str, ...], ...]:
    """The primary metric of pairs of names, with its interval; `not run` where there is none."""
    if cross is None or not len(numbers):
        return ()
    own = {row[Columns.METHOD]: row for _, row in numbers[numbers["trained_on"] == need].iterrows()}
    rows = [("", *cross.columns)]
    for name, methods in cross.rows.items():
        texts = [
            interval(*(float(own[method][key]) for key in (primary, f"{primary}_low", f"{primary}_high")))
            if method in own
            else "not run"
            for method in methods
        ]
        rows.append((name, *texts))
    return tuple(rows)


# --- Words ------------------------------------------------------------------------------------------------------------


def _sentences(
    instances: pd.DataFrame, means: pd.DataFrame, need: str, options: StudyOptions, how: Resampling
) -> list[str]:
    """Who wins without an LLM: the best row without one against the best with one."""
    primary = means[means["metric"] == options.primary]
    without, with_one = primary[primary["kind"] == BASELINE], primary[primary["kind"] != BASELINE]
    if without.empty or with_one.empty:
        return []
    # the first of equals
    simple, llm = (part.sort_values("mean", ascending=False, kind="stable").iloc[0] for part in (without, with_one))
    names = [row_label(row[Columns.METHOD], row["kind"], row["trained_on"], need) for row in (simple, llm)]
    metric = metric_label(options.primary)
    text = (
        f"Without an LLM the best row is {names[0]} with {metric} {number(float(simple['mean']))}; "
        f"with one it is {names[1]} with {number(float(llm['mean']))}"
    )
    found = compare(_instances_of(instances, llm), _instances_of(instances, simple), options.primary, how)
    if not found["paired_seeds"]:
        return [f"{text}; they have no seed in common, so they cannot be compared."]
    low, high = found["difference_low"], found["difference_high"]
    bounds = f" [{low:+.3f}, {high:+.3f}]" if low == low else ""
    p = p_value(found["p"])
    size = f"{found['difference']:+.3f}{bounds}, p {p if p.startswith('<') else f'= {p}'}"
    if found["p"] >= _SIGNIFICANT:
        verdict = f"No difference between them is clear ({size}), and {names[0]} needs no training: take that."
    elif found["difference"] > 0:
        verdict = f"The LLM is ahead ({size})."
    else:
        verdict = f"The LLM is behind ({size}): take {names[0]}."
    return [f"{text}. {verdict} Both were chosen as the best on these instances; the test does not know that."]


def _instances_of(instances: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    for name in ROW:
        instances = instances[instances[name] == row[name]]
    return instances


def _notes(
    kind: TableSettings,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    numbers: pd.DataFrame,
    references: Sequence[str],
    paper: bool,
    options: StudyOptions,
) -> list[str]:
    notes = []
    if len(numbers):
        seeds = sorted(set(planned.loc[planned["state"] == "done", "seed"]))
        most = numbers.sort_values("seeds", ascending=False, kind="stable").iloc[0]
        notes.append(
            f"{int(most['instances'])} test instances of {int(most['users'])} users over "
            f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})."
        )
        if (numbers["seeds"] > 1).any():
            notes.append(
                "A mean is the mean over seeds; its interval is a bootstrap over seeds and, within a seed, over users. "
                "The column spread is the standard deviation of the seeds' means."
            )
        if (numbers["seeds"] == 1).any():
            notes.append(
                "Rows of one seed have intervals over instances (users) only: they do not say how another training "
                "would come out."
            )
        if references:
            tests = sum(int(numbers[f"p_holm_{reference}"].notna().sum()) for reference in references)
            notes.append(
                f"Differences of {metric_label(options.primary)} are paired; p is of a sign-flip test over users for "
                f"the models that were trained, adjusted by Holm's method over the {tests} tests of this table."
            )
    else:
        notes.append("Nothing of this was measured.")
    trained = set(numbers.loc[numbers["kind"] == TRAINED, Columns.METHOD]) if len(numbers) else set()
    if absent := [name for name in wanted if name not in set(planned[Columns.METHOD])]:
        notes.append(f"Not in this study: {', '.join(label(name) for name in absent)}.")
    for _, cell in planned[(planned["state"] != "done") & planned[Columns.METHOD].isin(wanted)].iterrows():
        rest = " (the row is of the other seeds)" if cell[Columns.METHOD] in trained else ""
        notes.append(
            f"{str(cell['state']).capitalize()}: {label(cell[Columns.METHOD])} on {cell[Columns.NEED]}, "
            f"seed {cell['seed']}{rest}: {cell['reason']}"
        )
    if paper:
        notes.append(
            "Rows of the paper (arXiv 2603.11901) are its own numbers, of another base model, other instances and "
            "another budget; nothing is tested against them."
        )
    return notes


# --- Printing ---------------------------------------------------------------------------------------------------------


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
            text.add_column(escape(table.headings[place]), justify="left" if place < 2 else "right")
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
        "hours of training": float((cells["training_seconds"].sum() + _warm_up_seconds(cells)) / 3600),
    }


def _warm_up_seconds(cells: pd.DataFrame) -> float:
    """Of every warm-up once, however many cells share it."""
    shared = ["dataset", "density", "model", Columns.NEED, "gains", "seed"]
    return float(cells.drop_duplicates(shared)["warm_up_seconds"].sum())


def write_tables(tables: Sequence[StudyTable], folder: Any) -> None:
    """Write every table as CSV and as Parquet into an existing folder."""
    for table in tables:
        table.numbers.to_csv(folder / f"{table.file_name}.csv", index=False)
        table.numbers.to_parquet(folder / f"{table.file_name}.parquet")
    if not tables:
        (folder / "empty.txt").write_text("No table applies to what this study runs.\n", encoding="utf-8")
