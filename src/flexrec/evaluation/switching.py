"""Whether one model changes its ranking with the instruction, and changes it where it should."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import ALL_NEEDS
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test

OTHER_NEED = "other_need"

COLUMNS = (
    Columns.METHOD,
    Columns.NEED,
    OTHER_NEED,
    "tau",
    "tau_low",
    "tau_high",
    "ideal_tau",
    "correlation",
    "unmoved",
    "n",
    "users",
    "turned",
    "swayed",
    "switching",
    "switching_low",
    "switching_high",
    "p",
    "p_holm",
    "n_switching",
)


def pair_agreement(
    ranking: Int[np.ndarray, " K"],
    other_ranking: Int[np.ndarray, " K"],
    gains: Float[np.ndarray, " K"],
    other_gains: Float[np.ndarray, " K"],
) -> dict[str, float]:
    r"""Compare two rankings of the same candidates with the two ideal lists, pair by pair.

    Only pairs of candidates count that both needs order strictly. No tie is broken: where a need does not care which
    of two candidates comes first, no order of them is right or wrong. Over those P pairs

    .. math:: \tau = \frac{\#\text{alike} - \#\text{turned round}}{P}

    for the model's two rankings and for the two ideal ones. Without ties it is Kendall's tau; of ideal lists with ties
    it is Goodman and Kruskal's gamma.

    Args:
        ranking: Candidates by index, best first, for one need.
        other_ranking: The same for the other need.
        gains: True gains of the candidates under the one need.
        other_gains: The same for the other need.

    Returns:
        `pairs` (P); `tau` and `ideal_tau` in [-1, 1]; `turned`, the share of the pairs that the needs order
        differently which the model turns round; `swayed`, the share of the pairs that they order alike which it turns
        round all the same. NaN where there is no such pair.

    Raises:
        InputError: The four are not aligned, or a ranking is no permutation.

    Source: Kendall (1938), Biometrika 30; Goodman and Kruskal (1954), JASA 49, for ties.
    """
    K = len(gains)
    if len(other_gains) != K or any(sorted(map(int, one)) != list(range(K)) for one in (ranking, other_ranking)):
        raise InputError(f"two rankings and two lists of gains of the same {K} candidates are needed")
    first, second = np.triu_indices(K, 1)
    # at which place a candidate stands, as the inverse of a permutation
    places, other_places = np.argsort(ranking), np.argsort(other_ranking)
    alike = (places[first] < places[second]) == (other_places[first] < other_places[second])
    wanted = np.sign(gains[first] - gains[second]) * np.sign(other_gains[first] - other_gains[second])
    judged, to_turn, to_keep = wanted != 0, wanted < 0, wanted > 0
    return {
        "pairs": float(judged.sum()),
        "tau": _mean(np.where(alike, 1.0, -1.0)[judged]),
        "ideal_tau": _mean(wanted[judged]),
        "turned": _mean(~alike[to_turn]),
        "swayed": _mean(~alike[to_keep]),
    }


def switching(rankings: pd.DataFrame, gains: pd.DataFrame, labelled_instances: pd.DataFrame) -> pd.DataFrame:
    """Compare every model's rankings for every pair of needs, instance by instance.

    Args:
        rankings: The `rankings` table.
        gains: The `gains` table with every need of the rankings; its order is that of the pairs.
        labelled_instances: The table of that name, for candidates and users.

    Returns:
        One row per method, pair of needs and instance: `method`, `need`, `other_need`, `instance_id`, `user_id` and
        what `pair_agreement` returns.

    Raises:
        InputError: An instance or its gains are missing, or an instance was ranked for one need of a pair only.
    """
    needs = [name for name in dict.fromkeys(gains[Columns.NEED]) if (rankings[Columns.NEED] == name).any()]
    gains_of = {
        (str(need), int(instance_id)): np.asarray(values, dtype=np.float64)
        for need, instance_id, values in _cells(gains, Columns.NEED, Columns.INSTANCE_ID, Columns.GAINS)
    }
    columns = (Columns.INSTANCE_ID, Columns.USER_ID, Columns.CANDIDATES)
    known = {
        int(instance_id): (int(user), {int(item): place for place, item in enumerate(candidates)})
        for instance_id, user, candidates in _cells(labelled_instances, *columns)
    }
    rows = []
    for method, group in rankings.groupby(Columns.METHOD, sort=False):
        by_need: dict[str, dict[int, Sequence[int]]] = {need: {} for need in needs}
        for need, instance_id, ranking in _cells(group, Columns.NEED, Columns.INSTANCE_ID, Columns.RANKING):
            if (str(need), int(instance_id)) not in gains_of or int(instance_id) not in known:
                raise InputError(
                    f"rankings: '{method}' ranks instance {instance_id} for '{need}', of which there are no gains or "
                    "no candidates; make the tables in one run"
                )
            by_need[str(need)][int(instance_id)] = ranking
        for need, other in combinations(needs, 2):
            if by_need[need].keys() != by_need[other].keys():
                raise InputError(f"rankings: '{method}' ranks other instances for '{need}' than for '{other}'")
            for instance_id in sorted(by_need[need]):
                user, place_of = known[instance_id]
                compared = pair_agreement(
                    *(np.array([place_of[int(item)] for item in by_need[one][instance_id]]) for one in (need, other)),
                    *(gains_of[one, instance_id] for one in (need, other)),
                )
                rows.append((method, need, other, instance_id, user, *compared.values()))
    names = (Columns.METHOD, Columns.NEED, OTHER_NEED, Columns.INSTANCE_ID, Columns.USER_ID)
    return pd.DataFrame(rows, columns=[*names, "pairs", "tau", "ideal_tau", "turned", "swayed"])


def switching_summary(
    table: pd.DataFrame, *, confidence: float = 0.95, resamples: int = 2000, permutations: int = 10000, seed: int
) -> pd.DataFrame:
    """Average the comparisons over instances, users as units.

    A model that is deaf to the instruction has `tau` 1 and switches by 0. One that turns pairs round at random has a
    small tau too, so tau alone proves nothing: `switching` = `turned` - `swayed` is 0 for both, and 1 for the ideal
    lists.

    Args:
        table: Table of `switching`.
        confidence: Coverage of the percentile bootstrap intervals, in (0, 1).
        resamples: Bootstrap resamples of the users.
        permutations: Sign flips of the paired test.
        seed: Seed of both.

    Returns:
        One row per method and pair of needs, and, where there are several pairs, one per method over all of them
        (`need` and `other_need` are `all`): mean `tau` with its interval, mean `ideal_tau`, their Pearson
        `correlation` over instances (NaN where one is constant), `unmoved` (share of instances with tau 1), `n`
        comparisons with a pair to judge and their `users`; mean `turned`, `swayed` and `switching` with its interval
        over the `n_switching` instances that have pairs of both kinds, `p` of turned against swayed (two-sided,
        paired, clustered by user) and `p_holm` (over the pairs of needs; the row `all` is adjusted among its own
        kind).
    """
    rows: list[Mapping[str, object]] = []
    for method, group in table.groupby(Columns.METHOD, sort=False):
        pairs = list(group.groupby([Columns.NEED, OTHER_NEED], sort=False))
        parts = [*pairs, *([((ALL_NEEDS, ALL_NEEDS), group)] if len(pairs) > 1 else [])]
        for (need, other), part in parts:
            names = {Columns.METHOD: method, Columns.NEED: need, OTHER_NEED: other}
            rows.append(names | _summary(part, confidence, resamples, permutations, seed))
    summary = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [name for name in COLUMNS[3:] if name not in ("n", "users", "n_switching")]
    summary[numbers] = summary[numbers].astype(np.float64)
    for _, tested in summary[summary["p"].notna()].groupby(summary[Columns.NEED] == ALL_NEEDS):
        summary.loc[tested.index, "p_holm"] = holm(tested["p"].to_numpy())
    return summary


def _summary(
    part: pd.DataFrame, confidence: float, resamples: int, permutations: int, seed: int
) -> dict[str, float | int]:
    interval = partial(bootstrap_interval, confidence=confidence, resamples=resamples, seed=seed)
    judged = part[part["pairs"] > 0]
    both = judged[judged["turned"].notna() & judged["swayed"].notna()]
    row: dict[str, float | int] = {
        "n": len(judged),
        "users": judged[Columns.USER_ID].nunique(),
        "n_switching": len(both),
    }
    if len(judged):
        tau, ideal = judged["tau"].to_numpy(), judged["ideal_tau"].to_numpy()
        row |= dict(zip(("tau", "tau_low", "tau_high"), interval(tau, judged[Columns.USER_ID].to_numpy()), strict=True))
        row |= {"ideal_tau": _mean(ideal), "unmoved": _mean(tau == 1.0)}
        if np.ptp(tau) > 0 and np.ptp(ideal) > 0:
            row["correlation"] = float(np.corrcoef(tau, ideal)[0, 1])
    if len(both):
        turned, swayed, users = (both[name].to_numpy() for name in ("turned", "swayed", Columns.USER_ID))
        bounds = interval(turned - swayed, users)
        row |= dict(zip(("switching", "switching_low", "switching_high"), bounds, strict=True))
        row |= {
            "turned": _mean(turned),
            "swayed": _mean(swayed),
            "p": paired_test(turned, swayed, users, resamples=permutations, seed=seed),
        }
    return row


def _cells(table: pd.DataFrame, *columns: str) -> Iterator[tuple]:
    return zip(*(table[name] for name in columns), strict=True)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
