"""Tables of what the probe asked of every method: other needs of the same candidates, and other input orders."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.asking import ARRANGEMENT, IDEAL, RANDOM, REVERSED, SHOWN
from flexrec.evaluation.input_order import QUALITY, TAU
from flexrec.evaluation.switching import OTHER_NEED
from flexrec.ranking.columns import Columns
from flexrec.ranking.statistics import holm
from flexrec.reporting.style import interval, metric_label, number, ordered, p_value
from flexrec.reporting.tables import Cell
from flexrec.study.collection import TRAINED, UNTRAINED, WARMED_UP
from flexrec.study.form import StudyTable
from flexrec.study.rows import counted, row_label
from flexrec.study.settings import TableSettings, regime_of
from flexrec.study.statistics import Resampling, interval_over_seeds, paired_test_over_seeds

_PLACE = ["dataset", "density", "model"]
_ROW = ["trained_on", Columns.METHOD, "kind"]
_KINDS = (UNTRAINED, WARMED_UP, TRAINED)
_NAN = float("nan")
IDEAL_LISTS = "ideal lists"


def switching_tables(
    name: str, kind: TableSettings, switching: pd.DataFrame, methods: Sequence[str], how: Resampling
) -> list[StudyTable]:
    """Whether a method's ranking changes with the instruction, and where it should.

    Args:
        name: Of the kind of table.
        kind: Its settings.
        switching: Table `study_switching`.
        methods: Methods in it, in the order of the rows.
        how: Resampling.

    Returns:
        One table per dataset, density and model: tau between the rankings for two needs beside that of the ideal lists
        (the first row), over all pairs of needs and for each, and what `switching_summary` calls `turned`, `swayed` and
        `switching`; means over seeds, intervals and tests as of every other table.
    """
    tables = []
    if kind.needs:
        switching = switching[switching[Columns.NEED].isin(kind.needs) & switching[OTHER_NEED].isin(kind.needs)]
    for place, part in _places(switching, kind, methods):
        pairs = list(part[[Columns.NEED, OTHER_NEED]].drop_duplicates().itertuples(index=False, name=None))
        rows = [_ideal_row(part, pairs)]
        for row, own in _rows(part, methods):
            rows.append({**row, **_switching_row(own, pairs, how)})
        numbers = _adjusted(pd.DataFrame(rows), ["p"])
        needs = "+".join(dict.fromkeys(need for pair in pairs for need in pair))
        tables.append(
            StudyTable(
                name=name,
                title=kind.title,
                group=(*place, needs, "probe"),
                headings=(
                    "method",
                    "tau, all pairs" if len(pairs) > 1 else "tau",
                    *(f"tau {' / '.join(pair)}" for pair in pairs if len(pairs) > 1),
                    "unmoved",
                    "turned",
                    "swayed",
                    "switching",
                    "p",
                    "seeds",
                ),
                rows=tuple(_printed_switching(row, pairs) for _, row in numbers.iterrows()),
                numbers=numbers.assign(source="measured"),
                cross=(),
                sentences=(),
                notes=(
                    _sample(part),
                    "tau: over the pairs of candidates that both needs order strictly, the share ordered alike in the "
                    "model's two rankings minus the share turned round. A model that is deaf to the instruction has 1; "
                    "to shuffle gives a small tau, too.",
                    "turned: the share turned round of the pairs that the needs order differently; swayed: of those "
                    "that they order alike; switching is their difference, 0 for a deaf model and for one that "
                    "shuffles. unmoved: comparisons with tau 1.",
                    f"p: turned against swayed, a sign-flip test over users for the models that were trained, adjusted "
                    f"by Holm's method over the {int(numbers['p'].notna().sum())} tests of this table.",
                ),
            )
        )
    return tables


def input_order_tables(
    name: str, kind: TableSettings, input_order: pd.DataFrame, methods: Sequence[str], how: Resampling
) -> list[StudyTable]:
    """How much a method depends on the order in which it is shown the candidates.

    Args:
        name: Of the kind of table.
        kind: Its settings.
        input_order: Table `study_input_order`.
        methods: Methods in it, in the order of the rows.
        how: Resampling.

    Returns:
        One table per dataset, density, model and need asked for: NDCG@5 in random input orders, and how it changes
        where the best candidates are shown first, or last.

    Raises:
        InputError: An instance was not asked about in every order.
    """
    tables = []
    for place, every in _places(input_order, kind, methods):
        for need, part in every.groupby(Columns.NEED, sort=False):
            if kind.needs and need not in kind.needs:
                continue
            rows = [{**row, **_input_order_row(own, how)} for row, own in _rows(part, methods, str(need))]
            numbers = _adjusted(pd.DataFrame(rows), [f"p_{IDEAL}", f"p_{REVERSED}"])
            tests = int(numbers[[f"p_{IDEAL}", f"p_{REVERSED}"]].notna().to_numpy().sum())
            tables.append(
                StudyTable(
                    name=name,
                    title=kind.title,
                    group=(*place, str(need), "probe"),
                    headings=(
                        "method",
                        f"{metric_label(QUALITY)}, random order",
                        "change, best shown first",
                        "p",
                        "change, best shown last",
                        "p",
                        "tau with the order",
                        "spread",
                        "seeds",
                    ),
                    rows=tuple(_printed_input_order(row) for _, row in numbers.iterrows()),
                    numbers=numbers.assign(source="measured"),
                    cross=(),
                    sentences=(),
                    notes=(
                        _sample(part),
                        "Changes are against an instance's mean over its random orders, paired; p is of a sign-flip "
                        "test over users for the models that were trained, adjusted by Holm's method over the "
                        f"{tests} tests of this table.",
                        "tau with the order: Kendall's tau of the ranking and the random orders in which the "
                        "candidates were shown. spread: the largest minus the smallest over an instance's random "
                        "orders.",
                    ),
                )
            )
    return tables


def _places(
    table: pd.DataFrame, kind: TableSettings, methods: Sequence[str]
) -> Iterator[tuple[tuple[str, float, str], pd.DataFrame]]:
    """What of a table was measured on the same instances, and belongs to this kind."""
    for key, part in table.groupby(_PLACE, sort=False):
        dataset, density, model = cast(tuple[str, float, str], key)
        if kind.regime not in (None, regime_of(density)):
            continue
        own = part[(part["kind"] != TRAINED) | part[Columns.METHOD].isin(methods)]
        if len(own):
            yield (dataset, density, model), own


def _rows(part: pd.DataFrame, methods: Sequence[str], need: str = "") -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """What is known of every row, and its instances; in the order of all tables."""
    found = []
    for (trained_on, method, kind), own in part.groupby(_ROW, sort=False):
        row = {
            "label": row_label(str(method), str(kind), str(trained_on), need),
            Columns.METHOD: str(method),
            "kind": str(kind),
            "trained_on": str(trained_on),
            "seeds": own["seed"].nunique(),
            "instances": len(own[["seed", Columns.INSTANCE_ID]].drop_duplicates()),
            "users": own[Columns.USER_ID].nunique(),
        }
        found.append((row, own))
    order = ordered([str(row[Columns.METHOD]) for row, _ in found], methods)
    place = {kind: rank for rank, kind in enumerate(_KINDS)}
    return sorted(
        found,
        key=lambda one: (
            place.get(one[0]["kind"], -1),
            order.index(one[0][Columns.METHOD]),
            one[0]["trained_on"],
        ),
    )


def _ideal_row(part: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The ideal lists of the same instances; every method that was asked about one has the same."""
    keys = ["seed", Columns.INSTANCE_ID, Columns.NEED, OTHER_NEED]
    judged = part[part["pairs"] > 0].drop_duplicates(keys)
    row: dict[str, Any] = {
        "label": IDEAL_LISTS,
        Columns.METHOD: "ideal",
        "kind": "ideal",
        "trained_on": "",
        "seeds": part["seed"].nunique(),
        "instances": len(part[["seed", Columns.INSTANCE_ID]].drop_duplicates()),
        "users": part[Columns.USER_ID].nunique(),
        "tau": _over_seeds(judged, "ideal_tau"),
        "turned": 1.0,
        "swayed": 0.0,
        "switching": 1.0,
        "p": _NAN,
    }
    for pair, own in _pairs(judged, pairs):
        row[f"tau {pair}"] = _over_seeds(own, "ideal_tau")
    return row


