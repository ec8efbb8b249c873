"""What a run is about: the chosen dataset, needs, method and model, and the validation of all parameters.

The resolvers `entry` and `entries` pick the chosen entries out of the tables in `datasets.yml`, `needs.yml`,
`methods.yml` and `models.yml`, so that a node depends on the entry that it uses and on no other.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, Field, PositiveInt, RootModel, ValidationError, ValidationInfo, field_validator

from flexrec.baselines import BASELINES
from flexrec.config import Settings, walked
from flexrec.critic.settings import CriticSettings, NeighbourSettings
from flexrec.errors import InputError
from flexrec.evaluation.names import UNTRAINED, WARMED_UP
from flexrec.evaluation.probe_settings import ProbeSettings
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.forgetting.settings import ForgettingSettings
from flexrec.planted.settings import PlantedSettings
from flexrec.policy.chat import ChatSettings
from flexrec.policy.models import BaseModelSettings
from flexrec.policy.settings import AdapterSettings, DecodingSettings, GenerationSettings
from flexrec.prompting.settings import NOUN_FIELDS, LayoutSettings, PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import ALL_NEEDS, Need, select_needs, uses_engagement
from flexrec.ranking.task import TaskSettings
from flexrec.reporting.settings import ReportSettings
from flexrec.retrieval.embedders import EmbedderSettings
from flexrec.retrieval.settings import RetrievalSettings
from flexrec.retrieval.signals import LabelSettings
from flexrec.rewriting.settings import RewritingSettings
from flexrec.rl.settings import MethodEntry, RlSettings, WarmUpSettings
from flexrec.sources import Changeable, source_of
from flexrec.study.settings import StudyOptions, StudySettings
from flexrec.tabular import Engine

_NAME = re.compile(r"\w[\w.-]*")
"""Of what `--params` chooses by name: it becomes part of a path, and `,` and `+` join several."""


class Parameters(Settings):
    """All parameters of the project; a key that is not here does not exist."""

    dataset: str
    need: str
    method: str
    model: str
    layout: str
    density: float = Field(gt=0, le=1, description="Share of each user's interactions that is observed")
    seed: int = Field(ge=0, lt=2**31, strict=True)  # as LightGBM takes it
    fresh: bool
    raw_folder: str
    engine: Engine
    task: TaskSettings
    needs_asked: dict[str, Need]
    method_settings: MethodEntry
    model_settings: BaseModelSettings
    layout_settings: LayoutSettings
    datasets: dict[str, TaskSettings]
    needs: dict[str, Need]
    methods: dict[str, MethodEntry]
    models: dict[str, BaseModelSettings]
    layouts: dict[str, LayoutSettings]
    embedders: dict[str, EmbedderSettings]
    retrieve: RetrievalSettings
    label: LabelSettings
    critic: CriticSettings
    neighbours: NeighbourSettings
    prompt: PromptSettings
    decoding: DecodingSettings
    generation: GenerationSettings = GenerationSettings()
    adapter: AdapterSettings
    warm_up_steps: dict[str, PositiveInt] = Field(description="By need; `default` for all others")
    warm_up_growing: dict[str, float] = Field(description="By need; `default` for all others")
    warm_up: WarmUpSettings
    rl: RlSettings
    evaluate: EvaluationSettings
    report: ReportSettings
    query_rewrite: RewritingSettings = RewritingSettings()
    study: str
    studies: dict[str, StudySettings]
    study_settings: StudySettings
    study_options: StudyOptions
    probe: ProbeSettings
    probe_needs: dict[str, Need]
    planted: PlantedSettings
    forgetting: ForgettingSettings = ForgettingSettings()
    chats: dict[str, ChatSettings] = Field(default_factory=dict)
    chat: str = "none"

    @field_validator("datasets", "needs", "methods", "models", "layouts", "chats")
    @classmethod
    def _usable_names(cls, table: dict[str, Any]) -> dict[str, Any]:
        for name in table:
            if not _NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} cannot be used; letters, digits, `_`, `-` and `.` can")
        return table

    @field_validator("methods")
    @classmethod
    def _names_of_their_own(cls, methods: dict[str, MethodEntry]) -> dict[str, MethodEntry]:
        for name in methods:
            # the catalog looks its gains up by it
            if "." in name:
                raise ValueError(f"a method cannot be called '{name}', with a dot in it")
            # what stands beside it in the column of methods
            if name in (*BASELINES, UNTRAINED) or name.startswith((WARMED_UP, "chat_")):
                raise ValueError(f"a method cannot be called '{name}': another row of the results has this name")
        return methods

    @field_validator("task", "datasets")
    @classmethod
    def _known_sources(cls, value: TaskSettings | dict[str, TaskSettings]) -> TaskSettings | dict[str, TaskSettings]:
        for task in value.values() if isinstance(value, dict) else [value]:
            source_of(task.source, task.source_options)
        return value

    @field_validator("needs", "needs_asked")
    @classmethod
    def _known_nouns(cls, needs: dict[str, Need]) -> dict[str, Need]:
        if ALL_NEEDS in needs:
            raise ValueError(f"a need cannot be called '{ALL_NEEDS}', which means all of them")
        if Columns.ENGAGEMENT in needs:
            raise ValueError(
                f"a need cannot be called '{Columns.ENGAGEMENT}', as the description of the task calls labels"
            )
        for name, need in needs.items():
            fields = re.findall(r"\{(\w*)\}", need.instruction)
            if unknown := [field for field in fields if field not in NOUN_FIELDS]:
                raise ValueError(
                    f"the instruction of '{name}' has the unknown field {{{unknown[0]}}}; "
                    f"use {' or '.join(f'{{{field}}}' for field in NOUN_FIELDS)}"
                )
        return needs

    @field_validator("warm_up_steps", "warm_up_growing")
    @classmethod
    def _known_needs(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if "needs" in info.data:
            _refuse_unknown("need", value, {"default": None, **info.data["needs"]})
        return value

    @field_validator("evaluate")
    @classmethod
    def _known_baselines(cls, value: EvaluationSettings) -> EvaluationSettings:
        _refuse_unknown("baseline", value.baselines, BASELINES)
        if twice := [name for name in BASELINES if value.baselines.count(name) > 1]:
            raise ValueError(f"baseline '{twice[0]}' is named twice")
        return value

    @field_validator("chat")
    @classmethod
    def _known_chat(cls, value: str, info: ValidationInfo) -> str:
        if "chats" in info.data:
            _refuse_unknown("chat endpoint", [value], {"none": None, **info.data["chats"]})
        return value


def _refuse_unknown(kind: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} '{name}', allowed: {', '.join(known)}")


def validate_selection(parameters: dict[str, Any]) -> None:
    """Refuse parameters that no node could use, before any node runs.

    Raises:
        InputError: Names every key that is unknown or out of range, or a need that the dataset cannot serve.
    """
    try:
        checked = Parameters.model_validate(parameters)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(walked(Parameters, problem["loc"])[1])
            reason = problem["msg"].removeprefix("Value error, ")
            reason = reason[0].lower() + reason[1:]
            # what may be a secret in the wrong place is not repeated
            shown = not any(word in key.lower() for word in ("key", "token", "secret", "password", "base_url"))
            shown = shown and not isinstance(problem["input"], dict)
            given = f" (it is {problem['input']!r})" if shown else ""
            lines.append(f"parameter `{key}`: {reason}{given}")
        raise InputError("\n".join(lines)) from error
    if lines := [f"parameter `{key}`: a finite number is needed (it is {value})" for key, value in _infinite(checked)]:
        raise InputError("\n".join(lines))
    for name, need in (checked.needs_asked | checked.probe_needs).items():
        if lacks := _obstacle(need, checked.task):
            served = [name for name, need in checked.needs.items() if _obstacle(need, checked.task) is None]
            raise InputError(
                f"dataset {checked.dataset} has no {lacks}, so the need {name}, which uses it, cannot be asked of it; "
                f"needs that can: {', '.join(served) or 'none'}"
            )

    _refuse_idle_predictions(checked)


def _infinite(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested settings that is infinite or none, with its key: bounds let some of them through."""
    while isinstance(value, BaseModel):
        value = value.root if isinstance(value, RootModel) else dict(value)
    if isinstance(value, float) and not math.isfinite(value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _infinite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _infinite(item, f"{key}.{place}")


def _refuse_idle_predictions(checked: Parameters) -> None:
    """Refuse a prompt that is there to show predictions, for needs that have none: it would be another one by name."""
    predicted = Columns.PREDICTED
    if predicted in checked.prompt.signals or predicted not in checked.prompt.signals_of_need:
        return
    if not any(uses_engagement(need) for need in checked.needs_asked.values()):
        served = [
            name
            for name, need in checked.needs.items()
            if uses_engagement(need) and _obstacle(need, checked.task) is None
        ]
        raise InputError(
            f"layout {checked.layout} shows what the critic predicts to needs that use engagement, and "
            f"{', '.join(checked.needs_asked)} does not use it; take layout=default, or a need that does: "
            f"{', '.join(served) or 'none'}"
        )


def _obstacle(need: Need, task: TaskSettings) -> str | None:
    """What a need uses and the dataset does not have, in words; None where it has everything."""
    if need.context != task.context:
        return f"{need.context} as the context of its requests"
    used = {factor.signal for term in need.terms for factor in term.factors}
    lacking = [signal for signal in task.unavailable_signals if signal in used]
    return f"signal {lacking[0]}" if lacking else None


def entry(kind: str, table: str, name: Any, *, _root_: Any) -> Any:
    """The entry `name` of a table of the configuration (OmegaConf resolver)."""
    options = _root_[table]
    if name not in options:
        raise InputError(f"unknown {kind} '{name}'. Allowed: {', '.join(str(option) for option in options)}.")
    return _with_digest(options[name], _root_) if table == "datasets" else options[name]


def _with_digest(task: Any, _root_: Any) -> Any:
    """A dataset's entry; where its files may change at any time, with their digest, so that new content is read."""
    values = _plain(task)
    try:
        options = TaskSettings.model_validate(values).source_options
        source = source_of(values["source"], options)
    except (ValidationError, InputError):
        return task  # refused with all others, before any node
    if not isinstance(source, Changeable) or options.get("sha256"):
        return task
    digest = source.digest(Path(_root_["raw_folder"]))
    # a container of OmegaConf's, so that `${task.history}` can reach into it
    return OmegaConf.create({**values, "source_options": {**options, "sha256": digest}})


def entries(table: str, names: Any, *, _root_: Any) -> Any:
    """The entries named in a selection such as `a`, `a+b`, `a,b` or `all` (OmegaConf resolver).

    Of the needs, `all` means those that the chosen dataset can serve.
    """
    options = _root_[table]
    chosen = select_needs("" if names is None else str(names), options)
    given = {name.strip() for name in str(names).replace("+", ",").split(",")}
    if table == "needs" and ALL_NEEDS in given:
        task = _root_.get("task", {})  # made by a resolver, each time it is read
        chosen = tuple(name for name in chosen if name in given or _may_serve(options[name], task))
        if not chosen:
            raise InputError(f"dataset '{_root_['dataset']}' can serve none of the needs {', '.join(options)}")
    return {name: options[name] for name in chosen}


def most(table: str, names: Any, *, _root_: Any) -> Any:
    """The largest number that a table has for the needs of a selection (OmegaConf resolver).

    A need that is not in the table counts with the table's `default`.
    """
    options = _root_[table]
    return max(options.get(name, options["default"]) for name in entries("needs", names, _root_=_root_))


def _may_serve(need: Any, task: Any) -> bool:
    """Whether a dataset can serve a need; malformed entries pass, since they are refused with all others later."""
    try:
        return _obstacle(Need.model_validate(_plain(need)), TaskSettings.model_validate(_plain(task))) is None
    except ValidationError:
        return True


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
