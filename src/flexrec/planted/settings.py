"""Settings of the planted-truth study: the world, what the critic knows of it, the learner, and the experiments."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from flexrec.config import Settings
from flexrec.rl.settings import ItemReward, Method, MethodSettings, SftMethodSettings, UncertaintySettings

Scope = Literal["none", "group", "batch"]


# ---- the world ----


class PlantedNeed(Settings):
    """What makes an item good for one need: weights of its signals, each of mean 0 and variance 1."""

    name: str = Field(min_length=1)
    similarity: float = Field(0.0, description="Of the item to the user's taste")
    niche: float = Field(0.0, description="Of the item's being new to the user")
    trend: float = 0.0
    quality: float = 0.0
    niche_fit: float = Field(0.0, description="Of similarity times niche: the part that is not linear")

    @model_validator(mode="after")
    def _something(self) -> "PlantedNeed":
        if not any(self.weights):
            raise ValueError(f"the need '{self.name}' weighs nothing; give it at least one weight other than 0")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights in the order of `flexrec.planted.world.SIGNALS`."""
        return (self.similarity, self.niche, self.trend, self.quality, self.niche_fit)


class WorldSettings(Settings):
    """A fabricated world (`flexrec.planted.world`)."""

    candidates: int = Field(10, ge=2, description="K")
    items: int = Field(200, ge=2, description="Items that candidates are drawn from")
    tastes: int = Field(12, ge=1, description="Dimensions of taste; each is a feature of a candidate")
    niche_share: float = Field(0.4, gt=0, lt=1, description="Share of items that are new to a user")
    hidden: float = Field(0.1, ge=0, lt=1, description="Share of the variance of relevance that no feature shows")
    slope: float = Field(1.2, gt=0, description="How steeply relevance turns into a rating")
    shift: float = Field(-0.6, description="Of relevance; lower, and fewer items are good")
    train: int = Field(256, ge=1, description="Requests that may be trained on, per seed")
    test: int = Field(64, ge=1, description="Held-out requests, per seed")
    needs: tuple[PlantedNeed, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sizes(self) -> "WorldSettings":
        if self.items < self.candidates:
            raise ValueError(f"{self.candidates} candidates cannot be drawn from {self.items} items; raise `items`")
        names = [need.name for need in self.needs]
        if len(set(names)) < len(names):
            raise ValueError(f"needs must have different names, got {', '.join(names)}")
        return self


class FeedbackSettings(Settings):
    r"""What training sees instead of the true gains: a critic with errors of known variance, and some labels.

    The error of a candidate is $\sigma (z + \text{bias})$ with $z$ standard normal and
    $\sigma^2 = \text{noise}^2 e^{\text{spread}\,\zeta - \text{spread}^2/2}$, whose mean is $\text{noise}^2$ at any
    spread; $\zeta$ is standard normal, in part of the request and in part of the item. A completed gain is not below 0.
    """

    name: str = Field("exact", min_length=1, description="Of the critic, for tables")
    observed: float = Field(0.1, ge=0, le=1, description="Share of candidates with an observed label")
    noise: float = Field(0.0, ge=0, description="Root mean square of the errors, in units of the gain (0 to 1)")
    spread: float = Field(0.0, ge=0, description="Of the logarithm of the variances; 0: the same for all items")
    between: float = Field(0.0, ge=0, le=1, description="Share of the spread that all candidates of a request share")
    rare: float = Field(
        0.0, ge=0, le=1, description="Share of the items' part of the spread that follows from a low trend"
    )
    bias: float = Field(0.0, description="Mean error in units of its standard deviation; positive: too optimistic")
    stated: Literal["true", "unrelated", "inverted"] = Field(
        "true",
        description="The variances that the critic states: its own, those of other items, or reversed",
    )

    @property
    def label(self) -> str:
        """Its name and how far it is off."""
        return f"{self.name}, noise {self.noise:g}" if self.noise else self.name


# ---- the learner ----


class LearnerSettings(Settings):
    """The policy and its optimisation (`flexrec.planted.learning`)."""

    hidden: int = Field(32, ge=1, description="Hidden units")
    views: bool = Field(
        False, description="The policy first writes which group of features it will look at, as a reasoning would"
    )
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(4, ge=1, description="B")
    rollouts: int = Field(8, ge=2, description="G")
    evaluate_every: int = Field(10, ge=1, description="Steps between two looks at the held-out requests")


class Variant(Settings):
    """What the study varies of a method (`flexrec.rl.settings.MethodSettings`)."""

    item_reward: ItemReward = "swap_causal"
    item_advantage: Literal["pooled", "per_rank"] = "pooled"
    sequence_advantage: bool = True

    @property
    def name(self) -> str:
        """Its name in tables."""
        if self.item_reward == "none":
            return "sequence"
        normalised = "pooled" if self.item_advantage == "pooled" else "per rank"
        only = "" if self.sequence_advantage else ", items only"
        return f"{self.item_reward.replace('_', ' ')}, {normalised}{only}"

    def method(self, uncertainty: UncertaintySettings | None = None) -> MethodSettings:
        """The method; rollouts count equally unless it is said how they are weighted."""
        return MethodSettings(
            item_reward=self.item_reward,
            item_advantage=self.item_advantage,
            sequence_advantage=self.sequence_advantage,
            uncertainty=uncertainty or UncertaintySettings(scope="none"),
        )


class ShownLists(Settings):
    """Optimal lists that are shown in the place of rewards: supervised learning (the method `sft`)."""

    lists: int = Field(ge=1, description="Per step, each of another request")

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.lists} {'list' if self.lists == 1 else 'lists'} shown"

    def method(self) -> SftMethodSettings:
        """The method."""
        return SftMethodSettings(algorithm="sft", lists_per_step=self.lists)


