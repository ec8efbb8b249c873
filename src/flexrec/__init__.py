"""flexrec: one language model that re-ranks the same candidates differently for different needs."""

__version__ = "0.1.0"