def _switching_row(part: pd.DataFrame, pairs: Sequence[tuple[str, str]], how: Resampling) -> dict[str, Any]:
    judged = part[part["pairs"] > 0]
    row: dict[str, Any] = dict.fromkeys(("turned", "swayed", "p", "ideal_tau", "unmoved"), _NAN)
    row |= _ends("tau", judged["tau"], judged, how) | {"ideal_tau": _over_seeds(judged, "ideal_tau")}
    row["unmoved"] = _over_seeds(judged.assign(unmoved=(judged["tau"] == 1.0).astype(np.float64)), "unmoved")
    for pair, own in _pairs(judged, pairs):
        row[f"tau {pair}"] = _over_seeds(own, "tau")
    both = judged[judged["turned"].notna() & judged["swayed"].notna()]
    row |= _ends("switching", both["turned"] - both["swayed"], both, how)
    if len(both):
        row |= {name: _over_seeds(both, name) for name in ("turned", "swayed")}
        row["p"] = _p(both["turned"], both["swayed"], both, how)
    return row


def _pairs(judged: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, pd.DataFrame]]:
    for pair in pairs:
        yield " / ".join(pair), judged[(judged[Columns.NEED] == pair[0]) & (judged[OTHER_NEED] == pair[1])]


def _input_order_row(part: pd.DataFrame, how: Resampling) -> dict[str, Any]:
    keys = ["seed", Columns.INSTANCE_ID]
    quality = part.pivot(index=keys, columns=ARRANGEMENT, values=QUALITY)
    if quality.isna().to_numpy().any() or not {SHOWN, IDEAL, REVERSED} <= set(quality.columns):
        raise InputError(
            f"study: '{part[Columns.METHOD].iloc[0]}' was not asked about every instance in every input order for need "
            f"'{part[Columns.NEED].iloc[0]}'; run its probe again with one number of random orders"
        )
    known = part.drop_duplicates(keys).set_index(keys).loc[quality.index].reset_index()
    drawn = [name for name in quality.columns if name == SHOWN or str(name).startswith(f"{RANDOM}_")]
    base = quality[drawn].mean(axis=1).reset_index(drop=True)
    tau = part[part[ARRANGEMENT].isin(drawn)]
    row = _ends(RANDOM, base, known, how) | {"tau": _over_seeds(tau, TAU)}
    spread = (quality[drawn].max(axis=1) - quality[drawn].min(axis=1)).to_numpy()
    row["spread"] = _over_seeds(known.assign(spread=spread), "spread") if len(drawn) > 1 else _NAN
    for arrangement in (IDEAL, REVERSED):
        shown = quality[arrangement].reset_index(drop=True)
        row[arrangement] = _over_seeds(known.assign(shown=shown), "shown")
        row |= _ends(f"change_{arrangement}", shown - base, known, how)
        row[f"p_{arrangement}"] = _p(shown, base, known, how)
    return row


