"""Settings of the retrieval."""

from flexrec.config import Settings
from flexrec.retrieval.embedders import EmbedderSettings
from flexrec.retrieval.search import ExactSearch, SearchSettings
from flexrec.retrieval.star import StarSettings


class RetrievalSettings(Settings):
    """How candidates are found."""

    embedder: EmbedderSettings
    star: StarSettings = StarSettings()
    search: SearchSettings = ExactSearch()
