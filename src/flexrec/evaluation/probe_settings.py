"""Settings of the probe: what a trained policy is asked beyond its own test."""

from pydantic import Field

from flexrec.config import Settings


class ProbeSettings(Settings):
    """What is asked, and of how many instances; every 160 instances cost each model about 30 s per question."""

    needs: str = Field(
        min_length=1, description="Needs asked for: names joined by `,` or `+`, or `all` that the dataset can serve"
    )
    instances: int = Field(ge=1, description="Test instances asked about, drawn by the seed; all where there are fewer")
    random_orders: int = Field(
        ge=0, le=20, description="Random input orders beside the one that every prompt has, the ideal and the reversed"
    )
    gallery: int = Field(ge=0, le=20, description="Instances shown with their answers under every need")
