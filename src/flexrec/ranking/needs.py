"""Needs: what a good recommendation means right now, written as data.

A need is an instruction for the model and a formula over the signals of a candidate:

    gain = max(0, sum over terms of weight * product over factors of (offset + scale * normalised(signal)))

Engagement stands in at most one factor of a term, so the gain before the cut at 0 is linear in it and the variance of
a predicted engagement carries over exactly.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from flexrec.config import Settings
from flexrec.errors import InputError

Signal = Literal["engagement", "similarity", "niche", "trend", "popularity", "quality", "recency"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
Context = Literal["history", "query"]
"""What a request begins from: what the user engaged with before, or what it asks for in words."""
ALL_NEEDS = "all"


class Factor(Settings):
    """One signal of a candidate, normalised, scaled and shifted: `offset + scale * normalised(signal)`."""

    signal: Signal = Field(description="Name of the signal; `engagement` is the engagement gain.")
    normalise: Literal["none", "minmax"] = Field(
        default="none",
        description="`minmax` maps the candidates of one instance to [0, 1]; a constant column gives 0.",
    )
    scale: float = Field(default=1.0, allow_inf_nan=False, description="Multiplies the normalised signal.")
    offset: float = Field(default=0.0, allow_inf_nan=False, description="Added after the scale.")


class Term(Settings):
    """A weighted product of factors."""

    weight: float = Field(default=1.0, allow_inf_nan=False, description="May be negative.")
    factors: tuple[Factor, ...] = Field(min_length=1, description="Multiplied with each other.")

    @model_validator(mode="after")
    def _linear_in_engagement(self) -> Self:
        if sum(factor.signal == "engagement" for factor in self.factors) > 1:
            raise ValueError(
                "engagement may stand in at most one factor of a term (its variance would not be exact otherwise)"
            )
        return self


class EngagementRelevance(Settings):
    """Relevant: raw engagement at or above the dataset's threshold."""

    rule: Literal["engagement"] = "engagement"


class TopRelevance(Settings):
    """Relevant: the candidates with the best gains of the instance."""

    rule: Literal["top"] = "top"
    count: int = Field(default=6, ge=1, description="How many of the ideal list are relevant.")


Relevance = Annotated[EngagementRelevance | TopRelevance, Field(discriminator="rule")]


class Need(Settings):
    """A need: the sentence that the model reads and the gain that it is trained and judged by."""

    instruction: str = Field(min_length=1, description="What the model is told to look for.")
    terms: tuple[Term, ...] = Field(min_length=1, description="Summed; the sum is cut at 0.")
    relevant: Relevance = Field(description="Which candidates count for recall, precision and MRR.")
    context: Context = Field("history", description="What a request of this need begins from.")


def uses_engagement(need: Need) -> bool:
    """Whether the need's gain depends on engagement, which has to be observed or predicted."""
    return any(factor.signal == "engagement" for term in need.terms for factor in term.factors)


def need_gains(
    need: Need,
    signals: Mapping[str, Float[np.ndarray, "*batch K"]],
    engagement_variance: Float[np.ndarray, "*batch K"] | None = None,
    *,
    cut: bool = True,
) -> tuple[Float[np.ndarray, "*batch K"], Float[np.ndarray, "*batch K"]]:
    r"""Gains of the candidates under a need, and the variance that uncertain engagement gives them.

    .. math::
        g(a) = \max\Bigl(0, \sum_t w_t \prod_f \bigl(o_{tf} + s_{tf} N(x_f(a))\bigr)\Bigr), \qquad
        \mathrm{Var}[g(a)] = b(a)^2 \, \sigma^2(a)

    where `b` is the derivative of the sum by the engagement of `a`, the terms with engagement taken together.

    - Exact for un-normalised engagement; under `minmax` the range of the instance is treated as fixed.
    - The variance is that of the sum before the cut at 0; the cut can only lower it.

    Args:
        need: The composition.
        signals: Signal values by name, the candidates of one instance along the last axis; `engagement` is the
            engagement *gain* (mean prediction where it was not observed). Only the signals of the need are read.
        engagement_variance: Variance of the engagement gain, in its squared unit; 0 where observed. None means 0.
        cut: False: the sum without the cut at 0, for an order in which what is below 0 is not all alike.

    Returns:
        Gains (>= 0, unless they are not cut) and their variances (>= 0), shaped like the signals. The variance is 0
        where the need does not use engagement.

    Raises:
        InputError: If a signal of the need is absent, not finite or of another shape, or a variance is negative.

    Source: method section 2; the variance is that of a linear function, as method section 6 asks.
    """
    values = _signals_of(need, signals)
    shape = next(iter(values.values())).shape
    mean = np.zeros(shape)
    slope = np.zeros(shape)
    # overflow is caught below, as a message
    with np.errstate(over="ignore", invalid="ignore"):
        for term in need.terms:
            product = np.full(shape, term.weight)
            derivative = np.full(shape, term.weight)
            for factor in term.factors:
                value, change = _factor(factor, values[factor.signal])
                product = product * value
                derivative = derivative * (change if factor.signal == "engagement" else value)
            mean += product
            if any(factor.signal == "engagement" for factor in term.factors):
                slope += derivative
        variance = np.zeros(shape)
        if engagement_variance is not None and uses_engagement(need):
            variance = slope**2 * _checked_variance(engagement_variance, shape)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise InputError("a need's gain overflows; lower its weights and scales or use normalise: minmax")
    return np.maximum(mean, 0.0) if cut else mean, variance


