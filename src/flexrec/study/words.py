"""What a table of a study shows in words: who wins without an LLM, and how to read the rows."""

from collections.abc import Collection, Sequence

import pandas as pd

from flexrec.ranking.columns import Columns
from flexrec.reporting.style import label, metric_label, number, p_value
from flexrec.study.collection import BASELINE, TRAINED
from flexrec.study.rows import counted, made_tests, of_most_seeds, row_label
from flexrec.study.settings import StudyOptions
from flexrec.study.statistics import ROW, Resampling, compare, where

_SIGNIFICANT = 0.05


def sentences(
    instances: pd.DataFrame, means: pd.DataFrame, need: str, options: StudyOptions, how: Resampling
) -> list[str]:
    """Who wins without an LLM: the best row without one against the best with one, of those that have all seeds."""
    primary = means[means["metric"] == options.primary]
    without, with_one = (
        of_most_seeds(primary[same]) for same in (primary["kind"] == BASELINE, primary["kind"] != BASELINE)
    )
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
    found = compare(where(instances, dict(llm[ROW])), where(instances, dict(simple[ROW])), options.primary, how)
    if not found["paired_seeds"]:
        return [f"{text}; they have no seed in common, so they cannot be compared."]
    low, high = found["difference_low"], found["difference_high"]
    bounds = f" [{low:+.3f}, {high:+.3f}]" if low == low else ""
    p = p_value(found["p"])
    size = f"{found['difference']:+.3f}{bounds}, p {p if p.startswith('<') else f'= {p}'}"
    if found["paired_seeds"] < max(simple["seeds"], llm["seeds"]):
        size += f", with {counted(int(found['paired_seeds']), 'seed')} that both have"
    # p is about other users for these trainings; the interval is about other trainings, too
    clear = found["p"] < _SIGNIFICANT and not low <= 0.0 <= high
    if not clear:
        verdict = f"No difference between them is clear ({size}), and {names[0]} needs no language model: take that."
    elif found["difference"] > 0:
        verdict = f"The LLM is ahead ({size})."
    else:
        verdict = f"The LLM is behind ({size}): take {names[0]}."
    return [f"{text}. {verdict} Both were chosen as the best on these instances; the test does not know that."]


def notes_of(
    need: str,
    wanted: Sequence[str],
    planned: pd.DataFrame,
    numbers: pd.DataFrame,
    references: Sequence[str],
    paper: bool,
    options: StudyOptions,
    own_warm_up: Collection[str] = (),
) -> list[str]:
    """What was measured, how to read it, and what is not there."""
    notes = []
    if len(numbers):
        seeds = sorted(set(planned.loc[planned["state"] == "done", "seed"]))
        most = numbers.sort_values("seeds", ascending=False, kind="stable").iloc[0]
        notes.append(
            f"{int(most['instances'])} test instances of {int(most['users'])} users over "
            f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})."
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
            tests = len(made_tests(numbers, references, need))
            notes.append(
                f"Differences of {metric_label(options.primary)} are paired; p is of a sign-flip test over users for "
                f"the models that were trained, adjusted by Holm's method over the {tests} tests of this table."
            )
    else:
        notes.append("Nothing of this was measured.")
    trained = set(numbers.loc[numbers["kind"] == TRAINED, Columns.METHOD]) if len(numbers) else set()
    if taught := [name for name in wanted if name in trained and name in own_warm_up]:
        notes.append(
            f"Training seconds of {', '.join(label(name) for name in taught)} include its own warm-up; tokens do not."
        )
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
