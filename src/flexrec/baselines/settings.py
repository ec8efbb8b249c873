"""Settings of the baselines that are fitted."""

from typing import Self

from pydantic import Field, model_validator

from flexrec.config import Settings
from flexrec.critic.settings import FactorisationSettings


class ItemMeanSettings(Settings):
    """The shrunken mean gain of an item."""

    strength: float = Field(10.0, gt=0, description="Pseudo-observations of the mean gain of all items")


class LambdaMartSettings(Settings):
    """Gradient-boosted trees on the candidates' signals."""

    trees: int = Field(100, ge=1)
    leaves: int = Field(15, ge=2, description="Most leaves of a tree")
    learning_rate: float = Field(0.1, gt=0, le=1)
    min_rows: int = Field(20, ge=1, description="Fewest candidates in a leaf")
    grades: int = Field(16, ge=2, le=256, description="Most grades that the gains of a need are cut into")


class Bert4RecSettings(Settings):
    """BERT4Rec with the settings of RecBole 1.2.1, except for what bounds the time: batch, epochs, examples."""

    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    hidden_size: int = Field(64, ge=1)
    inner_size: int = Field(256, ge=1, description="Hidden width of the feed-forward layers")
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(50, ge=2, description="Most recent items that are read, the mask among them")
    mask_ratio: float = Field(0.2, gt=0, lt=1, description="Share of a sequence's items that are masked")
    last_ratio: float = Field(
        0.5, ge=0, le=1, description="Share of the sequences with the last item masked and no other"
    )
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=1)
    epochs: int = Field(60, ge=1, description="Most epochs")
    patience: int = Field(10, ge=1, description="Epochs without a better validation MRR@10 before training stops")
    examples: int | None = Field(
        20_000, ge=1, description="Most sequences of an epoch, drawn anew for each; None: every beginning of every one"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}")
        return self


class FittedSettings(Settings):
    """One block per baseline that is fitted."""

    item_mean: ItemMeanSettings = ItemMeanSettings()
    mf: FactorisationSettings = FactorisationSettings()
    lambdamart: LambdaMartSettings = LambdaMartSettings()
    bert4rec: Bert4RecSettings = Bert4RecSettings()
