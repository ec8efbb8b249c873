"""The rows of a table of a study: as numbers, and as they are printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.ranking.statistics import holm
from flexrec.reporting.style import interval, label, metric_label, number, ordered, p_value
from flexrec.reporting.tables import Cell
from flexrec.study.collection import BASELINE, OTHER, TRAINED, UNTRAINED, WARMED_UP
from flexrec.study.paper import PaperRow
from flexrec.study.settings import CrossSettings
from flexrec.study.statistics import GROUP, ROW, where

_OF_ROW = [name for name in ROW if name not in GROUP]
_KINDS = (BASELINE, OTHER, UNTRAINED, WARMED_UP, TRAINED)
SIDE = {"invalid_rate": "invalid", "kendall_tau": "tau"}
"""Metrics that every table has beside those of its study, and their headings."""


def row_label(method: str, kind: str, trained_on: str, need: str) -> str:
    """The name of a row: its method, and the need it was trained for where that is another."""
    text = label(method)
    if kind == WARMED_UP and method != WARMED_UP:
        text = f"{label(WARMED_UP)}, {label(method.removeprefix(f'{WARMED_UP}_'))}"
    return text if trained_on in ("", need) else f"{text}, trained on {trained_on}"


def of_most_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the most seeds: the mean of fewer is about other trainings and users, and may be the easier ones.

    Args:
        rows: With a column `seeds`.
    """
    return rows[rows["seeds"] == rows["seeds"].max()]


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def measured_rows(
    need: str,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
    references: Sequence[str],
    metrics: Sequence[str],
) -> pd.DataFrame:
    """The measured rows of a table, in its order, unrounded."""
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
        for metric in metrics:
            row[metric] = float(told[metric]["mean"])
            row |= {f"{metric}_{end}": float(told[metric][end]) for end in ("low", "high", "spread")}
        for metric in SIDE:
            row[metric] = float(told[metric]["mean"])
        own = where(compared, {Columns.METHOD: method, "kind": kind, "trained_on": trained_on})
        for reference in references:
            found = own[own["reference"] == reference]
            for value in ("difference", "difference_low", "difference_high", "p", "paired_seeds"):
                row[f"{value}_{reference}"] = float(found[value].iloc[0]) if len(found) else float("nan")
        rows.append(row | _costs(method, kind, trained_on, planned))
    rows.sort(key=lambda row: (_KINDS.index(row["kind"]), order.index(row[Columns.METHOD]), row["trained_on"]))
    numbers = pd.DataFrame(rows)
    return _adjusted(numbers, references, need) if len(numbers) else pd.DataFrame(columns=[*metrics])


def _adjusted(numbers: pd.DataFrame, references: Sequence[str], need: str) -> pd.DataFrame:
    """With Holm's correction over all tests of the table."""
    tests = made_tests(numbers, references, need)
    p = {pair: float(numbers.loc[places[0][0], f"p_{places[0][1]}"]) for pair, places in tests.items()}
    for reference in references:
        numbers[f"p_holm_{reference}"] = float("nan")
    for pair, value in zip(tests, holm(list(p.values())), strict=True):
        for row, reference in tests[pair]:
            numbers.loc[row, f"p_holm_{reference}"] = value
    return numbers


def made_tests(
    numbers: pd.DataFrame, references: Sequence[str], need: str
) -> dict[frozenset[object], list[tuple[Any, str]]]:
    """The tests of a table, and where each stands: two reference rows are compared once, and it stands at both.

    Args:
        numbers: Rows of a table with `p_<reference>`, NaN where there is no test.
        references: Methods.
        need: Of the table.

    Returns:
        By the pair of rows, or of a row and a reference that is none of them: index of the row and reference.
    """
    own = numbers["trained_on"].isin(["", need])
    rows = {reference: numbers.index[own & (numbers[Columns.METHOD] == reference)] for reference in references}
    tests: dict[frozenset[object], list[tuple[Any, str]]] = {}
    for reference in references:
        other = rows[reference][0] if len(rows[reference]) else reference
        for row in numbers.index[numbers[f"p_{reference}"].notna()]:
            tests.setdefault(frozenset((row, other)), []).append((row, reference))
    return tests


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


def says_nothing_new(numbers: pd.DataFrame, metric: str) -> bool:
    """Whether NDCG@30 repeats NDCG@10, as it does for lists of up to ten candidates."""
    return bool(
        metric == "ndcg_at_30"
        and "ndcg_at_10" in numbers
        and len(numbers)
        and numbers["ndcg_at_10"].equals(numbers[metric].rename("ndcg_at_10"))
    )


def printed_row(
    row: pd.Series, shown: Sequence[str], best: Mapping[str, str], references: Sequence[str], primary: str
) -> tuple[Cell, ...]:
    """The cells of a measured row."""
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
        seeds = f" ({counted(int(row[f'paired_seeds_{reference}']), 'seed')})" if fewer else ""
        cells += [Cell(f"{difference:+.3f}{bounds}{seeds}"), Cell(p_value(float(row[f"p_holm_{reference}"])))]
    spread = float(row[f"{primary}_spread"])
    cells += [Cell(str(row["seeds"])), Cell(number(spread) if spread == spread else "")]
    cells += [Cell(number(row[metric])) for metric in SIDE]
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


def printed_paper_row(row: PaperRow, shown: Sequence[str], columns: int) -> tuple[Cell, ...]:
    """The cells of a row of the paper; those of what it does not say are empty."""
    values = [number(row.metrics[metric]) if metric in row.metrics else "" for metric in shown]
    cells = [Cell(_paper_label(row)), *map(Cell, values)]
    return (*cells, *(Cell("") for _ in range(columns - len(cells))))


def paper_numbers(row: PaperRow, metrics: Sequence[str]) -> dict[str, object]:
    """A row of the paper among the measured ones."""
    known = {metric: value for metric, value in row.metrics.items() if metric in metrics}
    return {
        "source": "paper",
        "label": _paper_label(row),
        Columns.METHOD: row.method,
        "trained_on": row.trained_on,
        **known,
    }


def seed_table(numbers: pd.DataFrame, instances: pd.DataFrame, primary: str) -> tuple[tuple[str, ...], ...]:
    """The mean of the primary metric of every measured row with every seed; empty where there is one seed.

    A mean over seeds does not tell a method that always learns a little from one that learns with half of them.
    """
    seeds = sorted(instances["seed"].unique()) if len(instances) else []
    if len(seeds) < 2:
        return ()
    means = instances.groupby([*_OF_ROW, "seed"], dropna=False)[primary].mean()
    rows = [(f"{metric_label(primary)} by seed", *(f"seed {seed}" for seed in seeds))]
    for label_of_row, *key in numbers[["label", *_OF_ROW]].itertuples(index=False):
        values = (float(means.get((*key, seed), float("nan"))) for seed in seeds)
        rows.append((str(label_of_row), *(number(value) if value == value else "" for value in values)))
    return tuple(rows)


def cross_table(
    cross: CrossSettings | None, numbers: pd.DataFrame, need: str, primary: str
) -> tuple[tuple[str, ...], ...]:
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
