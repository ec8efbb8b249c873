import pytest

from flexrec.planted.settings import (
    Cell,
    FeedbackSettings,
    LearnerSettings,
    PlantedNeed,
    Variant,
    WorldSettings,
)


@pytest.fixture
def world_of():
    """A small world; anything can be said otherwise."""

    def make(**changes) -> WorldSettings:
        needs = (PlantedNeed(name="interest", similarity=1.0, quality=0.5), PlantedNeed(name="trend", trend=1.0))
        given = {"candidates": 6, "items": 30, "train": 40, "test": 20, "needs": needs, **changes}
        return WorldSettings(**given)

    return make


@pytest.fixture
def cell_of(world_of):
    """A small training; anything can be said otherwise."""

    def make(**changes) -> Cell:
        given = {
            "world": world_of(),
            "feedback": FeedbackSettings(),
            "learner": LearnerSettings(hidden=8, steps=4, prompts_per_step=4, rollouts=6, evaluate_every=2),
            "method": Variant().method(),
            "learning_rate": 0.02,
            "trained": ("interest",),
            "asked": ("interest",),
            "seeds": (1, 2, 3),
            **changes,
        }
        return Cell(**given)

    return make
