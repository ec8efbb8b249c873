"""Ranking metrics, vectorised over instances; `ranked` always means in ranked order, position 0 first.

Conventions that hold for all of them: a cutoff k above K means K; no metric is ever NaN, an instance on which a
metric is undefined (no gain, nothing relevant, a single candidate) counts as 0.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from flexrec.errors import InputError
from flexrec.ranking.gains import checked_gains, cutoff, dcg, ideal_dcg
from flexrec.ranking.needs import EngagementRelevance, Need


def ndcg(ranked_gains: Float[np.ndarray, "*batch K"], k: int | None = None) -> Float[np.ndarray, "*batch"]:
    r"""Normalised discounted cumulative gain.

    .. math:: \mathrm{NDCG@}k = \frac{\sum_{i=1}^{\min(k,K)} d_i g_i}{\mathrm{IDCG@}k}, \qquad d_i = 1/\log_2(i+1)

    The gains are used as they are; apply `engagement_gain` first for the exponential form. With k = None this is the
    reward J(y) of the method.

    Edge cases:
        - every gain 0: the value is 0;
        - tied gains may stand in any order without changing the value;
        - k above K is K.

    Args:
        ranked_gains: Gains of all K candidates in ranked order, finite, not negative.
        k: Cutoff, at least 1; None means K.

    Returns:
        Values in [0, 1]; 1 for an ideal order.

    Raises:
        InputError: If a gain is negative or not finite, or the cutoff is below 1.

    Source: Järvelin and Kekäläinen (2002), "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4).
    """
    reached = dcg(ranked_gains, k)
    ideal = ideal_dcg(ranked_gains, k)
    share = np.divide(reached, ideal, out=np.zeros_like(ideal), where=ideal > 0.0)
    # a sum in another order may end one rounding error above the ideal
    return np.minimum(share, 1.0)


def recall(ranked_relevant: Bool[np.ndarray, "*batch K"], k: int) -> Float[np.ndarray, "*batch"]:
    r"""Share of the relevant candidates that stand among the first k.

    .. math:: \mathrm{R@}k = \frac{|\{i \le k : \mathrm{rel}_i\}|}{|\{i \le K : \mathrm{rel}_i\}|}

    Edge cases:
        - nothing relevant: 0 (not NaN, so that instances stay in the mean);
        - more than k relevant: 1 cannot be reached, the denominator is not cut to k.

    Args:
        ranked_relevant: Relevance of all K candidates in ranked order.
        k: Cutoff, at least 1.

    Returns:
        Values in [0, 1].

    Raises:
        InputError: If the relevance is not boolean or the cutoff is below 1.
    """
    relevant = _checked_relevance(ranked_relevant)
    hits = relevant[..., : cutoff(k, relevant.shape[-1])].sum(axis=-1)
    return hits / np.maximum(relevant.sum(axis=-1), 1)


def precision(ranked_relevant: Bool[np.ndarray, "*batch K"], k: int) -> Float[np.ndarray, "*batch"]:
    r"""Share of the first k that is relevant.

    .. math:: \mathrm{P@}k = \frac{|\{i \le \min(k, K) : \mathrm{rel}_i\}|}{\min(k, K)}

    Edge cases:
        - k above K divides by K, unlike trec_eval, which divides by k.

    Args:
        ranked_relevant: Relevance of all K candidates in ranked order.
        k: Cutoff, at least 1.

    Returns:
        Values in [0, 1].

    Raises:
        InputError: If the relevance is not boolean or the cutoff is below 1.
    """
    relevant = _checked_relevance(ranked_relevant)
    return relevant[..., : cutoff(k, relevant.shape[-1])].mean(axis=-1)


def mrr(ranked_relevant: Bool[np.ndarray, "*batch K"], k: int) -> Float[np.ndarray, "*batch"]:
    r"""Reciprocal rank of the first relevant candidate among the first k.

    .. math:: \mathrm{RR@}k = 1 / \min\{i \le k : \mathrm{rel}_i\}

    The mean over instances is the MRR.

    Edge cases:
        - nothing relevant among the first k: 0.

    Args:
        ranked_relevant: Relevance of all K candidates in ranked order.
        k: Cutoff, at least 1.

    Returns:
        Values in {0} and [1/k, 1].

    Raises:
        InputError: If the relevance is not boolean or the cutoff is below 1.

    Source: Voorhees (1999), "The TREC-8 question answering track report".
    """
    relevant = _checked_relevance(ranked_relevant)
    head = relevant[..., : cutoff(k, relevant.shape[-1])]
    return np.where(head.any(axis=-1), 1.0 / (head.argmax(axis=-1) + 1.0), 0.0)


def kendall_tau(
    ranking: Int[np.ndarray, "*batch K"], input_order: Int[np.ndarray, "*batch K"]
) -> Float[np.ndarray, "*batch"]:
    r"""Rank correlation of an answer with the order in which the candidates were shown.

    .. math:: \tau = \frac{C - D}{K (K - 1) / 2}

    with C and D the numbers of candidate pairs that the two orders sort alike and unlike. A reranker that copies its
    input has 1; with shuffled candidates an honest one is near 0.

    Edge cases:
        - a single candidate has no pair: 0;
        - ids are distinct, so there are no ties and tau-a equals tau-b.

    Args:
        ranking: Item ids, best first.
        input_order: The same item ids in the order of the prompt.

    Returns:
        Values in [-1, 1].

    Raises:
        InputError: If the two are not permutations of the same distinct ids.

    Source: Kendall (1938), "A new measure of rank correlation", Biometrika 30.
    """
    ranks = np.asarray(ranking)
    shown = np.asarray(input_order)
    if ranks.ndim == 0 or ranks.shape != shown.shape:
        raise InputError(f"a ranking of shape {ranks.shape} cannot be compared with {shown.shape}")
    K = ranks.shape[-1]
    if K < 1:
        raise InputError("a ranking needs at least one candidate")
    by_id, shown_by_id = np.argsort(ranks, axis=-1), np.argsort(shown, axis=-1)
    ids = np.take_along_axis(ranks, by_id, axis=-1)
    if (ids != np.take_along_axis(shown, shown_by_id, axis=-1)).any() or (ids[..., 1:] == ids[..., :-1]).any():
        raise InputError("a ranking and its input order must be permutations of the same distinct item ids")
    if K == 1:
        return np.zeros(ranks.shape[:-1])
    # position in the prompt of the item at each rank
    positions = np.empty_like(by_id)
    np.put_along_axis(positions, by_id, shown_by_id, axis=-1)
    alike = np.zeros(ranks.shape[:-1], dtype=np.int64)
    # a loop over K keeps the memory at the size of the input, not K times that
    for k in range(K - 1):
        alike += (positions[..., k + 1 :] > positions[..., k : k + 1]).sum(axis=-1)
    return 4.0 * alike / (K * (K - 1)) - 1.0


def relevance(
    need: Need,
    gains: Float[np.ndarray, "*batch K"],
    engagement: Float[np.ndarray, "*batch K"] | None,
    threshold: float | None,
) -> Bool[np.ndarray, "*batch K"]:
    r"""Which candidates count as relevant (for recall, precision and MRR).

    Rule `engagement`: raw engagement r >= threshold. Rule `top` with count c: the c best gains of the instance.

    Edge cases of `top`:
        - a gain of 0 is never relevant;
        - every candidate tied with the c-th best is relevant, so that the answer does not depend on the order in which
          the candidates stand;
        - c above K is K.

    Args:
        need: Its `relevant` rule is used.
        gains: Gains of all candidates under this need, in any order.
        engagement: Raw engagement (before the gain transform), aligned with `gains`; only for rule `engagement`.
        threshold: The dataset's relevance threshold on raw engagement; only for rule `engagement`.

    Returns:
        Relevance aligned with `gains`.

    Raises:
        InputError: If the rule `engagement` misses its inputs or they are NaN, or gains are negative or not finite.

    Source: method section 2; the rules were chosen to match the random rates of the paper's tables.
    """
    values = checked_gains(gains)
    rule = need.relevant
    if isinstance(rule, EngagementRelevance):
        if engagement is None or threshold is None:
            raise InputError("the relevance rule 'engagement' needs the raw engagement and the dataset's threshold")
        raw = np.asarray(engagement, dtype=np.float64)
        if raw.shape != values.shape:
            raise InputError(f"engagement of shape {raw.shape} is not aligned with gains of shape {values.shape}")
        if np.isnan(raw).any():
            raise InputError("relevance by engagement needs the true engagement of every candidate; found NaN")
        return raw >= threshold
    c = cutoff(rule.count, values.shape[-1])
    worst = -np.partition(-values, c - 1, axis=-1)[..., c - 1 : c]
    return (values >= worst) & (values > 0.0)


def _checked_relevance(relevant: Bool[np.ndarray, "*batch K"]) -> Bool[np.ndarray, "*batch K"]:
    values = np.asarray(relevant)
    if values.dtype != np.bool_ or values.ndim == 0:
        raise InputError(
            f"relevance must be an array of booleans with a candidate axis, not {values.dtype} of shape {values.shape}"
        )
    return values
