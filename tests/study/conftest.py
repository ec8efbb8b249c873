"""A small made-up study."""

import pytest

from flexrec.study.collection import Collected, collect
from flexrec.study.settings import StudyOptions, StudySettings
from flexrec.study.statistics import Resampling
from flexrec.study.tables import StudyTable
from made_study import result, tables_of


@pytest.fixture(scope="session")
def how() -> Resampling:
    return Resampling(resamples=200, permutations=500)


@pytest.fixture(scope="session")
def options() -> StudyOptions:
    return StudyOptions.model_validate(
        {
            "log_folder": "logs",
            "tables": {
                "1": {"title": "all methods", "needs": ["interest"], "regime": "sparse"},
                "6": {
                    "title": "rewards",
                    "rows": ["flexrec", "rec_r1_critic", "ppo"],
                    "cross": {"columns": ["GRPO", "PPO"], "rows": {"swap": ["flexrec", "ppo"]}},
                },
                "9": {"title": "dense", "regime": "dense"},
                "transfer": {"title": "asked for", "sample": "probe"},
            },
        }
    )


@pytest.fixture(scope="session")
def settings() -> StudySettings:
    grid = [{"needs": ["interest"], "methods": ["flexrec", "rec_r1_critic"], "seeds": [0, 1]}]
    return StudySettings.model_validate({"title": "A study", "grid": grid})


@pytest.fixture(scope="session")
def collected() -> Collected:
    """Two methods with two seeds; one cell failed."""
    return collect(
        [
            result("flexrec", 0),
            result("rec_r1_critic", 0),
            result("flexrec", 1),
            result("rec_r1_critic", 1, state="failed", reason="out of memory", metrics=(), curves=None, seconds={}),
        ]
    )


@pytest.fixture(scope="session")
def tables(collected, settings, options, how) -> dict[str, StudyTable]:
    return {table.name: table for table in tables_of(collected, settings, options, how)}