def select_needs(selection: str, needs: Mapping[str, Need]) -> tuple[str, ...]:
    """The names of the needs that a selection means.

    Args:
        selection: One name, several joined by `,` or `+`, or `all`.
        needs: The needs of the project by name.

    Returns:
        Names in the order of `needs`, without duplicates, at least one.

    Raises:
        InputError: If a name is unknown, the selection is empty, or there is no need; the message lists the
            allowed names.
    """
    if not needs:
        raise InputError("no need is defined; describe at least one in the configuration of the needs")
    names = [name.strip() for name in selection.replace("+", ",").split(",")]
    unknown = [name for name in names if name not in needs and name != ALL_NEEDS]
    if unknown:
        raise InputError(
            f"need {', '.join(repr(name) for name in unknown)} is unknown; choose among {', '.join(needs)}, "
            f"several joined by ',' or '+', or '{ALL_NEEDS}'"
        )
    return tuple(name for name in needs if name in names or ALL_NEEDS in names)


def _factor(
    factor: Factor, signal: Float[np.ndarray, "*batch K"]
) -> tuple[Float[np.ndarray, "*batch K"], Float[np.ndarray, "*batch #K"]]:
    """A factor's value and its derivative by the signal."""
    if factor.normalise == "none":
        return factor.offset + factor.scale * signal, np.full_like(signal, factor.scale)
    low = signal.min(axis=-1, keepdims=True)
    span = signal.max(axis=-1, keepdims=True) - low
    constant = span == 0.0
    divisor = np.where(constant, 1.0, span)
    change = np.where(constant, 0.0, factor.scale / divisor)
    return factor.offset + factor.scale * ((signal - low) / divisor), change


def _signals_of(
    need: Need, signals: Mapping[str, Float[np.ndarray, "*batch K"]]
) -> dict[str, Float[np.ndarray, "*batch K"]]:
    names = {factor.signal for term in need.terms for factor in term.factors}
    values: dict[str, np.ndarray] = {}
    # in the fixed order of SIGNALS, so that a message does not depend on the order of a set
    for name in (signal for signal in SIGNALS if signal in names):
        if name not in signals:
            raise InputError(f"the need uses the signal {name!r}, which is not given ({', '.join(signals)} are)")
        array = np.asarray(signals[name], dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] == 0:
            raise InputError(f"signal {name!r} needs at least one candidate along its last axis")
        if not np.isfinite(array).all():
            place = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"signal {name!r} must be finite; found {array[place]} at index {place}")
        values[name] = array
    shapes = {name: array.shape for name, array in values.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the signals of a need must have one shape, not {shapes}")
    return values


def _checked_variance(variance: Float[np.ndarray, "*batch K"], shape: tuple[int, ...]) -> Float[np.ndarray, "*batch K"]:
    array = np.asarray(variance, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"engagement_variance of shape {array.shape} is not aligned with signals of shape {shape}")
    if not (np.isfinite(array) & (array >= 0.0)).all():
        raise InputError("engagement_variance must be finite and not negative")
    return array
