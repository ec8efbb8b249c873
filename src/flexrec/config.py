"""The base of every settings model: frozen, and strict about misspelt keys."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A validated block of configuration.

    Unknown keys are refused, so that a misspelt option stops a run before its first node instead of being ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
