"""How far above the mean of an item anybody could rank by engagement, if more of it were observed.

Most are oracles: they read what training may not. None but those of the baselines is a row of another table.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from flexrec.baselines.factorisation import Known, factorised_scores, shown_history
from flexrec.baselines.rankings import ranked
from flexrec.baselines.scores import item_mean_scores
from flexrec.baselines.settings import FittedSettings
from flexrec.critic.completion import aligned_predictions
from flexrec.critic.factorisation import fit_factorisation
from flexrec.errors import InputError
from flexrec.evaluation.rankings import evaluate_rankings
from flexrec.evaluation.summary import summarise
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind, engagement_gain
from flexrec.ranking.needs import EngagementRelevance, Factor, Need, Term

logger = logging.getLogger(__name__)

OfItems = Literal["observed", "all"]
"""The interactions of training users that items are known by."""

OfUser = Literal["nothing", "shown", "observed", "everything"]
"""What the asking user is known by: the history of the request, all that is observed of it before, or all of its
interactions at any time but those with the candidates."""

METRICS = ("ndcg_at_5", "ndcg_at_10")
ENGAGEMENT = "engagement"
_NEED = Need(
    instruction="engagement itself",
    terms=(Term(factors=(Factor(signal="engagement"),)),),
    relevant=EngagementRelevance(),
)


@dataclass(frozen=True)
class Knowledge:
    """One row: what is known of the items, and of the user who asks, and what makes a ranking of it."""

    items: OfItems
    user: OfUser
    ranker: Literal["item mean", "factorisation", "critic"]

    @property
    def name(self) -> str:
        """Of the row in tables of numbers."""
        return "critic" if self.ranker == "critic" else f"items_{self.items}-user_{self.user}"


CRITIC = Knowledge("observed", "shown", "critic")
_GRID = tuple(
    Knowledge(items, user, "item mean" if user == "nothing" else "factorisation")
    for items in get_args(OfItems)
    for user in get_args(OfUser)
)
ROWS = (*_GRID[:2], CRITIC, *_GRID[2:])
"""The first three are the baselines `item_mean`, `mf` and `critic`."""

REFERENCE = ROWS[0].name


def headroom_metrics(
    held_out: pd.DataFrame,
    true_labels: pd.DataFrame,
    training: pd.DataFrame,
    own: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    *,
    gain: GainKind,
    threshold: float,
    fitted: FittedSettings,
    seed: int,
) -> pd.DataFrame:
    """Rank the instances of held-out users by every amount of knowledge, and score the rankings.

    A row that knows nothing of the user ranks by the shrunken mean gain of an item, as the baseline `item_mean` does;
    the others by biased matrix factorisation with the user folded in, as the baseline `mf` does: with what is observed
    and the shown history they are those baselines. The critic's own prediction stands beside them.

    Args:
        held_out: Table `labelled_instances`, validation and test instances only.
        true_labels: Table `true_labels`.
        training: All interactions of training users with `observed` and `split`, in the order of the events.
        own: All interactions of the users who ask, likewise.
        critic_predictions: Table `critic_predictions`.
        gain: How engagement becomes gain.
        threshold: Raw engagement from which a candidate is relevant.
        fitted: Of the baselines: those of the factorisation and of the item mean are read.
        seed: Of its first vectors and of ties, >= 0.

    Returns:
        Table `instance_metrics`, whose methods are the names of `ROWS`.

    Raises:
        InputError: No instance, no interaction to learn from, or an instance that the critic has not predicted.
    """
    if held_out.empty:
        raise InputError("labelled_instances: there is no instance of a held-out user; lower K or raise the density")
    observed = training[training[Columns.OBSERVED].to_numpy(bool)]
    if observed.empty:
        raise InputError("observations: no interaction of a training user is observed; raise the density")
    known_users: dict[OfUser, Known] = {
        "shown": shown_history(held_out, gain),
        "observed": _own(held_out, own, gain, hindsight=False),
        "everything": _own(held_out, own, gain, hindsight=True),
    }
    predicted, _ = aligned_predictions(held_out, critic_predictions)
    rankings = [ranked(held_out, predicted, method=CRITIC.name, need=ENGAGEMENT, seed=seed)]
    for items, known in (("observed", observed), ("all", training.assign(**{Columns.OBSERVED: True}))):
        model = fit_factorisation(
            known[Columns.USER_ID].to_numpy(np.int64),
            known[Columns.ITEM_ID].to_numpy(np.int64),
            engagement_gain(known[Columns.ENGAGEMENT].to_numpy(np.float64), gain),
            fitted.mf,
            seed=seed,
        )
        for row in (row for row in ROWS if row.items == items and row is not CRITIC):
            if row.user == "nothing":
                scores = item_mean_scores(held_out, observations=known, gain=gain, strength=fitted.item_mean.strength)
            else:
                scores = factorised_scores(held_out, model, known_users[row.user])
            rankings.append(ranked(held_out, scores, method=row.name, need=ENGAGEMENT, seed=seed))
        logger.info("headroom: items known by %d interactions (%s)", len(known), items)
    return evaluate_rankings(
        pd.concat(rankings, ignore_index=True),
        held_out,
        true_labels[true_labels[Columns.INSTANCE_ID].isin(held_out[Columns.INSTANCE_ID])],
        {ENGAGEMENT: _NEED},
        kind=gain,
        threshold=threshold,
    )


def compare_headroom(instance_metrics: pd.DataFrame, resampling: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise what `headroom_metrics` found, every row against the item mean of what is observed.

    Args:
        instance_metrics: Of `headroom_metrics`.
        resampling: Confidence, resamples, permutations and seed, as `summarise` takes them.

    Returns:
        Plain numbers, for JSON: `instances`, `users`, and `rows`: by name, and by metric `mean`, `low`, `high`
        (percentile bootstrap over users); for NDCG@5 of all but the reference also `difference`, `difference_low`,
        `difference_high`, `p` (paired sign flips per user) and `p_holm` (Holm over the rows).
    """
    summary = summarise(
        instance_metrics,
        references={row.name: (REFERENCE,) for row in ROWS[1:]},
        metrics=METRICS,
        tested=METRICS[:1],
        **resampling,
    )
    rows: dict[str, Any] = {}
    numbers = ("mean", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm")
    for row in summary.to_dict("records"):
        found = {name: float(row[name]) for name in numbers if row[name] == row[name]}
        rows.setdefault(row[Columns.METHOD], {})[row["metric"]] = found
    return {"instances": int(summary["n"].max()), "users": int(summary["users"].max()), "rows": rows}


def _own(held_out: pd.DataFrame, own: pd.DataFrame, gain: GainKind, *, hindsight: bool) -> Known:
    """The interactions of the users who ask; never one with a candidate."""
    by_user = dict(iter(own.groupby(Columns.USER_ID)))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    ]
    asked = (held_out[name] for name in (Columns.USER_ID, Columns.QUERY_TIME, Columns.CANDIDATES))
    for place, (user, time, candidates) in enumerate(zip(*asked, strict=True)):
        if user not in by_user:
            continue
        rows = by_user[user]
        items = rows[Columns.ITEM_ID].to_numpy(np.int64)
        keep = ~np.isin(items, np.asarray(candidates, dtype=np.int64))
        if not hindsight:
            keep &= rows[Columns.OBSERVED].to_numpy(bool) & (rows[Columns.TIMESTAMP].to_numpy(np.int64) < time)
        gains = engagement_gain(rows[Columns.ENGAGEMENT].to_numpy(np.float64)[keep], gain)
        parts.append((np.full(keep.sum(), place), items[keep], gains))
    return Known(*(np.concatenate(column) for column in zip(*parts, strict=True)))
