import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.ranking.needs import (
    SIGNALS,
    EngagementRelevance,
    Factor,
    Need,
    Term,
    TopRelevance,
    need_gains,
    select_needs,
    uses_engagement,
)

# the needs of the method, section 2
METHOD = yaml.safe_load(
    """
interest:
  instruction: Rank by how much the user will enjoy the item.
  terms:
    - factors: [{signal: engagement}]
  relevant: {rule: engagement}
explore:
  instruction: Rank by fit, and prefer what is new to the user.
  terms:
    - factors:
        - {signal: similarity}
        - {signal: niche, scale: 0.6, offset: 1.0}
  relevant: {rule: top, count: 6}
trend:
  instruction: Rank by fit and by what is popular right now.
  terms:
    - {weight: 0.5, factors: [{signal: similarity, normalise: minmax}]}
    - {weight: 0.5, factors: [{signal: trend, normalise: minmax}]}
  relevant: {rule: top, count: 6}
"""
)
NEEDS = {name: Need.model_validate(spec) for name, spec in METHOD.items()}


def test_signals_of_the_contract():
    assert SIGNALS == ("engagement", "similarity", "niche", "trend", "popularity", "quality", "recency")


def test_interest_is_the_engagement_gain_with_its_variance():
    mean, variance = need_gains(NEEDS["interest"], {"engagement": np.array([31.0, 2.5])}, np.array([0.0, 4.0]))
    assert mean.tolist() == [31.0, 2.5]
    assert variance.tolist() == [0.0, 4.0]
    assert uses_engagement(NEEDS["interest"])


def test_explore_by_hand():
    signals = {"similarity": np.array([0.5, 0.5, -0.2, 0.25]), "niche": np.array([0.0, 1.0, 1.0, 1.0])}
    mean, variance = need_gains(NEEDS["explore"], signals, np.ones(4))
    # .5 * 1, .5 * 1.6, max(0, -.2 * 1.6), .25 * 1.6
    assert mean == pytest.approx([0.5, 0.8, 0.0, 0.4], rel=1e-15)
    assert variance.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert not uses_engagement(NEEDS["explore"])


def test_trend_by_hand():
    signals = {"similarity": np.array([0.2, 0.6, 0.4]), "trend": np.array([10.0, 0.0, 5.0])}
    mean, variance = need_gains(NEEDS["trend"], signals)
    # min-max of similarity 0, 1, .5; of the count 1, 0, .5
    assert mean == pytest.approx([0.5, 0.5, 0.5], rel=1e-15)
    assert variance.tolist() == [0.0, 0.0, 0.0]


def test_a_constant_column_gives_zero_under_minmax():
    signals = {"similarity": np.array([0.2, 0.6, 0.4]), "trend": np.array([3.0, 3.0, 3.0])}
    with np.errstate(all="raise"):
        mean, _ = need_gains(NEEDS["trend"], signals)
    assert mean == pytest.approx([0.0, 0.5, 0.25], rel=1e-15)


def test_minmax_is_taken_within_each_instance():
    signals = {"similarity": np.array([[0.0, 1.0], [0.4, 0.2]]), "trend": np.zeros((2, 2))}
    mean, _ = need_gains(NEEDS["trend"], signals)
    assert mean.tolist() == [[0.0, 0.5], [0.5, 0.0]]


COMPOSED = Need.model_validate(
    {
        "instruction": "x",
        "relevant": {"rule": "top"},
        "terms": [
            {
                "weight": 2.0,
                "factors": [{"signal": "engagement", "scale": 0.5, "offset": 1.0}, {"signal": "similarity"}],
            },
            {"weight": -1.0, "factors": [{"signal": "engagement"}]},
            {"weight": 3.0, "factors": [{"signal": "niche"}]},
        ],
    }
)


def test_variance_of_a_composition_by_hand():
    signals = {
        "engagement": np.array([4.0, 4.0]),
        "similarity": np.array([3.0, 1.0]),
        "niche": np.array([0.0, 1.0]),
    }
    mean, variance = need_gains(COMPOSED, signals, np.array([0.25, 0.25]))
    # 2*(1 + .5*4)*3 - 4 + 0 = 14;  2*(1 + .5*4)*1 - 4 + 3 = 5
    assert mean.tolist() == [14.0, 5.0]
    # derivative 2*.5*3 - 1 = 2, squared times .25 = 1;  2*.5*1 - 1 = 0: the two terms cancel
    assert variance.tolist() == [1.0, 0.0]