def _kind(given: object) -> str:
    shown = "lists" in given if isinstance(given, dict) else isinstance(given, ShownLists)
    return "lists" if shown else "rewards"


Taught = Annotated[
    Annotated[Variant, Tag("rewards")] | Annotated[ShownLists, Tag("lists")],
    Discriminator(_kind),
]
"""Rewarded rollouts or shown lists."""


class WarmUp(Settings):
    """Optimal lists that policies are shown before the training, as language models are (method, section 7)."""

    steps: int = Field(ge=1)
    lists: int = Field(ge=1, description="Per step")
    learning_rate: float = Field(gt=0)


class Cell(Settings):
    """One training of several seeds: all that its result is a function of."""

    world: WorldSettings
    feedback: FeedbackSettings
    learner: LearnerSettings
    warm_up: WarmUp | None = None
    method: Method
    learning_rate: float = Field(gt=0)
    trained: tuple[str, ...] = Field(min_length=1, description="Needs that are asked in training, in turn")
    asked: tuple[str, ...] = Field(min_length=1, description="Needs that the held-out requests are asked with")
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _lists_name_items_only(self) -> Self:
        if self.learner.views and (self.warm_up or isinstance(self.method, SftMethodSettings)):
            raise ValueError("an optimal list does not say which features to look at; with `views` none can be shown")
        return self


# ---- the experiments ----


class Seeds(Settings):
    """Consecutive seeds; each is a world, an initial policy and a stream of rollouts."""

    first: int = Field(ge=0)
    count: int = Field(ge=1)

    @property
    def all(self) -> tuple[int, ...]:
        """Every one of them."""
        return tuple(range(self.first, self.first + self.count))


def _refuse_repeated(field: str, values: Sequence[object]) -> None:
    if repeated := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ValueError(f"{repeated[0]} stands twice in `{field}`")


class ComparisonSettings(Settings):
    """Variants side by side, each at its own best learning rate and all at a common one."""

    need: str
    variants: tuple[Taught, ...] = Field(min_length=2, description="The first is what the others are compared with")
    rates: tuple[float, ...] = Field(min_length=1, description="Learning rates to choose from")
    common_rate: float | None = Field(None, gt=0, description="None: each at its own best rate only")
    warm_up: WarmUp | None = Field(None, description="What all of them start from; None: untrained policies")
    tuning: Seeds = Field(description="Seeds that choose the rates, and that nothing is reported of")
    seeds: Seeds
    candidates: int | None = Field(None, ge=2, description="K; by default the world's")
    steps: int | None = Field(None, ge=1, description="By default the learner's")
    prompts_per_step: int | None = Field(None, ge=1, description="B; by default the learner's")
    views: bool | None = Field(None, description="As in the learner's settings; by default the learner's")

    @model_validator(mode="after")
    def _separate(self) -> "ComparisonSettings":
        if set(self.tuning.all) & set(self.seeds.all):
            raise ValueError("`tuning` and `seeds` overlap: rates would be chosen on the seeds that they are judged on")
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ValueError("a variant stands twice in `variants`")
        _refuse_repeated("rates", self.rates)
        return self


