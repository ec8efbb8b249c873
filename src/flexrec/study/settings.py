"""Settings of studies: what is run, how it is compared, and the tables made of it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from flexrec.config import Settings
from flexrec.evaluation.names import QUALITY_METRICS

Also = Literal["probe", "chat"]
"""Pipelines aside that measure rankings: `probe` asks for other needs than the one trained for, `chat` an API."""

Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]

Regime = Literal["sparse", "dense"]
"""Whether a part of the labels is observed, or all of them."""


def regime_of(density: float) -> Regime:
    """The regime of a share of observed interactions, in (0, 1]."""
    return "dense" if density >= 1.0 else "sparse"


class Block(Settings):
    """A part of a grid: a run for every combination of its needs, methods and seeds."""

    dataset: str | None = Field(None, description="None: the environment's own")
    needs: tuple[str, ...] = Field(min_length=1, description="Each as `--params need=` takes it; `a+b` trains jointly")
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    model: str | None = Field(None, description="None: the environment's own")
    layout: str | None = Field(None, description="Of the prompt; None: the environment's own")
    density: float | None = Field(None, gt=0, le=1, description="None: the environment's own")
    environment: str | None = Field(None, description="Of the runs, as `--env` takes it; None: the study's own")
    also: tuple[Also, ...] = Field((), description="Other pipelines that every run goes through after the evaluation")
    overrides: tuple[str, ...] = Field((), description="Other parameters, `key=value` each, as `--params` takes them")

    @field_validator("overrides")
    @classmethod
    def _pairs(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_overrides(overrides)


class StudySettings(Settings):
    """One study, an entry of `studies`."""

    title: str = Field(min_length=1)
    grid: tuple[Block, ...] = Field(min_length=1)
    overrides: tuple[str, ...] = Field((), description="Parameters of every run, `key=value` each: the common budget")
    references: tuple[str, ...] = Field(
        ("flexrec", "untrained"), description="Rows that every other row of a table is tested against"
    )
    tables: tuple[str, ...] | None = Field(None, description="Names in `study_options.tables`; None: all that apply")

    @field_validator("overrides")
    @classmethod
    def _pairs(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_overrides(overrides)


OF_THE_GRID = frozenset({"dataset", "need", "method", "seed", "model", "layout", "density"})
"""What names a run, and therefore is no parameter of all runs."""


def _checked_overrides(overrides: tuple[str, ...]) -> tuple[str, ...]:
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not (key.strip() and equals):
            raise ValueError(f"an override is written key=value, not {text!r}")
        if key.strip() in OF_THE_GRID or key.startswith("study"):
            raise ValueError(f"{key.strip()} is no override: it has a field of its own, or belongs to the study")
    return overrides


class CrossSettings(Settings):
    """A table of two ways: one number per pair of names."""

    columns: tuple[str, ...] = Field(min_length=1, description="Headings")
    rows: dict[str, tuple[str, ...]] = Field(min_length=1, description="Heading of a row -> methods, one per column")

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for name, methods in self.rows.items():
            if len(methods) != len(self.columns):
                raise ValueError(f"row '{name}' names {len(methods)} methods for {len(self.columns)} columns")
        return self


class TableSettings(Settings):
    """A kind of table; one is made for every dataset, density, model and need that it applies to."""

    title: str = Field(min_length=1)
    needs: tuple[str, ...] = Field((), description="Needs that it applies to; empty: every need")
    regime: Regime | None = Field(None, description="Density that it applies to; None: either")
    rows: tuple[str, ...] = Field(
        (), description="Trained methods in it; empty: all of the study. Rows without an LLM are in every table"
    )
    sample: Literal["test", "probe", "switching", "input_order"] = Field(
        "test",
        description="What it is made of: all instances of the test, those of the probe, or what the probe found about "
        "switching between needs and about input orders",
    )
    cross: CrossSettings | None = None


class Seconds(Settings):
    """Rough times of the nodes that take long, for plans until they have been measured; any other counts one second."""

    start: float = Field(10.0, ge=0, description="Of the process of one run")
    prepare_model: float = Field(20.0, ge=0)
    fit_critic: float = Field(10.0, ge=0)
    train_warm_up: float = Field(120.0, ge=0, description="Of 960 lists")
    train_rl: float = Field(150.0, ge=0, description="Of 960 rollouts")
    rank_baselines: float = Field(60.0, ge=0)
    rank_untrained: float = Field(30.0, ge=0, description="Of 160 instances, as the two below")
    rank_warmed_up: float = Field(30.0, ge=0)
    rank_trained: float = Field(30.0, ge=0)
    ask_untrained: float = Field(100.0, ge=0)
    ask_warmed_up: float = Field(100.0, ge=0)
    ask_trained: float = Field(100.0, ge=0)


class StudyOptions(Settings):
    """What all studies share."""

    log_folder: str = Field(description="What every run printed is kept below it, by study")
    primary: str = Field("ndcg_at_5", description="The metric that is tested")
    metrics: tuple[str, ...] = Field(QUALITY_METRICS, description="Metrics with intervals, the columns of the tables")
    seed: int = Field(0, ge=0, description="Of the bootstrap and of the tests")
    seeds: tuple[int, ...] | None = Field(None, description="Seeds of the grid that are run here; None: all")
    parts: tuple[Path, ...] = Field((), description="Folders of studies that were run elsewhere, whose seeds are taken")
    seconds: Seconds = Seconds()
    tables: dict[str, TableSettings]

    @field_validator("seeds", "parts", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        # on a command line one is written as it is
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        for name in (self.primary, *self.metrics):
            if name not in QUALITY_METRICS:
                raise ValueError(f"unknown metric '{name}', allowed: {', '.join(QUALITY_METRICS)}")
        if self.primary not in self.metrics:
            raise ValueError(f"metrics must hold the primary one, {self.primary}")
        return self
