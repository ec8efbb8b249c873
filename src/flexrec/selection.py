"""What a run is about: the chosen dataset, needs, method and model, and the validation of all parameters.

The resolvers `entry` and `entries` pick the chosen entries out of the tables in `datasets.yml`, `needs.yml`,
`methods.yml` and `models.yml`, so that a node depends on the entry that it uses and on no other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from flexrec.baselines import BASELINES
from flexrec.config import Settings
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.policy.models import BaseModelSettings
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.needs import Need, select_needs
from flexrec.ranking.task import TaskSettings
from flexrec.reporting.settings import ReportSettings
from flexrec.retrieval.embedders import EmbedderSettings
from flexrec.retrieval.settings import RetrievalSettings
from flexrec.retrieval.signals import LabelSettings
from flexrec.rl.settings import MethodSettings, RlSettings, WarmUpSettings
from flexrec.sources import SOURCES


class Parameters(Settings):
    """All parameters of the project; a key that is not here does not exist."""

    dataset: str
    need: str
    method: str
    model: str
    density: float = Field(gt=0, le=1, description="Share of each user's interactions that is observed")
    seed: int = Field(ge=0)
    fresh: bool
    raw_folder: str
    task: TaskSettings
    needs_asked: dict[str, Need]
    method_settings: MethodSettings
    model_settings: BaseModelSettings
    datasets: dict[str, TaskSettings]
    needs: dict[str, Need]
    methods: dict[str, MethodSettings]
    models: dict[str, BaseModelSettings]
    embedders: dict[str, EmbedderSettings]
    retrieve: RetrievalSettings
    label: LabelSettings
    critic: CriticSettings
    prompt: PromptSettings
    decoding: DecodingSettings
    adapter: AdapterSettings
    warm_up: WarmUpSettings
    rl: RlSettings
    evaluate: EvaluationSettings
    report: ReportSettings

    @field_validator("task", "datasets")
    @classmethod
    def _known_sources(cls, value: TaskSettings | dict[str, TaskSettings]) -> TaskSettings | dict[str, TaskSettings]:
        for task in value.values() if isinstance(value, dict) else [value]:
            _refuse_unknown("source", [task.source], SOURCES)
        return value

    @field_validator("evaluate")
    @classmethod
    def _known_baselines(cls, value: EvaluationSettings) -> EvaluationSettings:
        _refuse_unknown("baseline", value.baselines, BASELINES)
        return value


def _refuse_unknown(kind: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} '{name}', allowed: {', '.join(known)}")


def validate_selection(parameters: dict[str, Any]) -> None:
    """Refuse parameters that no node could use, before any node runs.

    Raises:
        InputError: Names every key that is unknown or out of range.
    """
    try:
        Parameters.model_validate(parameters)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            reason = problem["msg"].removeprefix("Value error, ")
            reason = reason[0].lower() + reason[1:]
            given = "" if isinstance(problem["input"], dict) else f" (it is {problem['input']!r})"
            lines.append(f"parameter `{key}`: {reason}{given}")
        raise InputError("\n".join(lines)) from error


def entry(kind: str, table: str, name: Any, *, _root_: Any) -> Any:
    """The entry `name` of a table of the configuration (OmegaConf resolver)."""
    options = _root_[table]
    if name not in options:
        raise InputError(f"unknown {kind} '{name}'. Allowed: {', '.join(str(option) for option in options)}.")
    return options[name]


def entries(kind: str, table: str, names: Any, *, _root_: Any) -> Any:
    """The entries named in a selection such as `a`, `a+b`, `a,b` or `all` (OmegaConf resolver)."""
    options = _root_[table]
    return {name: options[name] for name in select_needs(str(names), options)}
