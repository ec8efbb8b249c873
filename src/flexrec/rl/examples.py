"""Training examples: a query with the gains that training may use."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.errors import InputError
from flexrec.policy.ranker import Query
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import Instance
from flexrec.ranking.needs import Need, uses_engagement

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A query and the gains of its candidates.

    Attributes:
        query: Instance and need.
        need: Name of the need.
        gains: Expected gain per candidate, >= 0: the observed label, or what stands for it.
        variances: Variance of each gain, >= 0; 0 for observed labels.
    """

    query: Query
    need: str
    gains: Float[np.ndarray, " K"]
    variances: Float[np.ndarray, " K"]


def make_examples(
    instances: Sequence[Instance], gains: pd.DataFrame, needs: Mapping[str, Need], *, mean: str, variance: str | None
) -> list[Example]:
    """Join instances with a table of gains.

    Args:
        instances: Instances by which the gains are looked up.
        gains: One row per instance and need: `instance_id`, `need`, and list columns.
        needs: The needs to keep, by name.
        mean: Column of the gains.
        variance: Column of their variances; None for gains that are known.

    Raises:
        InputError: Gains of an unknown instance, or of another length than its candidates.
    """
    known = {instance.instance_id: instance for instance in instances}
    examples = []
    for row in gains[gains[Columns.NEED].isin(list(needs))].to_dict("records"):
        identifier = int(row[Columns.INSTANCE_ID])
        instance = known.get(identifier)
        values = np.asarray(row[mean], dtype=np.float64)
        if instance is None or len(values) != len(instance.candidates):
            raise InputError(
                f"gains of instance {identifier}, need '{row[Columns.NEED]}': no such instance, or "
                "another number of candidates. Make both tables again with `--params fresh=true`."
            )
        spread = np.zeros_like(values) if variance is None else np.asarray(row[variance], dtype=np.float64)
        name = str(row[Columns.NEED])
        examples.append(Example(Query(instance, needs[name]), name, values, spread))
    return examples


def instructive(examples: Sequence[Example]) -> list[Example]:
    """The examples that a step can learn from; the log says how many are not among them.

    Where every candidate has the same gain (none at all, for instance) all rollouts have the same reward and every list
    is optimal: such a prompt would use up a part of the budget and teach nothing, by any method. And a step needs lists
    of one length: of queries with all their judged products, however few, those with as many as the longest are kept.

    Raises:
        InputError: None is left.
    """
    kept = [example for example in examples if np.ptp(example.gains) > 0]
    if not kept:
        labelled = any(uses_engagement(example.query.need) for example in examples)
        raise InputError(
            f"none of {len(examples)} training instances has candidates with different gains, so there is nothing to "
            "learn; "
            + (
                "take a method with `gains: critic` if this is none, or raise the density"
                if labelled
                else "no signal of the need tells its candidates apart: choose others in needs.yml"
            )
        )
    if len(kept) < len(examples):
        logger.info(
            "%d of %d training prompts are left out: all of their candidates have the same gain",
            len(examples) - len(kept),
            len(examples),
        )
    longest = max(len(example.gains) for example in kept)
    whole = [example for example in kept if len(example.gains) == longest]
    if len(whole) < len(kept):
        logger.info(
            "%d of %d training prompts are left out: they have fewer than %d candidates, and a step needs one number",
            len(kept) - len(whole),
            len(examples),
            longest,
        )
    return whole


def optimal_order(gains: Float[np.ndarray, " K"], rng: np.random.Generator) -> tuple[int, ...]:
    """Candidates by falling gain, equal gains in random order: in their own order they would teach to copy the input.

    Args:
        gains: Of the candidates.
        rng: Draws the order of equal gains.
    """
    shuffled = rng.permutation(len(gains))
    return tuple(shuffled[np.argsort(-gains[shuffled], kind="stable")].tolist())


def shortened(example: Example, count: int, rng: np.random.Generator) -> Example:
    """The example with `count` of its candidates, in their order; itself where it has no more.

    One of the best and one of the others are always among them, so that there is something to choose.

    Args:
        example: Its gains are not all equal.
        count: Candidates to keep, >= 2.
        rng: Draws them.
    """
    if count >= len(example.gains):
        return example
    best = example.gains == example.gains.max()
    pair = [rng.choice(np.flatnonzero(side)) for side in (best, ~best)]
    others = np.setdiff1d(np.arange(len(example.gains)), pair)
    kept = np.sort([*pair, *rng.choice(others, count - 2, replace=False)])
    instance = example.query.instance
    instance = replace(instance, candidates=tuple(instance.candidates[place] for place in kept))
    return replace(
        example,
        query=replace(example.query, instance=instance),
        gains=example.gains[kept],
        variances=example.variances[kept],
    )