def test_variance_under_minmax_treats_the_range_as_fixed():
    need = Need.model_validate(
        {
            "instruction": "x",
            "relevant": {"rule": "top"},
            "terms": [{"factors": [{"signal": "engagement", "normalise": "minmax", "scale": 2.0}]}],
        }
    )
    mean, variance = need_gains(need, {"engagement": np.array([1.0, 5.0, 3.0])}, np.array([4.0, 0.0, 1.0]))
    # range 4: values 0, 1, .5 times 2; derivative 2/4, squared .25
    assert mean.tolist() == [0.0, 2.0, 1.0]
    assert variance.tolist() == [1.0, 0.0, 0.25]
    _, flat = need_gains(need, {"engagement": np.array([2.0, 2.0])}, np.array([4.0, 4.0]))
    assert flat.tolist() == [0.0, 0.0]


def test_moments_against_monte_carlo():
    signals = {
        "engagement": np.array([4.0, 5.0, 6.0]),
        "similarity": np.array([3.0, 2.5, 2.0]),
        "niche": np.array([0.0, 1.0, 1.0]),
    }
    sigma = np.array([0.3, 0.1, 0.5])
    mean, variance = need_gains(COMPOSED, signals, sigma**2)
    draws = signals["engagement"] + sigma * np.random.default_rng(1).standard_normal((200_000, 3))
    gains, _ = need_gains(
        COMPOSED,
        {
            "engagement": draws,
            "similarity": np.broadcast_to(signals["similarity"], draws.shape),
            "niche": np.broadcast_to(signals["niche"], draws.shape),
        },
    )
    # derivatives 2, 1.5, 1, every mean more than 20 sd above the cut
    assert variance == pytest.approx([0.36, 0.0225, 0.25], rel=1e-12)
    # 200,000 normal draws: standard error of the mean sd/447, of the variance .32%
    assert (np.abs(gains.mean(axis=0) - mean) < 5 * np.sqrt(variance) / 447).all()
    assert gains.var(axis=0) == pytest.approx(variance, rel=0.015)


def test_the_cut_at_zero_only_lowers_the_variance():
    # around 0 the cut bites: the stated variance stays an upper bound
    interest = NEEDS["interest"]
    _, variance = need_gains(interest, {"engagement": np.array([0.0])}, np.array([1.0]))
    draws = np.random.default_rng(2).standard_normal((100_000, 1))
    gains, _ = need_gains(interest, {"engagement": draws})
    # a rectified standard normal has variance 1/2 - 1/(2 pi) = .341
    assert gains.var() == pytest.approx(0.5 - 0.5 / np.pi, rel=0.02)
    assert gains.var() < variance[0] == 1.0


def reference(need: Need, signals: dict[str, list[float]], row: int) -> float:
    """Plain loops over the formula."""
    total = 0.0
    for term in need.terms:
        product = term.weight
        for factor in term.factors:
            column = signals[factor.signal]
            value = column[row]
            if factor.normalise == "minmax":
                span = max(column) - min(column)
                value = (value - min(column)) / span if span else 0.0
            product *= factor.offset + factor.scale * value
        total += product
    return max(0.0, total)


NUMBER = st.floats(-4, 4).map(lambda value: round(value, 2))
OTHER = st.builds(
    Factor,
    signal=st.sampled_from(SIGNALS[1:]),
    normalise=st.sampled_from(["none", "minmax"]),
    scale=NUMBER,
    offset=NUMBER,
)
ENGAGED = st.builds(Factor, signal=st.just("engagement"), scale=NUMBER, offset=NUMBER)
TERMS = st.builds(
    lambda weight, others, engaged: Term(weight=weight, factors=(*others, *engaged)),
    NUMBER,
    st.lists(OTHER, min_size=1, max_size=2),
    st.lists(ENGAGED, max_size=1),
)


