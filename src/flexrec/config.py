"""The base of every settings model: frozen, and strict about misspelt keys."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, RootModel


class Settings(BaseModel):
    """A validated block of configuration.

    Unknown keys are refused, so that a misspelt option stops a run before its first node instead of being ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def walked(root: type[BaseModel], path: Sequence[Any]) -> tuple[list[type[BaseModel]], list[str]]:
    """The settings models that may stand at a place of nested settings, and the names on the way.

    Pydantic puts the tag of a union, which stands nowhere in a file, among the names.

    Args:
        root: Model of the whole.
        path: `loc` of an error of Pydantic's.
    """
    models: list[type[BaseModel]] = [root]
    names: list[str] = []
    for part in path:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        tagged = [model for model in models if _is_tag_of(part, model)] if len(models) > 1 and not fields else []
        if fields:
            models = [model for field in fields for model in _models_in(field.annotation)]
        models = tagged or models
        # anything else is the key of a table or the place in a list
        names += [] if tagged else [str(part)]
    return models, names


def _is_tag_of(value: Any, model: type[BaseModel]) -> bool:
    return any(
        get_origin(field.annotation) is Literal and value in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _models_in(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
