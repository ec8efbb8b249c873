"""The ranking task that is made of a dataset: how engagement is read, and the size of everything."""

from typing import Literal

from pydantic import Field, RootModel

from flexrec.config import Settings
from flexrec.ranking.needs import Context, Need, Signal


class Needs(RootModel[dict[str, Need]]):
    """Entries of `needs.yml`, by name."""


class InstanceCounts(Settings):
    """Most instances of each split."""

    train: int = Field(ge=1)
    validation: int = Field(ge=1)
    test: int = Field(ge=1)


class TaskSettings(Settings):
    """One entry of `datasets.yml`."""

    source: str = Field(description="Name in `flexrec.sources.SOURCES`")
    gain: Literal["linear", "exponential"] = Field(description="Engagement as it is, or 2^engagement - 1")
    relevant_engagement: float = Field(description="Engagement from which a candidate counts as relevant")
    engagement_midpoint: float = Field(description="Engagement of an item that nobody has been seen to rate")
    trend_window_days: float = Field(gt=0, description="Trend counts interactions in the days before the query")
    candidates: int = Field(ge=2, le=52, description="K, candidates per instance")
    history: int = Field(ge=1, description="H, most recent observed interactions of a request")
    instances: InstanceCounts
    instances_per_user: int = Field(ge=1, description="Most query times per user")
    source_options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Given to the source, which checks them"
    )
    items_name: str = Field("films", min_length=1, description="What the items are called in prompts, plural")
    context: Context = Field("history", description="What its requests begin from; needs of the other kind are refused")
    unavailable_signals: tuple[Signal, ...] = Field(
        (), description="Signals that this dataset cannot have; a need that uses one is refused"
    )
    paper_dataset: str | None = Field(
        None, description="Dataset of the paper whose near-random rows are printed beside a random order's NDCG"
    )
