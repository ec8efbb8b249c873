"""The session that runs a study, and the command line of a run that is a part of it."""

from dataclasses import dataclass
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.project import settings

from flexrec.errors import InputError
from flexrec.fingerprint import leaves
from flexrec.hooks import PARENT_RUN, TrackingHooks
from flexrec.study.plan import Cell

PIPELINE = "evaluate"
"""The pipeline that every cell runs."""


@dataclass(frozen=True)
class Project:
    """Where and how a study was started."""

    folder: Path
    conf_source: str
    environment: str | None
    given: tuple[str, ...]
    tracking_run: str | None

    @classmethod
    def current(cls) -> "Project":
        """Of the session in which this node runs.

        Raises:
            InputError: There is none, for instance because the function was called by itself.
        """
        hooks = next((hook for hook in settings.HOOKS if isinstance(hook, TrackingHooks)), None)
        context: KedroContext | None = hooks.context if hooks else None
        if hooks is None or context is None:
            raise InputError("a study is run by `kedro run --pipelines=study`")
        given = getattr(context, "_runtime_params", None) or {}
        if given.get("fresh"):
            raise InputError("a study makes what is missing, whatever `fresh` says: it belongs to runs by themselves")
        own = {name: value for name, value in given.items() if not name.startswith("study") and name != "fresh"}
        return cls(
            folder=Path(context.project_path),
            conf_source=str(context.config_loader.conf_source),
            environment=context.env,
            given=tuple(f"{name}={text}" for name, text in leaves("", own)) if own else (),
            tracking_run=hooks.tracking_run(),
        )

    def command(self, cell: Cell) -> list[str]:
        """The command line of one run, without the interpreter."""
        environment = cell.environment or self.environment
        command = [
            "-m",
            "kedro",
            "run",
            f"--pipelines={','.join((PIPELINE, *cell.also))}",
            f"--params={','.join(cell.arguments)}",
        ]
        if environment:
            command.append(f"--env={environment}")
        if self.conf_source != str(self.folder / settings.CONF_SOURCE):
            command.append(f"--conf-source={self.conf_source}")
        return command

    @property
    def variables(self) -> dict[str, str]:
        """What is added to the environment of every run: of which it is a part."""
        return {PARENT_RUN: self.tracking_run} if self.tracking_run else {}
