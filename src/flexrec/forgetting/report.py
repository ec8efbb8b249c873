"""Rates, perplexities and their differences between the stages of a policy."""

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexrec.errors import InputError
from flexrec.forgetting.checks import CHECKS
from flexrec.forgetting.settings import ForgettingSettings
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test
from flexrec.reporting.blocks import markdown_table, markdown_text
from flexrec.reporting.style import finish, label, looks, number, p_value, plotly_text
from flexrec.reporting.tables import facts_markdown

Results = Mapping[str, Any]


def compare_models(
    answers: pd.DataFrame, windows: pd.DataFrame, settings: ForgettingSettings, *, seed: int
) -> dict[str, Any]:
    """Summarise what the models answered and read, and compare each with those before it.

    Args:
        answers: Tables of `flexrec.forgetting.probe.ask`, one below the other: the base model first, then its stages.
        windows: Tables of `flexrec.forgetting.probe.read`, likewise.
        settings: Confidence, resamples, permutations.
        seed: Seed of both.

    Returns:
        Plain numbers, for JSON:

        - `pass_rate`, `perplexity`, `kl` (nats per token, from the base model): by model `mean`, `low`, `high`;
          percentile bootstrap over prompts or pieces; a perplexity is the exponential of the mean loss;
        - `on_topic`, `cut`: by model the share of answers that are on their topic (if there is one), and of those
          that ended at the limit;
        - `by_kind`: by kind of instruction and model, the share of answers that pass;
        - `compared`: by model and earlier model, paired: `pass_rate` and `loss` (nats per token), each with
          `difference`, `low`, `high`, `p` (sign flips; of the pass rate that is McNemar's test) and `p_holm` (Holm
          over the comparisons of the same quantity); for the pass rate also `lost` and `gained`, prompts that only
          the earlier or only the later model passes.

    Raises:
        InputError: The models were not asked the same prompts, or did not read the same pieces.
    """
    models = list(dict.fromkeys(answers["model"]))
    passed = _aligned(answers, models, "prompt", "passed")
    loss = _aligned(windows, models, "window", "loss")
    kl = _aligned(windows, models, "window", "kl")

    def spread(values: np.ndarray) -> dict[str, float]:
        mean, low, high = bootstrap_interval(
            values,
            np.arange(len(values)),
            confidence=settings.confidence,
            resamples=settings.resamples,
            seed=seed,
        )
        return {"mean": mean, "low": low, "high": high}

    compared: dict[str, dict[str, Any]] = {}
    for place, model in enumerate(models):
        for other in models[:place]:
            pair: dict[str, Any] = {}
            for name, table in (("pass_rate", passed), ("loss", loss)):
                ours, theirs = table[model], table[other]
                found = spread(ours - theirs)
                p = paired_test(ours, theirs, np.arange(len(ours)), resamples=settings.permutations, seed=seed)
                pair[name] = {"difference": found["mean"], "low": found["low"], "high": found["high"], "p": p}
            pair["pass_rate"] |= {
                "lost": int((passed[other] > passed[model]).sum()),
                "gained": int((passed[model] > passed[other]).sum()),
            }
            compared.setdefault(model, {})[other] = pair
    for name in ("pass_rate", "loss"):
        tests = [pair[name] for others in compared.values() for pair in others.values()]
        for test, adjusted in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = float(adjusted)

    kinds = [kind for kind in CHECKS if kind in set(answers["kind"])]
    shares = answers.groupby(["kind", "model"])["passed"].mean()
    means = answers.groupby("model")[["on_topic", "cut"]].mean()
    return {
        "pass_rate": {model: spread(passed[model]) for model in models},
        "perplexity": {
            model: {name: math.exp(value) for name, value in spread(loss[model]).items()} for model in models
        },
        "kl": {model: spread(kl[model]) for model in models},
        "on_topic": {model: float(means.loc[model, "on_topic"]) for model in models},
        "cut": {model: float(means.loc[model, "cut"]) for model in models},
        "by_kind": {kind: {model: float(shares[kind, model]) for model in models} for kind in kinds},
        "compared": compared,
    }


def _aligned(table: pd.DataFrame, models: list[str], key: str, value: str) -> dict[str, np.ndarray]:
    """A column by model, in the order of the key."""
    parts = {model: table[table["model"] == model].sort_values(key) for model in models}
    for model, part in parts.items():
        if part[key].tolist() != parts[models[0]][key].tolist():
            raise InputError(f"{model} and {models[0]} do not have the same {key}s; make both with the same settings")
    return {model: part[value].to_numpy(dtype=np.float64) for model, part in parts.items()}


