"""Metrics of every ranked instance against the true labels of held-out users."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from flexrec.errors import InputError
from flexrec.ranking import metrics
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain
from flexrec.ranking.instances import CANDIDATE_SIGNALS
from flexrec.ranking.needs import Need, need_gains


@dataclass(frozen=True)
class _Labelled:
    """A held-out instance with the true engagement of its candidates."""

    instance_id: int
    user_id: int
    candidates: Int[np.ndarray, " K"]
    engagement: Float[np.ndarray, " K"]
    signals: Mapping[str, Float[np.ndarray, " K"]]


@dataclass(frozen=True)
class _Judged:
    """Gains and relevance of the candidates of one instance for one need, in the order of its candidates."""

    gains: Float[np.ndarray, " K"]
    relevant: Bool[np.ndarray, " K"]


def true_gains(
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    needs: Mapping[str, Need],
    kind: GainKind,
) -> pd.DataFrame:
    """Compute every need's true gains for the candidates of the instances that have true labels.

    Args:
        labelled_instances: The `labelled_instances` table; its training instances are passed over.
        true_labels: The `true_labels` table, validation and test instances only.
        needs: The needs by name.
        kind: How engagement becomes gain.

    Returns:
        The `gains` table: `instance_id`, `need`, `gains` (aligned with the candidates), sorted by need and instance.

    Raises:
        InputError: An instance with true labels is unknown, is a training instance, or has another number of labels
            than candidates.
    """
    instances = list(_read_labelled(labelled_instances, true_labels))
    rows = [
        (instance.instance_id, name, _gains(need, instance, kind))
        for name, need in needs.items()
        for instance in instances
    ]
    return pd.DataFrame(rows, columns=[Columns.INSTANCE_ID, Columns.NEED, Columns.GAINS])


def evaluate_rankings(
    rankings: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    kind: GainKind,
    threshold: float,
) -> pd.DataFrame:
    """Score every ranking with the true labels.

    A ranking is scored in full: nothing is dropped or repaired here, so each has to be a permutation of the candidates
    of its instance. The three rates are counts of invalid, repeated and missing identifiers per candidate.

    Args:
        rankings: The `rankings` table.
        labelled_instances: The `labelled_instances` table.
        true_labels: The `true_labels` table (raw engagement).
        needs: The needs by name; every need of `rankings` must be among them.
        kind: How engagement becomes gain.
        threshold: Raw engagement from which a candidate is relevant, for needs with the rule `engagement`.

    Returns:
        The `instance_metrics` table, one row per row of `rankings` and in its order. `ndcg_at_30` is over
        `min(30, K)` positions.

    Raises:
        InputError: An unknown need or instance, a ranking or input order that is not a permutation of the candidates,
            or two rankings of one instance by one method for one need; the message names method, need and instance.
    """
    keys = [Columns.METHOD, Columns.NEED, Columns.INSTANCE_ID]
    twice = rankings.duplicated(keys)
    if twice.any():
        method, need, instance_id = rankings.loc[twice, keys].iloc[0]
        raise InputError(
            f"rankings: method '{method}' ranks instance {instance_id} twice for need '{need}'; keep one row."
        )
    instances = {one.instance_id: one for one in _read_labelled(labelled_instances, true_labels)}
    judged: dict[tuple[str, int], _Judged] = {}
    by_size: dict[int, list[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = {}
    users = np.zeros(len(rankings), dtype=np.int64)
    sizes = np.zeros(len(rankings), dtype=np.int64)

    columns = [rankings[name] for name in (*keys, Columns.RANKING, Columns.INPUT_ORDER)]
    for row, (method, need_name, instance_id, ranking, input_order) in enumerate(zip(*columns, strict=True)):
        where = f"rankings: method '{method}', need '{need_name}', instance {instance_id}"
        if need_name not in needs:
            raise InputError(f"{where}: unknown need; the needs are {', '.join(needs)}.")
        if instance_id not in instances:
            raise InputError(
                f"{where}: no true labels for this instance; only validation and test instances can be evaluated."
            )
        instance = instances[instance_id]
        if (need_name, instance_id) not in judged:
            need = needs[need_name]
            gains = _gains(need, instance, kind)
            relevant = metrics.relevance(need, gains, instance.engagement, threshold)
            judged[need_name, instance_id] = _Judged(gains, relevant)
        known = judged[need_name, instance_id]
        positions = _positions(np.asarray(ranking), instance.candidates, f"{where}: the ranking")
        shown = _positions(np.asarray(input_order), instance.candidates, f"{where}: the input order")
        users[row], sizes[row] = instance.user_id, len(positions)
        by_size.setdefault(len(positions), []).append(
            (row, known.gains[positions], known.relevant[positions], positions, shown)
        )

    values = {name: np.zeros(len(rankings)) for name in _RANKED_METRICS}
    for group in by_size.values():
        rows, gains, relevant, ranked, shown = (np.stack(part) for part in zip(*group, strict=True))
        for name, values_of in _RANKED_METRICS.items():
            values[name][rows] = values_of(gains, relevant, ranked, shown)
    counts = {
        f"{name}_rate": rankings[name].to_numpy(dtype=np.float64) / np.maximum(sizes, 1)
        for name in (Columns.INVALID, Columns.REPEATED, Columns.MISSING)
    }
    table = rankings[keys].reset_index(drop=True)
    return table.assign(**{Columns.USER_ID: users}, **values, **counts)


# each takes ranked gains, ranked relevance, ranking and input order, all "n K"
_RANKED_METRICS = {
    "ndcg_at_5": lambda gains, relevant, ranked, shown: metrics.ndcg(gains, 5),
    "ndcg_at_10": lambda gains, relevant, ranked, shown: metrics.ndcg(gains, 10),
    "ndcg_at_30": lambda gains, relevant, ranked, shown: metrics.ndcg(gains, 30),
    "recall_at_5": lambda gains, relevant, ranked, shown: metrics.recall(relevant, 5),
    "precision_at_5": lambda gains, relevant, ranked, shown: metrics.precision(relevant, 5),
    "mrr_at_5": lambda gains, relevant, ranked, shown: metrics.mrr(relevant, 5),
    "kendall_tau": lambda gains, relevant, ranked, shown: metrics.kendall_tau(ranked, shown),
}


def _read_labelled(labelled_instances: pd.DataFrame, true_labels: pd.DataFrame) -> Iterator[_Labelled]:
    """Join the held-out instances with their labels, sorted by instance."""
    by_id = labelled_instances.set_index(Columns.INSTANCE_ID)
    labels = true_labels.sort_values(Columns.INSTANCE_ID)
    for instance_id, engagement in zip(labels[Columns.INSTANCE_ID], labels[Columns.ENGAGEMENT], strict=True):
        where = f"true_labels: instance {instance_id}"
        if instance_id not in by_id.index:
            raise InputError(f"{where} is not in labelled_instances; make both tables in one run.")
        row = by_id.loc[instance_id]
        if row[Columns.SPLIT] == "train":
            raise InputError(f"{where} is a training instance; only validation and test labels belong here.")
        candidates = np.asarray(row[Columns.CANDIDATES], dtype=np.int64)
        values = np.asarray(engagement, dtype=np.float64)
        if values.shape != candidates.shape:
            raise InputError(f"{where} has {len(values)} labels for {len(candidates)} candidates.")
        signals: dict[str, np.ndarray] = {name: np.asarray(row[name], dtype=np.float64) for name in CANDIDATE_SIGNALS}
        yield _Labelled(int(instance_id), int(row[Columns.USER_ID]), candidates, values, signals)


def _gains(need: Need, instance: _Labelled, kind: GainKind) -> Float[np.ndarray, " K"]:
    signals = {**instance.signals, Columns.ENGAGEMENT: engagement_gain(instance.engagement, kind)}
    return need_gains(need, signals)[0]


def _positions(order: Int[np.ndarray, " K"], candidates: Int[np.ndarray, " K"], where: str) -> Int[np.ndarray, " K"]:
    """Index of each ordered item among the candidates; refuses what is not a permutation of them."""
    if order.shape != candidates.shape or not np.array_equal(np.sort(order), np.sort(candidates)):
        unknown = [int(item) for item in order if item not in candidates]
        absent = [int(item) for item in candidates if item not in order]
        raise InputError(
            f"{where} is not a permutation of the {len(candidates)} candidates: it has {len(order)} items, "
            f"unknown {unknown[:5]}, absent {absent[:5]}. Complete rankings before they are evaluated."
        )
    by_id = np.argsort(candidates)
    return by_id[np.searchsorted(candidates, order, sorter=by_id)]