@settings(max_examples=60, deadline=None)
@given(terms=st.lists(TERMS, min_size=1, max_size=3), data=st.data())
def test_any_composition_against_plain_loops(terms, data):
    need = Need(instruction="x", terms=tuple(terms), relevant=TopRelevance())
    K = data.draw(st.integers(1, 4))
    signals = {name: data.draw(st.lists(NUMBER, min_size=K, max_size=K)) for name in SIGNALS}
    arrays = {name: np.array(column) for name, column in signals.items()}
    mean, variance = need_gains(need, arrays, np.ones(K))
    assert mean == pytest.approx([reference(need, signals, row) for row in range(K)], abs=1e-9)
    # the sum is linear in the engagement: a large constant keeps it above the cut, a unit step gives the slope
    lift = Term(weight=1e4, factors=(Factor(signal="niche", scale=0.0, offset=1.0),))
    lifted = need.model_copy(update={"terms": (*need.terms, lift)})
    low, _ = need_gains(lifted, arrays)
    high, _ = need_gains(lifted, {**arrays, "engagement": arrays["engagement"] + 1.0})
    assert variance == pytest.approx((high - low) ** 2, abs=1e-4, rel=1e-6)


@pytest.mark.parametrize(
    ("signals", "variance", "message"),
    [
        ({"similarity": np.ones(2)}, None, "'engagement', which is not given"),
        ({"engagement": np.array([1.0, np.nan])}, None, r"'engagement' must be finite.*\(1,\)"),
        ({"engagement": np.ones(0)}, None, "at least one candidate"),
        ({"engagement": np.ones(2)}, np.array([1.0, -1.0]), "not negative"),
        ({"engagement": np.ones(2)}, np.array([1.0, np.nan]), "finite"),
        ({"engagement": np.ones(2)}, np.array([1.0]), "not aligned"),
    ],
)
def test_bad_signals_are_refused(signals, variance, message):
    with pytest.raises(InputError, match=message):
        need_gains(NEEDS["interest"], signals, variance)


def test_signals_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        need_gains(NEEDS["explore"], {"similarity": np.ones(3), "niche": np.ones(2)})


def test_an_overflowing_gain_is_refused():
    with pytest.raises(InputError, match="overflows"):
        need_gains(COMPOSED, {"engagement": np.array([1e308]), "similarity": np.array([1e9]), "niche": np.ones(1)})


def test_engagement_twice_in_a_term_is_refused():
    with pytest.raises(ValidationError, match="at most one factor"):
        Term.model_validate({"factors": [{"signal": "engagement"}, {"signal": "engagement"}]})


@pytest.mark.parametrize(
    ("block", "key", "message"),
    [
        (
            Factor,
            {"signal": "freshness"},
            "'engagement', 'similarity', 'niche', 'trend', 'popularity', 'quality' or 'recency'",
        ),
        (Factor, {"signal": "trend", "normalize": "minmax"}, "Extra inputs"),
        (Factor, {"signal": "trend", "scale": float("nan")}, "finite"),
        (Term, {"factors": []}, "at least 1"),
        (Need, {**METHOD["trend"], "relevant": {"rule": "best"}}, "'engagement', 'top'"),
        (Need, {**METHOD["trend"], "relevant": {"rule": "top", "count": 0}}, "greater than or equal to 1"),
        (Need, {**METHOD["trend"], "instruction": ""}, "at least 1"),
        (Need, {**METHOD["trend"], "terms": []}, "at least 1"),
    ],
)
def test_misspelt_needs_are_refused_with_the_allowed_values(block, key, message):
    with pytest.raises(ValidationError, match=message):
        block.model_validate(key)


def test_relevance_rules_are_told_apart():
    assert NEEDS["interest"].relevant == EngagementRelevance()
    assert NEEDS["trend"].relevant == TopRelevance(count=6)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("interest", ("interest",)),
        ("trend,interest", ("interest", "trend")),
        ("interest+trend", ("interest", "trend")),
        (" trend , trend+trend", ("trend",)),
        ("all", ("interest", "explore", "trend")),
        ("trend,all", ("interest", "explore", "trend")),
    ],
)
def test_select_needs(selection, expected):
    assert select_needs(selection, NEEDS) == expected


@pytest.mark.parametrize("selection", ["intrest", "", "interest,", "interest;trend"])
def test_an_unknown_need_lists_the_known_ones(selection):
    with pytest.raises(InputError, match="interest, explore, trend"):
        select_needs(selection, NEEDS)


def test_no_need_at_all():
    with pytest.raises(InputError, match="no need is defined"):
        select_needs("all", {})
