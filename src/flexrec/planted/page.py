"""The study as a page: every question, the measured answer, and the tables behind it; no number is typed by hand."""

from collections.abc import Iterable

import pandas as pd

from flexrec.planted.answers import Answers
from flexrec.planted.settings import ComparisonSettings, PlantedSettings, ReportedStatistics, ShowingSettings


def planted_page(results: pd.DataFrame, rates: pd.DataFrame, settings: PlantedSettings) -> str:
    """The whole study as Markdown.

    Args:
        results: The `planted_results` table.
        rates: The `planted_rates` table.
        settings: What was run.
    """
    answers = Answers(results, rates, settings.statistics)
    world, learner = settings.world, settings.learner
    tail = settings.tail.candidates or world.candidates
    parts = [
        "# The planted-truth study",
        "A fabricated world in which true gains, errors and their variances are known. Written by code from "
        "`planted_results` and `planted_rates`; the settings are those of `parameters_planted.yml`.",
        f"K = {world.candidates} candidates ({tail} for the tail), {world.train} requests to train on and {world.test} "
        f"held-out ones per seed; {learner.steps} steps of {learner.prompts_per_step} requests x {learner.rollouts} "
        f"rollouts where nothing else is said. Intervals: bootstrap over seeds, {settings.statistics.confidence:.0%}; "
        "p: paired sign-flip test over seeds, Holm-adjusted over the comparisons of one measure in an experiment, at "
        "one choice of the learning rate. A difference is "
        f"called one below p = {settings.statistics.significant:g}.",
        *answers.few_seeds(),
        *_section(
            "1 Which reward learns fastest at equal tokens?",
            [
                _size(settings, settings.rewards),
                *answers.claim("rewards"),
                *answers.comparison("rewards"),
                *answers.edges("rewards"),
            ],
            *answers.comparison_tables("rewards"),
        ),
        *_section(
            "2 Does weighting by uncertainty help where it should, and harm nowhere?",
            answers.uncertainty(),
            answers.uncertainty_table(),
        ),
        *_section(
            "3 What does a policy trained for one need do when asked for another?",
            answers.transfer(),
            answers.transfer_table(),
        ),
        *_section(
            f"4 Does pooled normalisation silence the tail (K = {tail})?",
            [_size(settings, settings.tail), *answers.claim("tail"), *answers.tail(), *answers.edges("tail")],
            *answers.comparison_tables("tail"),
        ),
        *_section(
            "5 Do tokens that name no item need the list's advantage?",
            [
                "The policy first writes which group of features it looks at (taste, trend or quality).",
                _size(settings, settings.reasoning),
                *answers.comparison("reasoning"),
                *answers.comparison("reasoning", "final ndcg_at_5"),
                *answers.edges("reasoning"),
            ],
            *answers.comparison_tables("reasoning"),
        ),
        *_section("6 Why: where do the rewards push, and how noisily?", answers.gradients(), answers.gradients_table()),
        *_section(
            "7 Is it better to reward lists than to show the best ones?",
            [
                _size(settings, settings.showing),
                _warm_up(settings.showing),
                *answers.showing(),
                *answers.edges("showing"),
            ],
            answers.showing_table(),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def planted_text(results: pd.DataFrame, rates: pd.DataFrame, statistics: ReportedStatistics) -> str:
    """The answers as plain text, for the end of a run on a terminal."""
    answers = Answers(results, rates, statistics)
    groups = {
        "rewards": [*answers.claim("rewards"), *answers.comparison("rewards")],
        "uncertainty": answers.uncertainty(),
        "transfer": answers.transfer(),
        "tail": [*answers.claim("tail"), *answers.tail()],
        "reasoning": answers.comparison("reasoning"),
        "gradients": answers.gradients(),
        "showing": answers.showing(),
    }
    if few := answers.few_seeds():
        groups = {"too few seeds": few, **groups}
    lines = [f"{name}\n" + "\n".join(f"  {line.replace('*', '')}" for line in told) for name, told in groups.items()]
    return "\n\n".join(lines) + "\n"


def _size(settings: PlantedSettings, comparison: ComparisonSettings) -> str:
    """What was trained, in a sentence."""
    learner = settings.learner
    return (
        f"Need {comparison.need}: {comparison.steps or learner.steps} steps of "
        f"{comparison.prompts_per_step or learner.prompts_per_step} requests x {learner.rollouts} rollouts x "
        f"{comparison.candidates or settings.world.candidates} items, {comparison.seeds.count} seeds; learning rates "
        f"chosen among {', '.join(f'{rate:g}' for rate in comparison.rates)} on {comparison.tuning.count} other seeds."
    )


def _warm_up(showing: ShowingSettings) -> str:
    """What all variants start from, in a sentence."""
    warm_up = showing.warm_up
    requests = " or ".join(f"{count:,}" for count in showing.requests)
    return (
        f"All start from the same policies, warmed up with {warm_up.steps} steps of {warm_up.lists} shown lists (rate "
        f"{warm_up.learning_rate:g}), and train on {requests} requests. Shown is the list that is optimal under the "
        "gains of training."
    )


def _section(title: str, sentences: Iterable[str], *tables: str) -> list[str]:
    return [f"## {title}", "\n".join(f"- {sentence}" for sentence in sentences), *tables]
