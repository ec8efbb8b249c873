"""Settings of the retrieval and of the labels."""

from pydantic import Field

from flexrec.config import Settings
from flexrec.retrieval.embedders import EmbedderSettings
from flexrec.retrieval.star import StarSettings


class RetrievalSettings(Settings):
    """How candidates are found."""

    embedder: EmbedderSettings
    star: StarSettings = StarSettings()


class LabelSettings(Settings):
    """How signals are made."""

    quality_strength: float = Field(5.0, gt=0, description="Prior observations in an item's shrunken mean")
