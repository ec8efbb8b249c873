"""How much a ranker depends on the order in which it is shown the candidates."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.asking import ARRANGEMENT, IDEAL, RANDOM, REVERSED, SHOWN, TEXT
from flexrec.evaluation.rankings import evaluate_rankings
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.needs import Need
from flexrec.ranking.statistics import bootstrap_interval, holm, paired_test

QUALITY, TAU = "ndcg_at_5", "kendall_tau"

COLUMNS = (
    Columns.METHOD,
    Columns.NEED,
    ARRANGEMENT,
    "mean",
    "low",
    "high",
    "change",
    "change_low",
    "change_high",
    "p",
    "p_holm",
    "tau",
    "tau_low",
    "tau_high",
    "spread",
    "n",
    "users",
)


def input_order_metrics(
    answers: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    kind: GainKind,
    threshold: float,
) -> pd.DataFrame:
    """Score every answer in every input order.

    Args:
        answers: The `answers` table; needs that are not given are passed over.
        labelled_instances: The table of that name.
        true_labels: The table of that name.
        needs: The needs that were asked for in several input orders, by name.
        kind: How engagement becomes gain.
        threshold: Raw engagement from which a candidate is relevant.

    Returns:
        One row per method, need, arrangement and instance: those, `user_id`, `ndcg_at_5` and `kendall_tau` (with the
        order of that prompt).

    Raises:
        InputError: As `evaluate_rankings`.
    """
    asked = answers[answers[Columns.NEED].isin(needs)]
    parts = [
        evaluate_rankings(
            group.drop(columns=[ARRANGEMENT, TEXT]),
            labelled_instances,
            true_labels,
            needs,
            kind=kind,
            threshold=threshold,
        ).assign(**{ARRANGEMENT: arrangement})
        for arrangement, group in asked.groupby(ARRANGEMENT, sort=False)
    ]
    columns = [Columns.METHOD, Columns.NEED, ARRANGEMENT, Columns.INSTANCE_ID, Columns.USER_ID, QUALITY, TAU]
    return pd.concat(parts, ignore_index=True)[columns]


def input_order_summary(
    metrics: pd.DataFrame, *, confidence: float = 0.95, resamples: int = 2000, permutations: int = 10000, seed: int
) -> pd.DataFrame:
    """Compare the ideal and the reversed input order with random ones, users as units.

    The reference is an instance's mean over all its random input orders, the prompt's own (`shown`) among them.

    Args:
        metrics: Table of `input_order_metrics`.
        confidence: Coverage of the percentile bootstrap intervals, in (0, 1).
        resamples: Bootstrap resamples of the users.
        permutations: Sign flips of the paired test.
        seed: Seed of both.

    Returns:
        One row per method, need and arrangement (`random`, `ideal`, `reversed`): mean NDCG@5 with `low` and `high`;
        `change` from `random` with its paired interval, `p` (two-sided, clustered by user) and `p_holm` (over the
        whole table), missing for `random` itself; `tau`, the mean of Kendall's tau with the order of the prompt, with
        its interval; `spread`, for `random` with several orders, the mean over instances of the largest minus the
        smallest NDCG@5; `n` instances and `users`.

    Raises:
        InputError: An instance was not asked in every arrangement.
    """
    rows = []
    for (method, need), group in metrics.groupby([Columns.METHOD, Columns.NEED], sort=False):
        quality = group.pivot(index=Columns.INSTANCE_ID, columns=ARRANGEMENT, values=QUALITY)
        tau = group.pivot(index=Columns.INSTANCE_ID, columns=ARRANGEMENT, values=TAU)
        if quality.isna().to_numpy().any() or not {SHOWN, IDEAL, REVERSED} <= set(quality.columns):
            raise InputError(
                f"input orders: '{method}' was not asked about every instance in every order for need '{need}'; "
                "make the answers again"
            )
        user_of = group.drop_duplicates(Columns.INSTANCE_ID).set_index(Columns.INSTANCE_ID)[Columns.USER_ID]
        users = user_of.loc[quality.index].to_numpy()
        drawn = [name for name in quality.columns if name == SHOWN or str(name).startswith(f"{RANDOM}_")]
        base = quality[drawn].mean(axis=1).to_numpy()

        interval = partial(bootstrap_interval, clusters=users, confidence=confidence, resamples=resamples, seed=seed)
        for arrangement in (RANDOM, IDEAL, REVERSED):
            random = arrangement == RANDOM
            scores = base if random else quality[arrangement].to_numpy()
            follows = tau[drawn].mean(axis=1) if random else tau[arrangement]
            spread = quality[drawn].max(axis=1) - quality[drawn].min(axis=1)
            row: dict[str, object] = {Columns.METHOD: method, Columns.NEED: need, ARRANGEMENT: arrangement}
            row |= dict(zip(("mean", "low", "high"), interval(scores), strict=True))
            row |= dict(zip(("tau", "tau_low", "tau_high"), interval(follows.to_numpy()), strict=True))
            row |= {"n": len(base), "users": len(np.unique(users))}
            if random and len(drawn) > 1:
                row["spread"] = float(spread.mean())
            if not random:
                row |= dict(zip(("change", "change_low", "change_high"), interval(scores - base), strict=True))
                row["p"] = paired_test(scores, base, users, resamples=permutations, seed=seed)
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [name for name in COLUMNS[3:] if name not in ("n", "users")]
    table[numbers] = table[numbers].astype(np.float64)
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy())
    return table
