"""Settings of the evaluation."""

from typing import Any

from pydantic import Field

from flexrec.baselines.settings import FittedSettings
from flexrec.config import Settings
from flexrec.retrieval.star import StarScoringSettings


class EvaluationSettings(Settings):
    """What is compared and how."""

    baselines: tuple[str, ...] = Field(min_length=1, description="Names in `flexrec.baselines.BASELINES`")
    star: StarScoringSettings = Field(StarScoringSettings(), description="Weights of the baseline `star`")
    fitted: FittedSettings = Field(FittedSettings(), description="Of the baselines that are fitted")
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples of the users")
    permutations: int = Field(10000, ge=100, description="Sign flips of the paired test")

    def resampling(self, seed: int) -> dict[str, Any]:
        """How intervals and tests are made: arguments of `summarise` and its like."""
        return {**self.model_dump(include={"confidence", "resamples", "permutations"}), "seed": seed}
