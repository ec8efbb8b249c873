"""Settings of the critic."""

from typing import Self

from pydantic import Field, model_validator

from flexrec.config import Settings


class FactorisationSettings(Settings):
    """Biased matrix factorisation. The gains are standardised first, so that the penalties have no unit."""

    factors: int = Field(8, ge=0, le=256, description="Length of a user's and an item's vector; 0: biases alone")
    bias_penalty: float = Field(
        5.0, gt=0, description="Of squared biases: as many observations of the mean stand behind every bias"
    )
    factor_penalty: float = Field(10.0, gt=0, description="Of squared vectors")
    iterations: int = Field(15, ge=1, description="Passes over all users, then all items")
    initial_deviation: float = Field(0.1, gt=0, description="Standard deviation of the items' first vectors")


class CriticSettings(Settings):
    """How the critic sees a user, how large it is and how it is trained."""

    history_length: int = Field(
        default=10, ge=1, description="Most recent observed interactions read; the instances' H."
    )
    decay: float = Field(default=0.7, gt=0, le=1, description="Weight of an item relative to the next more recent one.")
    item_statistics: bool = Field(
        default=True, description="Also read how often and how well other training users received the candidate."
    )
    statistics_strength: float = Field(
        default=10.0, gt=0, description="Pseudo-observations of the global mean in an item's shrunken mean gain."
    )
    taste: FactorisationSettings | None = Field(
        default=None,
        description="Also read what a matrix factorisation predicts from the same history, beside the item statistics; "
        "None: not.",
    )
    hidden_size: int = Field(default=256, ge=1, description="Hidden width of the history tower and above the features.")
    interaction_size: int = Field(
        default=64, ge=1, description="Width of the user and candidate vectors that interact."
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout after each hidden layer.")
    log_variance_bound: float = Field(
        default=6.0,
        gt=0,
        le=40,
        description="B: the log variance of the standardised gain stays in (-B, B). B = 6: the predicted deviation is "
        "between 1/20 and 20 standard deviations of the gain.",
    )
    max_interactions: int | None = Field(
        default=None,
        ge=3,
        description="Most observed interactions learnt from, drawn with the seed; contexts and item statistics read "
        "all of them. None: no limit.",
    )
    shares: tuple[float, float, float] = Field(
        default=(0.8, 0.1, 0.1), description="Shares of the examples for fitting, choosing the epoch, and measuring."
    )
    beta: float = Field(default=0.5, ge=0, le=1, description="Of the beta-NLL: 0 likelihood, 1 mean learns as by MSE.")
    epochs: int = Field(
        default=30, ge=1, description="Passes over the fit examples; the best by validation MSE is kept."
    )
    batch_size: int = Field(default=1024, ge=1, description="Examples per optimiser step.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Step size of AdamW.")
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled weight decay of AdamW.")

    @property
    def statistics_width(self) -> int:
        """Columns of an example's statistics."""
        return 2 if self.taste is None else 3

    @model_validator(mode="after")
    def _taste_beside_statistics(self) -> Self:
        if self.taste is not None and not self.item_statistics:
            raise ValueError("taste stands beside the item statistics: item_statistics must be true with it")
        return self

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must be three positive numbers that sum to 1, not {self.shares}")
        return self


class NeighbourSettings(Settings):
    """Nearest neighbours, which predict gains in the critic's place."""

    count: int = Field(default=40, ge=1, description="Most neighbours that a prediction is made of.")
    shrinkage: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the item's mean gain beside the neighbours' cosines; 0: the neighbours alone.",
    )
    mean_strength: float = Field(
        default=10.0, gt=0, description="Pseudo-observations of the global mean in an item's shrunken mean gain."
    )