class ShowingSettings(ComparisonSettings):
    """Lists rewarded and lists shown, by how wrong the labels are and by how often requests come again."""

    warm_up: WarmUp
    critics: tuple[FeedbackSettings, ...] = Field(min_length=1)
    requests: tuple[int, ...] = Field(min_length=1, description="To train on, per seed; fewer come again more often")

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        _refuse_repeated("critics", [critic.label for critic in self.critics])
        _refuse_repeated("requests", self.requests)
        if few := [count for count in self.requests if count < 1]:
            raise ValueError(f"`requests` has {few[0]}; at least one is needed to train on")
        return self


class WeightingSettings(Settings):
    """Critics of several kinds and noise levels, with and without weights by their uncertainty."""

    need: str
    variant: Variant = Variant()
    learning_rate: float = Field(gt=0)
    critics: tuple[FeedbackSettings, ...] = Field(min_length=1, description="`noise` is set by `noises`")
    noises: tuple[float, ...] = Field(min_length=1)
    scopes: tuple[Scope, ...] = Field(("none", "group", "batch"), description="The first is the reference")
    low: float = Field(0.2, gt=0)
    high: float = Field(5.0, gt=0)
    epsilon: float = Field(1e-4, gt=0)
    seeds: Seeds

    @model_validator(mode="after")
    def _told_apart(self) -> "WeightingSettings":
        _refuse_repeated("critics", [critic.name for critic in self.critics])
        _refuse_repeated("noises", self.noises)
        _refuse_repeated("scopes", self.scopes)
        if self.scopes[0] != "none":
            raise ValueError("the first of the scopes is what the others are compared with: `none`, equal weights")
        if self.low > self.high:
            raise ValueError(f"the smallest weight, {self.low:g}, is above the largest, {self.high:g}")
        return self


class TransferSettings(Settings):
    """Trained for one need and asked for another; trained for all at once."""

    variant: Variant = Variant()
    learning_rate: float = Field(gt=0)
    steps: int | None = Field(None, ge=1, description="By default the learner's; joint training has as many in all")
    seeds: Seeds


class GradientSettings(Settings):
    """Why: the directions in which the rewards push, against that in which the list's NDCG rises."""

    need: str
    variants: tuple[Variant, ...] = Field(min_length=1)
    start: tuple[int, ...] = Field((0, 40), description="Steps of training after which the directions are measured")
    learning_rate: float = Field(gt=0, description="Of this training, by the first variant")
    batches: int = Field(64, ge=2)
    reference_batches: int = Field(256, ge=2, description="For the direction of the NDCG itself")
    seeds: Seeds

    @model_validator(mode="after")
    def _told_apart(self) -> "GradientSettings":
        _refuse_repeated("variants", [variant.name for variant in self.variants])
        _refuse_repeated("start", self.start)
        return self


class ReportedStatistics(Settings):
    """Intervals and tests over seeds."""

    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=1)
    permutations: int = Field(10000, ge=1)
    significant: float = Field(0.05, gt=0, lt=1, description="Holm-adjusted p below which a difference is called one")
    seed: int = Field(0, ge=0)


class PlantedSettings(Settings):
    """The whole study."""

    world: WorldSettings
    feedback: FeedbackSettings = FeedbackSettings()
    learner: LearnerSettings = LearnerSettings()
    rewards: ComparisonSettings
    tail: ComparisonSettings
    reasoning: ComparisonSettings
    showing: ShowingSettings
    uncertainty: WeightingSettings
    transfer: TransferSettings
    gradients: GradientSettings
    statistics: ReportedStatistics = ReportedStatistics()

    @model_validator(mode="after")
    def _known_needs(self) -> "PlantedSettings":
        names = [need.name for need in self.world.needs]
        comparisons = {
            "rewards": self.rewards, "tail": self.tail, "reasoning": self.reasoning, "showing": self.showing
        }  # fmt: skip
        asked = {part: settings.need for part, settings in comparisons.items()}
        asked |= {"uncertainty": self.uncertainty.need, "gradients": self.gradients.need}
        for part, need in asked.items():
            if need not in names:
                raise ValueError(f"`{part}.need` is '{need}'; the world has {', '.join(names)}")
        for part, settings in comparisons.items():
            if (settings.candidates or 0) > self.world.items:
                raise ValueError(
                    f"`{part}.candidates` is {settings.candidates}; the world has {self.world.items} items"
                )
        return self
