"""The session behind `kedro run`: checks what was asked for before anything runs, and speaks plainly when it fails."""

import contextlib
import difflib
import importlib
import importlib.util
import logging
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import click
from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.io import DatasetNotFoundError
from kedro.runner import AbstractRunner, SequentialRunner
from kedro.validation.exceptions import ParameterValidationError

from flexrec.config_loader import FlexrecConfigLoader, Read
from flexrec.errors import InputError
from flexrec.politeness import ended_politely
from flexrec.runner import FingerprintRunner, RunSpecs, user_error

logger = logging.getLogger(__name__)


class FlexrecSession(KedroSession):
    """A Kedro session that reuses what is up to date.

    A mistake of the user ends a run with one message and exit code 1; the traceback is logged at debug level. Any other
    exception keeps its traceback.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hook_manager.add_hookspecs(RunSpecs)
        self._checked: AbstractConfigLoader | None = None

    # What Kedro's takes beyond these is passed on by keyword.
    def run(  # type: ignore[override]
        self,
        pipeline_name: str | None = None,
        pipeline_names: list[str] | None = None,
        tags: Iterable[str] | None = None,
        runner: AbstractRunner | None = None,
        **selection: Any,
    ) -> dict[str, Any]:
        """Run pipelines; as Kedro's, with `FingerprintRunner` in the place of `SequentialRunner`.

        Raises:
            click.ClickException: The user can repair it; the message says how.
        """
        if runner is None or type(runner) is SequentialRunner:
            runner = FingerprintRunner(is_async=getattr(runner, "_is_async", False))
        try:
            # paths among the parameters are the project's, as those of the catalog, wherever the command was given
            with contextlib.chdir(self._project_path), ended_politely():
                self.check_parameters()
                return super().run(pipeline_name, pipeline_names, tags, runner, **selection)
        except Exception as error:
            if (message := told(error)) is None:
                raise
            logger.debug("The run failed.", exc_info=True)
            raise click.ClickException(message) from error
        finally:
            self._hook_manager.hook.after_run_left()

    def check_parameters(self) -> None:
        """Refuse run-time parameters that do not exist, and values that the project refuses.

        Raises:
            InputError: Names the key and the allowed ones, or is the project's own.
        """
        unknown: _UnknownKeyError | None = None
        read: Read = {}
        try:
            if given := self.store.get("runtime_params"):
                loader = FlexrecConfigLoader(
                    self._conf_source, env=self.store.get("env"), read=read, **settings.CONFIG_LOADER_ARGS
                )
                try:
                    _check_keys(given, {**loader["parameters"], "fresh": False}, "")
                except _UnknownKeyError as error:
                    if not self._has_selection():
                        raise
                    # a setting that has a default may stand in no file; the project's own check knows it
                    unknown = error
            checked = self._get_config_loader()
            if isinstance(checked, FlexrecConfigLoader):
                checked.read = read
            parameters = checked["parameters"]
        except MissingConfigException:
            return
        _refuse_elsewhere(parameters, checked["globals"], self.store.get("runtime_params") or {})
        # the context shall not read the files again
        checked["parameters"] = parameters
        self._checked = checked
        if self._has_selection():
            try:
                importlib.import_module(f"{self._package_name}.selection").validate_selection(parameters)
            except InputError as error:
                if unknown is not None and f"`{unknown.key}`: extra inputs" in str(error):
                    raise unknown from None
                raise

    def _has_selection(self) -> bool:
        return importlib.util.find_spec(f"{self._package_name}.selection") is not None

    def _get_config_loader(self) -> AbstractConfigLoader:
        """The loader whose parameters were checked, if any were."""
        return super()._get_config_loader() if self._checked is None else self._checked


def _refuse_elsewhere(parameters: Mapping[str, Any], defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what names a run in a file of parameters: paths are made of the globals, and would be another run's."""
    for name in sorted(parameters.keys() & defaults.keys() - given.keys()):
        simple = isinstance(parameters[name], str | int | float)
        if simple and parameters[name] != defaults[name]:
            raise InputError(
                f"parameter `{name}` is {parameters[name]!r} in a parameters file, and {defaults[name]!r} in "
                "globals.yml, of which paths are made: set it there, in conf/local/globals.yml for instance"
            )


class _UnknownKeyError(InputError):
    """A key that no file of the configuration has."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _check_keys(given: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
            raise _UnknownKeyError(
                f"{path}{key}",
                f"unknown parameter `{path}{key}`."
                + (f" Did you mean `{path}{close[0]}`?" if close else "")
                + f" Allowed: {', '.join(f'{path}{k}' for k in sorted(known, key=str))}.",
            )
        # An empty mapping or null in the configuration may be filled with anything.
        if isinstance(value, Mapping) and known[key]:
            if not isinstance(known[key], Mapping):
                raise InputError(f"parameter `{path}{key}` has no parts: it is {known[key]!r}")
            _check_keys(value, known[key], f"{path}{key}.")


def told(error: Exception) -> str | None:
    """What to tell the user, or None where the traceback is what helps."""
    if (known := user_error(error)) is not None:
        return str(known)
    if isinstance(error, ParameterValidationError):
        return str(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    if isinstance(error, ValueError) and raised_in in ("kedro.framework.session.session", "kedro.pipeline.pipeline"):
        # an unknown pipeline, node, tag or dataset on the command line, told in one line
        return " ".join(str(error).split())
    if isinstance(error, DatasetNotFoundError):
        # a misspelt name in `--load-versions`
        return " ".join(str(error).split())
    if isinstance(error, MissingConfigException):
        return f"{' '.join(str(error).split())}; check `--env`"
    return None
