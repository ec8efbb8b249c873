"""Settings of the report."""

from pydantic import Field

from flexrec.config import Settings


class ReportSettings(Settings):
    """What the report shows."""

    examples: int = Field(4, ge=0, le=20, description="Ranked instances in the gallery, per need")
