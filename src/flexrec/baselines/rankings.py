"""Rankings of the baselines."""

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from flexrec.baselines.bert4rec import bert4rec_scores
from flexrec.baselines.factorisation import mf_scores
from flexrec.baselines.lambdamart import lambdamart_scores
from flexrec.baselines.scores import (
    Baseline,
    Scores,
    critic_scores,
    item_mean_scores,
    popularity_scores,
    random_scores,
    retriever_scores,
    star_scores,
    trend_scores,
)
from flexrec.baselines.settings import FittedSettings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.needs import Need
from flexrec.retrieval.star import StarScoringSettings

logger = logging.getLogger(__name__)

_STAR, _FITTED = StarScoringSettings(), FittedSettings()

BASELINES: Mapping[str, Baseline] = {
    "random": random_scores,
    "retriever": retriever_scores,
    "popularity": popularity_scores,
    "item_mean": item_mean_scores,
    "trend": trend_scores,
    "star": star_scores,
    "critic": critic_scores,
    "mf": mf_scores,
    "lambdamart": lambdamart_scores,
    "bert4rec": bert4rec_scores,
}
"""To add one: a function in a module of this package, and a line here."""

SAME_FOR_ALL_NEEDS = frozenset({"mf", "bert4rec"})
"""Baselines that take long and never read the need: they score once per call."""


def rank_by_score(scores: Float[np.ndarray, " K"], tie_break: np.random.Generator) -> Int[np.ndarray, " K"]:
    """Positions of the candidates, best score first; equal scores in random order.

    The order of the input plays no part: a baseline with many ties must not profit from it.

    Args:
        scores: Finite, larger is better.
        tie_break: Orders equal scores; K numbers are drawn.

    Raises:
        InputError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise InputError(f"the score of candidate {np.flatnonzero(~np.isfinite(scores))[0]} is not finite")
    return np.lexsort((tie_break.random(len(scores)), -scores))


def baseline_rankings(
    labelled_instances: pd.DataFrame,
    observations: pd.DataFrame,
    critic_predictions: pd.DataFrame,
    item_embeddings: pd.DataFrame,
    needs: Mapping[str, Need],
    *,
    methods: Sequence[str],
    gain: GainKind,
    seed: int,
    training_instances: pd.DataFrame | None = None,
    star: StarScoringSettings = _STAR,
    fitted: FittedSettings = _FITTED,
) -> pd.DataFrame:
    """Rank every instance by every method for every need; the log says how long each took.

    Args:
        labelled_instances: Table `labelled_instances`; all its rows are ranked, so pass the split that is wanted.
        observations: Table `observations`.
        critic_predictions: Table `critic_predictions`; read by `critic` and `lambdamart`.
        item_embeddings: Table `item_embeddings`; read by `star` alone.
        needs: Needs by name.
        methods: Names in `BASELINES`.
        gain: How engagement becomes gain.
        seed: Seed of the random baseline, of ties and of what is fitted, >= 0.
        training_instances: The training part of the table `labelled_instances`; read by `lambdamart` alone, which needs
            it.
        star: Weights of `star`.
        fitted: Settings of `item_mean`, `mf`, `lambdamart` and `bert4rec`.

    Returns:
        Table `rankings`, by method, need and then in the order of the instances.

    Raises:
        InputError: An unknown method, no instance, nothing to learn from, or a score that is not finite.
    """
    unknown = [name for name in methods if name not in BASELINES]
    if unknown:
        raise InputError(f"baseline {', '.join(map(repr, unknown))} is unknown; choose among {', '.join(BASELINES)}")
    if labelled_instances.empty:
        raise InputError("labelled_instances: there is no instance to rank; lower K or raise the density")
    training = labelled_instances.iloc[:0] if training_instances is None else training_instances
    tables = []
    for method in methods:
        scores: Scores | None = None
        for name, need in needs.items():
            if scores is None or method not in SAME_FOR_ALL_NEEDS:
                start = time.perf_counter()
                scores = BASELINES[method](
                    labelled_instances,
                    training_instances=training,
                    observations=observations,
                    critic_predictions=critic_predictions,
                    item_embeddings=item_embeddings,
                    need=need,
                    gain=gain,
                    strength=fitted.item_mean.strength,
                    star=star,
                    fitted=fitted,
                    seed=seed,
                )
                took = time.perf_counter() - start
                logger.info("baseline %s, %s: fitted and scored %d lists in %.2f s", method, name, len(scores), took)
            tables.append(ranked(labelled_instances, scores, method=method, need=name, seed=seed))
    return pd.concat(tables, ignore_index=True)


def ranked(labelled_instances: pd.DataFrame, scores: Scores, *, method: str, need: str, seed: int) -> pd.DataFrame:
    """Table `rankings` of one method and need, by its scores; equal ones in random order (`rank_by_score`).

    Raises:
        InputError: A score is not finite.
    """
    rows = []
    columns = (labelled_instances[Columns.INSTANCE_ID], labelled_instances[Columns.CANDIDATES])
    for instance_id, shown, values in zip(*columns, scores, strict=True):
        candidates = np.asarray(shown, dtype=np.int64)
        try:
            order = rank_by_score(values, np.random.default_rng([seed, int(instance_id), 0]))
        except InputError as error:
            raise InputError(f"baseline {method}, need {need}, instance {instance_id}: {error}") from error
        rows.append((method, need, int(instance_id), candidates[order].tolist(), candidates.tolist(), 0, 0, 0))
    names = (Columns.METHOD, Columns.NEED, Columns.INSTANCE_ID, Columns.RANKING, Columns.INPUT_ORDER)
    return pd.DataFrame(rows, columns=[*names, Columns.INVALID, Columns.REPEATED, Columns.MISSING])
