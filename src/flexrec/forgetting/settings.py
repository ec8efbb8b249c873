"""Settings of the check for forgetting."""

from pydantic import Field

from flexrec.config import Settings
from flexrec.forgetting.prompts import PROMPTS


class ForgettingSettings(Settings):
    """How much is asked and read."""

    prompts: int = Field(60, ge=2, le=len(PROMPTS), description="Prompts; the first 12 have one of each kind")
    max_tokens: int = Field(64, ge=1, description="Most tokens of an answer")
    windows: int = Field(16, ge=2, description="Pieces of held-out text")
    window_tokens: int = Field(512, ge=2, description="Tokens of a piece")
    batch_size: int = Field(12, ge=1, description="Prompts answered together")
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples of prompts and of pieces")
    permutations: int = Field(10000, ge=100, description="Sign flips of the paired tests")
