"""The hook that records every run with MLflow: parameters, lineage, copies of outputs, live curves, and its end."""

import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.fingerprint import leaves
from flexrec.runner import Settled, Stored, readable_path, unwrapped
from flexrec.tracking import Tracker, TrackingSettings, numbers, without_passwords

SMALL_MB = 1.0
"""Reused outputs up to this size are copied too, so that a run that skips everything still shows its results."""

PARENT_RUN = "FLEXREC_PARENT_RUN"
"""Variable of the environment with the MLflow run that this one is a part of."""

logger = logging.getLogger(__name__)
curves = logging.getLogger("flexrec.curves")


class TrackingHooks:
    """Opens an MLflow run before the pipelines and closes it after them."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._tracker: Tracker | None = None
        self._catalog: CatalogProtocol | None = None
        self._lineage: dict[str, dict[str, Any]] = {}
        self._announced: dict[str, Path] = {}
        self._curves: _CurveHandler | None = None

    @property
    def context(self) -> KedroContext | None:
        """The context that was made last: that of the session that runs, unless it has made others."""
        return self._context

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the configuration; nothing is opened by commands that run nothing."""
        self._context = context

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Open the run."""
        project = Path(run_params["project_path"])
        settings = self._settings().resolved(project)
        # of an earlier run in this process nothing may be left, whether this one is recorded or not
        self._catalog, self._lineage, self._announced = catalog, {}, {}
        if not settings.enabled:
            return
        values = catalog["parameters"].load() if "parameters" in catalog else {}
        parameters = dict(leaves("", values)) if values else {}
        names = ", ".join(run_params["pipeline_names"] or ["__default__"])
        tags = {
            "session": run_params["run_id"],
            "pipelines": names,
            "environment": run_params["env"] or "",
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "nodes": ", ".join(node.name for node in pipeline.nodes),
            "seeds": json.dumps(_seeds(parameters, pipeline)),
            **_git(project),
        }
        if parent := os.environ.get(PARENT_RUN):
            tags["mlflow.parentRunId"] = parent
        self._tracker = Tracker(settings)
        self._tracker.start(f"{names} {run_params['run_id']}", tags, parameters)
        self._curves = _CurveHandler(self._tracker)

    @hook_impl
    def tracking_run(self) -> str | None:
        """The id of the open run."""
        return self._tracker.run_id if self._tracker else None

    @hook_impl
    def after_node_settled(self, settled: Settled) -> None:
        """Record what a node read and made."""
        for stored in settled.outputs:
            if self._marks(stored).get("announce"):
                self._announced[stored.name] = stored.path
        if (tracker := self._tracker) is None:
            return
        for stored in settled.inputs:
            self._lineage.setdefault(stored.name, self._record(stored, "read"))
        for stored in settled.outputs:
            record = self._lineage[stored.name] = self._record(stored, settled.state)
            limit = tracker.settings.copy_limit_mb if settled.state == "made" else SMALL_MB
            if stored.size <= limit * 1e6 and stored.size <= tracker.settings.copy_limit_mb * 1e6:
                record["copy"] = f"{self._layer(stored)}/{stored.name}"
                tracker.copy(stored.path, record["copy"])
            if self._marks(stored).get("metrics"):
                try:
                    tracker.point(0, numbers("", json.loads(stored.path.read_text(encoding="utf-8"))))
                except ValueError as error:
                    raise InputError(f"`{stored.name}` is marked as metrics in the catalog, but is no JSON") from error
        if settled.state == "made":
            tracker.point(0, {f"seconds/{settled.node}": settled.seconds})

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Close the run as finished, and say where to look."""
        for name, path in self._announced.items():
            logger.info("%s: %s", name, path)
        if self._tracker is not None and self._tracker.run_id is not None:
            place = without_passwords(str(self._tracker.settings.tracking_uri))
            logger.info("MLflow run %s in %s", self._tracker.run_id, place)
        self._close("FINISHED", {})

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Close the run as failed, with the error's message."""
        self._close("FAILED", {"error": f"{type(error).__name__}: {error}"})

    @hook_impl
    def after_run_left(self) -> None:
        """Close the run as killed if nothing else closed it: it was interrupted."""
        self._close("KILLED", {})

    def _close(self, status: str, tags: dict[str, str]) -> None:
        if self._curves is not None:
            self._curves.remove()
        if self._tracker is not None:
            self._tracker.finish(status, list(self._lineage.values()), tags)
        self._curves = self._tracker = self._catalog = None

    def _settings(self) -> TrackingSettings:
        try:
            values = self._context.config_loader["mlflow"] if self._context else {}
            return TrackingSettings.model_validate(values)
        except (MissingConfigException, KeyError):
            return TrackingSettings.model_validate({})
        except ValidationError as error:
            raise InputError(f"mlflow.yml: {error}") from error

    def _marks(self, stored: Stored) -> dict[str, Any]:
        return self._metadata(stored).get("flexrec") or {}

    def _metadata(self, stored: Stored) -> dict[str, Any]:
        assert self._catalog is not None
        return getattr(unwrapped(self._catalog[stored.name]), "metadata", None) or {}

    def _layer(self, stored: Stored) -> str:
        layer = self._metadata(stored).get("kedro-viz", {}).get("layer")
        folder = stored.path.parents[2] if stored.version else stored.path.parent
        return str(layer or folder.name).replace(" ", "_")

    def _record(self, stored: Stored, state: str) -> dict[str, Any]:
        assert self._catalog is not None
        kind = type(unwrapped(self._catalog[stored.name]))
        sidecar = stored.sidecar
        return {
            "dataset": stored.name,
            "state": state,
            "sha256": stored.content,
            "size": stored.size,
            "type": f"{kind.__module__}.{kind.__qualname__}",
            "version": stored.version,
            "place": readable_path(stored.path),
            "made_by": sidecar and sidecar.node,
            "fingerprint": sidecar and sidecar.fingerprint,
            "session": sidecar and sidecar.session,
            "mlflow_run": sidecar and sidecar.mlflow_run,
        }


class _CurveHandler(logging.Handler):
    """Sends the points of `flexrec.progress.emit` to the tracker as they come."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(logging.INFO)
        self._tracker = tracker
        self._level_before = curves.level
        if not curves.isEnabledFor(logging.INFO):
            curves.setLevel(logging.INFO)
        curves.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """One point."""
        curve, values = record.__dict__["curve"], record.__dict__["values"]
        self._tracker.point(record.__dict__["step"], {f"{curve}/{name}": value for name, value in values.items()})

    def remove(self) -> None:
        """Stop listening."""
        curves.removeHandler(self)
        curves.setLevel(self._level_before)


def _seeds(parameters: dict[str, str], pipeline: Pipeline) -> dict[str, str]:
    """The run's seed, and whatever other seeds the pipeline's nodes read."""
    read = ["seed", *(name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:"))]
    return {
        name: value
        for name, value in parameters.items()
        if name.endswith("seed") and any(name == one or name.startswith(f"{one}.") for one in read)
    }


def _git(project: Path) -> dict[str, str]:
    """The commit, and whether anything differs from it; empty outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=project, capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()

    try:
        return {
            "mlflow.source.git.commit": git("rev-parse", "HEAD"),
            "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}
