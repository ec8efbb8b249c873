"""Rankings of a language model as a table."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from flexrec.policy.ranker import Answer, Query
from flexrec.prompting import complete_order
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances
from flexrec.ranking.needs import Need

_FILL = (0, 1)
"""A stream of random numbers of its own. `[seed, instance]` has shuffled the candidates, and the same permutation twice
leads back to the retriever's order more often than chance; `[seed, instance, n]` are other orders that they are shown
in, and the same as `[seed, instance]` for n = 0."""


class Ranks(Protocol):
    """What is asked for rankings: a local policy, or an endpoint."""

    def rank(self, queries: Sequence[Query], *, description: str) -> list[Answer]:
        """One answer per query."""


def llm_rankings(
    ranker: Ranks,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    method: str,
    seed: int,
) -> pd.DataFrame:
    """Rank every instance under every need, greedily.

    Candidates that an answer leaves out are added in random order (method, section 8), seeded by instance, and
    counted as missing.

    Returns:
        The `rankings` table.
    """
    instances = read_instances(labelled_instances, items)
    rows = []
    for name, need in needs.items():
        queries = [Query(instance, need) for instance in instances]
        answers = ranker.rank(queries, description=f"{method} ranks for {name}")
        for instance, answer in zip(instances, answers, strict=True):
            item_ids = [candidate.item_id for candidate in instance.candidates]
            fill = np.random.default_rng([seed, instance.instance_id, *_FILL]).permutation(len(item_ids))
            order = complete_order(answer.order, len(item_ids), fill=fill.tolist())
            rows.append(
                {
                    Columns.METHOD: method,
                    Columns.NEED: name,
                    Columns.INSTANCE_ID: instance.instance_id,
                    Columns.RANKING: [item_ids[index] for index in order],
                    Columns.INPUT_ORDER: item_ids,
                    Columns.INVALID: answer.invalid,
                    Columns.REPEATED: answer.repeated,
                    Columns.MISSING: answer.missing,
                }
            )
    return pd.DataFrame(rows)
