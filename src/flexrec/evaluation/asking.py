"""Asking a policy for more than its own test: other needs, and the same candidates shown in other orders."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.baselines import rank_by_score
from flexrec.errors import InputError
from flexrec.evaluation.llm import llm_rankings
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import Need

if TYPE_CHECKING:
    from flexrec.policy.ranker import Answer, Query, Ranker

ARRANGEMENT, TEXT = "arrangement", "text"
SHOWN, IDEAL, REVERSED = "shown", "ideal", "reversed"
RANDOM = "random"


def choose_instances(labelled_instances: pd.DataFrame, *, count: int, seed: int) -> pd.DataFrame:
    """Draw the test instances that are asked about.

    Args:
        labelled_instances: The table of that name.
        count: How many, at least 1; all where there are fewer.
        seed: Of the draw, >= 0.

    Returns:
        Rows of the table, in its order.

    Raises:
        InputError: There is no test instance.
    """
    test = labelled_instances[labelled_instances[Columns.SPLIT] == "test"]
    if test.empty:
        raise InputError("labelled_instances: there is no test instance to ask about; lower K or raise the density")
    drawn = np.random.default_rng(seed).permutation(len(test))[:count]
    return test.iloc[np.sort(drawn)].reset_index(drop=True)


def candidate_columns() -> tuple[str, ...]:
    """The columns of instances whose lists are aligned with the candidates, the critic's prediction included.

    They are the lists of its schema, those of the history excepted.
    """
    # pandera takes a while to import
    from flexrec.ranking.schemas import PromptInstances

    history = (Columns.HISTORY_ITEMS, Columns.HISTORY_ENGAGEMENTS)
    columns = PromptInstances.to_schema().columns
    return tuple(name for name, column in columns.items() if str(column.dtype) == "object" and name not in history)


def rearrange(labelled_instances: pd.DataFrame, orders: Mapping[int, Int[np.ndarray, " K"]]) -> pd.DataFrame:
    """Show the candidates of every instance in another order.

    The inverse is `rearrange` with the `argsort` of every order.

    Args:
        labelled_instances: The table of that name, any part of it.
        orders: By instance, which candidate stands at each place: a permutation of 0 to K - 1.

    Returns:
        The table with the lists of `candidate_columns` permuted, everything else as it was.

    Raises:
        InputError: An instance without an order, or an order that is no permutation of its candidates.
    """
    ids = [int(instance_id) for instance_id in labelled_instances[Columns.INSTANCE_ID]]
    for instance_id, candidates in zip(ids, labelled_instances[Columns.CANDIDATES], strict=True):
        given = orders.get(instance_id)
        if given is None or sorted(np.asarray(given).tolist()) != list(range(len(candidates))):
            found = "none" if given is None else f"{np.asarray(given).tolist()}"
            raise InputError(
                f"instance {instance_id}: an order of its {len(candidates)} candidates is a permutation of "
                f"0 to {len(candidates) - 1}, found {found}"
            )
    changed = {
        name: pd.Series(
            [np.asarray(cell)[orders[row]] for row, cell in zip(ids, labelled_instances[name], strict=True)],
            index=labelled_instances.index,
            dtype=object,
        )
        for name in candidate_columns()
        if name in labelled_instances.columns
    }
    return labelled_instances.assign(**changed)


def arrangements(random_orders: int) -> tuple[str, ...]:
    """Names of the orders that candidates are shown in, beside the one that every prompt has."""
    return (IDEAL, REVERSED, *(f"{RANDOM}_{number}" for number in range(1, random_orders + 1)))


def arranged(arrangement: str, gains: Float[np.ndarray, " K"], *, instance_id: int, seed: int) -> Int[np.ndarray, " K"]:
    """The order of one arrangement.

    `ideal` puts the largest gain first (equal gains stay in the order of the prompt, which is shuffled), `reversed` is
    the ideal order backwards, `random_<n>` is drawn by seed, instance and n.

    Raises:
        InputError: An unknown arrangement.
    """
    ideal = np.argsort(-np.asarray(gains, dtype=np.float64), kind="stable")
    if arrangement == IDEAL:
        return ideal
    if arrangement == REVERSED:
        return ideal[::-1]
    kind, _, number = arrangement.partition("_")
    if kind != RANDOM or not number.isdecimal():
        raise InputError(f"arrangement '{arrangement}' is unknown; use {IDEAL}, {REVERSED} or {RANDOM}_<number>")
    return np.random.default_rng([seed, instance_id, int(number)]).permutation(len(ideal))


def ask(
    ranker: "Ranker",
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    gains: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    rearranged_needs: Sequence[str],
    random_orders: int,
    method: str,
    seed: int,
) -> pd.DataFrame:
    """Ask a policy about the same instances under every need, and for some needs in other input orders.

    Args:
        ranker: The policy.
        labelled_instances: The instances, any part of the table of that name.
        items: The `items` table.
        gains: The `gains` table, which says what the ideal order is; needs that are not rearranged may be absent.
        needs: The needs asked for, by name.
        rearranged_needs: Those asked for in other input orders as well.
        random_orders: Further random input orders, >= 0.
        method: Name of the policy.
        seed: Of random orders, and of what completes an answer, >= 0.

    Returns:
        The `answers` table.

    Raises:
        InputError: A need that is rearranged has no gains for an instance.
    """
    parts = [_answers(ranker, labelled_instances, items, needs, method=method, arrangement=SHOWN, seed=seed)]
    for name in rearranged_needs:
        own = gains[gains[Columns.NEED] == name].set_index(Columns.INSTANCE_ID)[Columns.GAINS]
        for arrangement in arrangements(random_orders):
            orders = {}
            for instance_id in map(int, labelled_instances[Columns.INSTANCE_ID]):
                if instance_id not in own.index:
                    raise InputError(f"gains: instance {instance_id} has none for the need '{name}'")
                orders[instance_id] = arranged(arrangement, own.loc[instance_id], instance_id=instance_id, seed=seed)
            shown = rearrange(labelled_instances, orders)
            need = {name: needs[name]}
            parts.append(_answers(ranker, shown, items, need, method=method, arrangement=arrangement, seed=seed))
    return pd.concat(parts, ignore_index=True)


def random_rankings(labelled_instances: pd.DataFrame, needs: Sequence[str], *, seed: int) -> pd.DataFrame:
    """A seeded random order of every instance for every need, as the row that every other one is read against.

    Returns:
        The `rankings` table of the method `random`.
    """
    rows = []
    for name in needs:
        for instance_id, candidates in zip(
            labelled_instances[Columns.INSTANCE_ID], labelled_instances[Columns.CANDIDATES], strict=True
        ):
            shown = np.asarray(candidates, dtype=np.int64)
            order = rank_by_score(np.zeros(len(shown)), np.random.default_rng([seed, int(instance_id), 0]))
            rows.append((RANDOM, name, int(instance_id), shown[order].tolist(), shown.tolist(), 0, 0, 0))
    columns = (Columns.METHOD, Columns.NEED, Columns.INSTANCE_ID, Columns.RANKING, Columns.INPUT_ORDER)
    return pd.DataFrame(rows, columns=[*columns, Columns.INVALID, Columns.REPEATED, Columns.MISSING])


class _Remembering:
    """A ranker that keeps what it answered."""

    def __init__(self, ranker: "Ranker") -> None:
        self.answers: list[Answer] = []
        self._ranker = ranker

    def rank(self, queries: "Sequence[Query]", *, description: str) -> "list[Answer]":
        answers = self._ranker.rank(queries, description=description)
        self.answers += answers
        return answers


def _answers(
    ranker: "Ranker",
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    method: str,
    arrangement: str,
    seed: int,
) -> pd.DataFrame:
    asked = _Remembering(ranker)
    # rankings come in the order of the questions
    rankings = llm_rankings(cast("Ranker", asked), labelled_instances, items, needs, method=method, seed=seed)
    return rankings.assign(**{ARRANGEMENT: arrangement, TEXT: [answer.text for answer in asked.answers]})