def forgetting_text(results: Results) -> str:
    """The results as plain text: a row per model, the comparisons in words, a row per kind of instruction.

    Args:
        results: Of `compare_models`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=StringIO(), width=110, color_system=None, force_terminal=False, legacy_windows=False)

    def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for place, heading in enumerate(headings):
            table.add_column(escape(heading), justify="right" if place else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)

    for table in _tables(results):
        show(*table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join(["\n".join(lines).strip("\n"), "", *_sentences(results), ""])


def forgetting_markdown(results: Results, *, title: str, facts: Mapping[str, object]) -> str:
    """The results as a page of Markdown.

    Args:
        results: Of `compare_models`.
        title: Its heading.
        facts: What they came from.
    """
    parts = [
        f"# {markdown_text(title)}",
        "Everyday prompts whose answers a program checks, and held-out prose; how: docs/forgetting.md. A comparison is "
        "paired; intervals and tests are over prompts or pieces of text, for the models that were trained.",
        *map(markdown_text, _sentences(results)),
    ]
    for heading, headings, rows in _tables(results):
        parts += [f"## {heading}", markdown_table(headings, rows)]
    return "\n\n".join(part.strip("\n") for part in [*parts, facts_markdown(facts)]) + "\n"


def _tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of every table."""
    models = list(results["pass_rate"])
    return [
        (
            "Before and after training",
            ["model", "instructions followed", "on topic", "cut", "perplexity", "KL from base"],
            [
                [
                    label(model),
                    _spread(results["pass_rate"][model]),
                    number(results["on_topic"][model], 2),
                    number(results["cut"][model], 2),
                    _spread(results["perplexity"][model], 2),
                    _spread(results["kl"][model]),
                ]
                for model in models
            ],
        ),
        (
            "Instructions followed, by kind",
            ["kind", *map(label, models)],
            [[label(kind), *(number(row[model], 2) for model in models)] for kind, row in results["by_kind"].items()],
        ),
    ]


def _sentences(results: Results) -> list[str]:
    told = []
    for model, others in results["compared"].items():
        for other, pair in others.items():
            rate, loss = pair["pass_rate"], pair["loss"]
            told.append(
                f"{label(model)} against {label(other)}: {rate['lost']} instructions lost, {rate['gained']} gained, "
                f"{_difference(rate)}; loss on held-out text, in nats per token, {_difference(loss)}."
            )
    return told


def _difference(found: Mapping[str, float]) -> str:
    size = f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{size} (Holm p {p_value(found['p_holm'])})"


def _spread(found: Mapping[str, float], digits: int = 3) -> str:
    return f"{number(found['mean'], digits)} [{number(found['low'], digits)}, {number(found['high'], digits)}]"


def forgetting_figure(results: Results) -> go.Figure:
    """Draw the pass rate and the perplexity of every model with their intervals.

    Args:
        results: Of `compare_models`.
    """
    models = list(results["pass_rate"])
    styles = looks(models)
    panels = (("pass_rate", "share of instructions followed", 3), ("perplexity", "perplexity of held-out text", 2))
    figure = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.06)
    for column, (name, heading, digits) in enumerate(panels, start=1):
        for model in models:
            found, look = results[name][model], styles[model]
            figure.add_trace(
                go.Scatter(
                    x=[found["mean"]],
                    y=[plotly_text(look.label)],
                    error_x={
                        "array": [found["high"] - found["mean"]],
                        "arrayminus": [found["mean"] - found["low"]],
                        "thickness": 2,
                        "width": 5,
                    },
                    mode="markers+text",
                    text=[number(found["mean"], digits)],
                    textposition="top center",
                    textfont={"size": 11},
                    cliponaxis=False,
                    marker={"color": look.colour, "symbol": look.symbol, "size": 10},
                    hovertemplate=f"{plotly_text(look.label)}<br>{_spread(found, digits)}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=heading, row=1, col=column)
    labels = [plotly_text(styles[model].label) for model in models]
    figure.update_yaxes(categoryorder="array", categoryarray=labels, range=[len(labels) - 0.4, -0.7])
    said = "; ".join(
        f"{styles[model].label} follows {results['pass_rate'][model]['mean']:.0%} of the instructions, perplexity "
        f"{results['perplexity'][model]['mean']:.2f}"
        for model in models
    )
    return finish(figure, f"What is forgotten: {said}. Bars: bootstrap intervals.", height=320, legend=False)
