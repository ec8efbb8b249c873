"""Settings of the critic."""

from typing import Self

from pydantic import Field, model_validator

from flexrec.config import Settings


class CriticSettings(Settings):
    """How the critic sees a user, how large it is and how it is trained."""

    history_length: int = Field(default=10, ge=1)
    """Most recent observed interactions that form the context of a training example; use the instances' own H."""
    decay: float = Field(default=0.7, gt=0, le=1)
    """Weight of a history item relative to the next more recent one."""
    item_statistics: bool = True
    """Whether the critic also reads how often and how well the candidate was received by other training users."""
    statistics_strength: float = Field(default=5.0, gt=0)
    """Pseudo-observations of the global mean in an item's shrunken mean gain."""
    hidden_size: int = Field(default=256, ge=1)
    """Width of the hidden layers of the history tower and of the layer above the interaction features."""
    interaction_size: int = Field(default=128, ge=1)
    """Width of the user and the candidate vectors that interact."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout after each hidden layer."""
    log_variance_bound: float = Field(default=6.0, gt=0)
    """Bound B of the log variance of the standardised gain: the predicted deviation stays within exp(-B/2) and
    exp(B/2) standard deviations of the training gains (1/20 and 20 for B = 6)."""
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the observed interactions for fitting, choosing the checkpoint and measuring the critic."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the stopped variance in the loss; 0 is the Gaussian likelihood, 1 weighs residuals like MSE."""
    epochs: int = Field(default=30, ge=1)
    """Passes over the fit examples; the checkpoint with the best validation MSE is kept."""
    batch_size: int = Field(default=1024, ge=1)
    """Examples per optimiser step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split of the examples, the initial weights, the order of the batches and the dropout."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must be three positive numbers that sum to 1, got {self.shares}")
        return self
