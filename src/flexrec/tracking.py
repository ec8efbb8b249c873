"""One MLflow run per `kedro run`, written with plain MLflow and without any global state of MLflow.

A tracking server that cannot be reached costs one warning, never a run: what could not be sent is kept and tried again,
at the latest when the run ends.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field

from flexrec.config import Settings

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

LIMITS = {"param": 6000, "tag": 8000, "name": 250, "params": 100, "metrics": 1000, "digest": 36}
"""MLflow's own: characters of a value and of a name, items per request, characters of a dataset's digest."""

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's defaults wait for an unreachable server for minutes, per request."""

FLUSH_SECONDS = 2.0
RETRY_SECONDS = 60.0


class TrackingSettings(Settings):
    """The file `mlflow.yml`."""

    enabled: bool = True
    tracking_uri: str | None = Field(
        None, description="A server's address; by default MLFLOW_TRACKING_URI, or an SQLite file in the project"
    )
    artifact_location: str | None = Field(
        None, description="Folder or address of the artifacts of a new experiment; by default the server's choice"
    )
    experiment: str = Field("flexrec", min_length=1)
    copy_limit_mb: float = Field(20.0, ge=0, description="Larger outputs are recorded by digest and place only")

    def resolved(self, project: Path) -> "TrackingSettings":
        """The same with every address filled in and every relative path put below the project."""
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        location = self.artifact_location
        if uri.startswith("sqlite:///"):
            uri = f"sqlite:///{(project / uri.removeprefix('sqlite:///')).as_posix()}"
            location = location or "mlartifacts"
        if location and not urlsplit(location).scheme:
            location = (project / location).as_uri()
        return self.model_copy(update={"tracking_uri": uri, "artifact_location": location})


def allowed_name(name: str) -> str:
    """A name with what MLflow refuses replaced by `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name)[: LIMITS["name"]]


def numbers(name: str, value: Any) -> dict[str, float]:
    """The numbers of a nested value by their path, `a/b/c`."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in numbers(f"{name}/{key}" if name else key, item).items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {name: float(value)}
    return {}


def without_passwords(text: str) -> str:
    """Text without the user names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


class Tracker:
    """One run at the tracking service.

    No method raises because of the service.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        """Args: `settings`, resolved."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        # Making a new SQLite file is no news
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.settings = settings
        self._open: tuple[MlflowClient, str] | None = None
        self._pending: list[Metric] = []
        # parameters and copies that did not get through, by where they belong
        self._left: dict[str, Callable[[], object]] = {}
        self._warned = False
        self._last_sent = 0.0
        self._retry_at = 0.0

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None where it could not be opened."""
        return self._open[1] if self._open else None

    def start(self, name: str, tags: Mapping[str, str], parameters: Mapping[str, str]) -> None:
        """Open the run."""

        def send() -> None:
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=self.settings.tracking_uri)
            experiment = client.get_experiment_by_name(self.settings.experiment)
            experiment_id = (
                experiment.experiment_id
                if experiment is not None
                else client.create_experiment(self.settings.experiment, self.settings.artifact_location)
            )
            there = experiment.artifact_location if experiment is not None else self.settings.artifact_location
            if self.settings.artifact_location not in (None, there):
                logger.warning(
                    "MLflow keeps the artifacts of experiment %s in %s, where it was made; for %s name another "
                    "`experiment` in mlflow.yml",
                    self.settings.experiment,
                    there,
                    self.settings.artifact_location,
                )
            texts = {key: value[: LIMITS["tag"]] for key, value in tags.items()}
            run_id = client.create_run(experiment_id, tags=texts, run_name=name).info.run_id
            self._open = client, run_id

        def describe() -> None:
            from mlflow.entities import Param

            assert self._open is not None
            client, run_id = self._open
            pairs = [Param(allowed_name(key), value[: LIMITS["param"]]) for key, value in parameters.items()]
            for start in range(0, len(pairs), LIMITS["params"]):
                client.log_batch(run_id, params=pairs[start : start + LIMITS["params"]])

        if self._attempt(send):
            self._send("parameters", describe)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to every named curve; sent within seconds, or later if the service is away."""
        if self._open is None:
            return
        from mlflow.entities import Metric

        now = time.time()
        self._pending += [
            Metric(allowed_name(name), float(value), int(now * 1000), step)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        if now - self._last_sent >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the points that are waiting."""
        if self._open is None:
            return
        client, run_id = self._open

        def send() -> None:
            while self._pending:
                client.log_batch(run_id, metrics=self._pending[: LIMITS["metrics"]])
                del self._pending[: LIMITS["metrics"]]
            self._last_sent = time.time()

        self._attempt(send)

    def copy(self, path: Path, folder: str) -> None:
        """Keep a copy of a file or folder among the run's artifacts."""
        if self._open is None:
            return
        client, run_id = self._open

        def send() -> None:
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)

        self._send(folder, send)

    def finish(self, status: str, lineage: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> None:
        """Write the lineage and close the run; the last try for everything that is still waiting."""
        if self._open is None:
            return
        client, run_id = self._open

        def send() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            inputs = [
                DatasetInput(
                    Dataset(
                        record["dataset"],
                        record["sha256"][: LIMITS["digest"]],
                        "local",
                        json.dumps({"uri": record["place"]}),
                        profile=json.dumps(record),
                    ),
                    [InputTag("mlflow.data.context", record["state"])],
                )
                for record in told
            ]
            if inputs:
                client.log_inputs(run_id, datasets=inputs)
            for key, value in tags.items():
                client.set_tag(run_id, key, value[: LIMITS["tag"]])

        def keep() -> None:
            client.log_text(run_id, json.dumps(told, indent=2) + "\n", "lineage.json")

        # last: where artifacts go may be away while the server is there
        last = (
            lambda: self._attempt(send),
            lambda: self._attempt(keep),
            lambda: self._attempt(lambda: client.set_terminated(run_id, status)),
        )
        for waiting in (self.flush, self._send_left):
            # whatever became of the one before
            self._retry_at = 0.0
            waiting()
        # a copy that is not there is not claimed
        told = [{k: v for k, v in one.items() if k != "copy" or v not in self._left} for one in lineage]
        for step in last:
            self._retry_at = 0.0
            step()

    def _send(self, what: str, send: Callable[[], object]) -> None:
        """Try, and keep what could not be sent until the run ends."""
        if self._attempt(send):
            self._left.pop(what, None)
        else:
            self._left[what] = send

    def _send_left(self) -> None:
        for what, send in list(self._left.items()):
            if not self._attempt(send):
                return
            del self._left[what]

    def _attempt(self, send: Callable[[], object]) -> bool:
        """Try once, and say whether it was sent; after a failure, wait a while before anything else is tried."""
        if time.time() < self._retry_at:
            return False
        try:
            send()
            return True
        except Exception as error:
            self._retry_at = time.time() + RETRY_SECONDS
            logger.debug("Tracking failed.", exc_info=True)
            if not self._warned:
                self._warned = True
                reason = without_passwords((str(error).splitlines() or [type(error).__name__])[0])[:200]
                logger.warning(
                    "MLflow at %s does not answer (%s). The run goes on; what cannot be recorded there is lost, "
                    "the results in data/ are not.",
                    without_passwords(str(self.settings.tracking_uri)),
                    reason,
                    extra={"markup": False},
                )
            return False
