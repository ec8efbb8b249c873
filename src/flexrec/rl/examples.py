"""Training examples: a query with the gains that training may use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from flexrec.errors import InputError
from flexrec.policy.ranker import Query
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import Instance
from flexrec.ranking.needs import Need


@dataclass(frozen=True)
class Example:
    """A query and the gains of its candidates.

    Attributes:
        query: Instance and need.
        need: Name of the need.
        gains: Expected gain per candidate, >= 0: the observed label, or the critic's mean.
        variances: Variance of each gain, >= 0; 0 for observed labels.
    """

    query: Query
    need: str
    gains: Float[np.ndarray, " K"]
    variances: Float[np.ndarray, " K"]

    @property
    def best_order(self) -> tuple[int, ...]:
        """Candidates by falling gain; equal gains in candidate order, which is random."""
        return tuple(int(index) for index in np.argsort(-self.gains, kind="stable"))


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
