"""A few ranked instances to look at, chosen without looking at how good they make a method appear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances


@dataclass(frozen=True)
class ExampleCandidate:
    """A candidate as the prompt shows it, with its true gain beside it."""

    item_id: int
    title: str
    topics: tuple[str, ...]
    signals: Mapping[str, float]
    gain: float


@dataclass(frozen=True)
class RankingExample:
    """One instance and the orders that several methods gave it.

    `candidates` stand in the order of the prompt, `history` holds (title, engagement) with the most recent item last,
    `orders` the item ids, best first, by method (earliest stage first), `ndcg_at_5` the score of each order.
    """

    need: str
    instance_id: int
    history: tuple[tuple[str, float], ...]
    candidates: tuple[ExampleCandidate, ...]
    orders: Mapping[str, tuple[int, ...]]
    ndcg_at_5: Mapping[str, float]


def select_examples(
    rankings: pd.DataFrame,
    instance_metrics: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    gains: pd.DataFrame,
    *,
    need: str,
    methods: Sequence[str],
    count: int = 4,
) -> list[RankingExample]:
    """Choose instances at even steps between the largest improvement and the largest loss.

    The change is NDCG@5 of the last method minus the first; with `count` = 4 the instances are the best one, those at
    one and two thirds, and the worst one. The choice has no random part.

    Args:
        rankings: The `rankings` table.
        instance_metrics: The `instance_metrics` table of the same rankings.
        labelled_instances: The `labelled_instances` table.
        items: The `items` table.
        gains: The `gains` table of `flexrec.evaluation.true_gains`.
        need: The need shown.
        methods: Methods shown, from before to after; at least two.
        count: Number of examples, fewer where there are fewer instances.

    Returns:
        Examples from the largest gain to the largest loss; none where no instance was ranked by all the methods.

    Raises:
        InputError: Fewer than two methods or a negative `count`.
    """
    if len(methods) < 2 or count < 0:
        raise InputError(
            f"examples need at least two methods and a count that is not negative, got {list(methods)}, {count}."
        )
    keys = [Columns.METHOD, Columns.INSTANCE_ID]
    scores = instance_metrics[instance_metrics[Columns.NEED] == need]
    scores = scores[scores[Columns.METHOD].isin(methods)]
    table = scores.pivot(index=Columns.INSTANCE_ID, columns=Columns.METHOD, values="ndcg_at_5").dropna()
    if table.empty or not set(methods) <= set(table.columns):
        return []
    change = (table[methods[-1]] - table[methods[0]]).sort_index()
    best_first = change.sort_values(ascending=False, kind="stable").index.to_numpy()
    places = np.unique(np.linspace(0, len(best_first) - 1, count).round().astype(int))
    chosen = best_first[places]

    rows = rankings[(rankings[Columns.NEED] == need) & rankings[Columns.INSTANCE_ID].isin(chosen)]
    rows = rows.set_index(keys)
    gains_of = gains[gains[Columns.NEED] == need].set_index(Columns.INSTANCE_ID)[Columns.GAINS]
    wanted = labelled_instances[labelled_instances[Columns.INSTANCE_ID].isin(chosen)]
    instances = {one.instance_id: one for one in read_instances(wanted, items)}
    return [
        RankingExample(
            need=need,
            instance_id=int(instance_id),
            history=tuple((item.title, item.engagement) for item in instances[instance_id].history),
            candidates=tuple(
                ExampleCandidate(one.item_id, one.title, one.topics, one.signals, float(gain))
                for one, gain in zip(instances[instance_id].candidates, gains_of.loc[instance_id], strict=True)
            ),
            orders={
                name: tuple(int(item) for item in rows.loc[(name, instance_id), Columns.RANKING]) for name in methods
            },
            ndcg_at_5={name: float(table.loc[instance_id, name]) for name in methods},
        )
        for instance_id in chosen
    ]
