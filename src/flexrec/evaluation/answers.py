"""The table of a policy's answers: rankings, with the order of the prompt by its name and what was written."""

from typing import ClassVar

import pandera.pandas as pa

from flexrec.ranking import rules
from flexrec.ranking.schemas import Rankings


class Answers(Rankings):
    """Rankings of the same instances under several needs and in several orders of the prompt."""

    arrangement: str = pa.Field(description="`shown`, `ideal`, `reversed`, `random_1`, ...")
    text: str = pa.Field(description="what the model wrote; may be empty")

    _arrangement = rules.text("arrangement")

    class Config:
        """Pandera's settings."""

        name = "answers"
        unique: ClassVar[list[str]] = ["method", "need", "arrangement", "instance_id"]