def _over_seeds(table: pd.DataFrame, column: str) -> float:
    """Mean over seeds of the means over instances."""
    return float(table.groupby("seed")[column].mean().mean())


def _ends(name: str, values: "pd.Series[float]", table: pd.DataFrame, how: Resampling) -> dict[str, float]:
    """The mean over seeds and its interval."""
    found: tuple[float, ...] = (_NAN, _NAN, _NAN)
    if len(values):
        found = interval_over_seeds(
            values.to_numpy(dtype=np.float64),
            table["seed"].to_numpy(),
            table[Columns.USER_ID].to_numpy(),
            confidence=how.confidence,
            resamples=how.resamples,
            seed=how.seed,
        )
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _p(a: "pd.Series[float]", b: "pd.Series[float]", table: pd.DataFrame, how: Resampling) -> float:
    return paired_test_over_seeds(
        a.to_numpy(dtype=np.float64),
        b.to_numpy(dtype=np.float64),
        table["seed"].to_numpy(),
        table[Columns.USER_ID].to_numpy(),
        resamples=how.permutations,
        seed=how.seed,
    )


def _adjusted(numbers: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """With Holm's correction over all tests of the table."""
    tests = numbers[list(columns)].to_numpy(dtype=np.float64)
    made = ~np.isnan(tests)
    adjusted = np.full(tests.shape, _NAN)
    if made.any():
        adjusted[made] = holm(tests[made])
    return numbers.assign(**{f"{name}_holm": adjusted[:, place] for place, name in enumerate(columns)})


def _sample(part: pd.DataFrame) -> str:
    count = len(part[["seed", Columns.INSTANCE_ID]].drop_duplicates())
    seeds = sorted(set(part["seed"]))
    return (
        f"{count} instances of {part[Columns.USER_ID].nunique()} users that the probe drew, over "
        f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})."
    )


def _text(row: "pd.Series[Any]", name: str) -> str:
    """A mean with its interval, where there is one."""
    value = float(row[name])
    if value != value:
        return ""
    low, high = (float(row.get(f"{name}_{end}", _NAN)) for end in ("low", "high"))
    return interval(value, low, high) if low == low else number(value)


def _change(row: "pd.Series[Any]", name: str) -> str:
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low == low else "")


def _printed_switching(row: "pd.Series[Any]", pairs: Sequence[tuple[str, str]]) -> tuple[Cell, ...]:
    single = [f"tau {' / '.join(pair)}" for pair in pairs] if len(pairs) > 1 else []
    p = float(row["p_holm"])
    names = ("tau", *single, "unmoved", "turned", "swayed", "switching")
    return (
        Cell(str(row["label"])),
        *(Cell(_text(row, name)) for name in names),
        Cell(p_value(p) if p == p else ""),
        Cell(str(row["seeds"])),
    )


def _printed_input_order(row: "pd.Series[Any]") -> tuple[Cell, ...]:
    changes = [
        Cell(text)
        for arrangement in (IDEAL, REVERSED)
        for text in (_change(row, f"change_{arrangement}"), p_value(float(row[f"p_{arrangement}_holm"])))
    ]
    return (
        Cell(str(row["label"])),
        Cell(_text(row, RANDOM)),
        *changes,
        Cell(_text(row, "tau")),
        Cell(_text(row, "spread")),
        Cell(str(row["seeds"])),
    )
