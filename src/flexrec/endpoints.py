"""What clients of OpenAI-compatible endpoints share: address and key, the client, its pace, a cache of answers, errors.

The key is looked up when it is needed and handed to the client alone. It is no setting, so that it is in no parameter,
log, fingerprint or artifact; and it is cut out of whatever a server answers.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from flexrec.config import Settings
from flexrec.errors import InputError

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError


class EndpointSettings(Settings):
    """A model at an endpoint as OpenAI's, which Gemini and most servers of models have too."""

    model: str = Field(min_length=1, description="Name of the model at the endpoint.")
    base_url: str = Field(default="https://api.openai.com/v1", description="Address up to the name of the service.")
    key_variable: str | None = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Environment variable that holds the key; None for an endpoint without keys.",
    )
    credentials: Path = Field(
        default=Path("conf/local/credentials.yml"),
        description="YAML file with the key under the variable's name, where the environment does not have it.",
    )
    retries: int = Field(default=6, ge=0, description="Further attempts where the endpoint is busy, broken or away.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="Patience for an answer.")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as https://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must not contain a key or password; name its environment variable in key_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _own_key(self) -> Self:
        """A key goes where it belongs: that of OpenAI to no other address."""
        if self.base_url != type(self).model_fields["base_url"].default and "key_variable" not in self.model_fields_set:
            raise ValueError(
                "an address of one's own needs a key_variable: the environment variable with its key, or null for none"
            )
        return self


def find_key(settings: EndpointSettings) -> str:
    """The endpoint's key, from the environment or else from the file of credentials.

    Raises:
        InputError: It is in neither, or holds what no key does.
    """
    name = settings.key_variable
    if name is None:
        return "none"
    key = os.environ.get(name, "")
    if not key and settings.credentials.is_file():
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        try:
            found = OmegaConf.select(OmegaConf.load(settings.credentials), name)
        except (OmegaConfBaseException, YAMLError, OSError):
            # the cause would quote the file
            raise InputError(
                f"{settings.credentials} cannot be read, or {name} there refers to something that is not set; repair it"
            ) from None
        key = found if isinstance(found, str) else ""
    if not key.strip():
        raise InputError(
            f"there is no key for {settings.base_url}: set the environment variable {name}, or write `{name}: <key>` "
            f"into {settings.credentials}"
        )
    if not (key.strip().isascii() and key.strip().isprintable()):
        raise InputError(f"{name} holds a character that no key has, perhaps from copying; copy the key again")
    return key.strip()


class Pace:
    """At most so many starts a minute, evenly spaced, over all threads that ask."""

    def __init__(self, per_minute: float) -> None:
        """Args: `per_minute`, above 0."""
        self._gap = 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the caller may start."""
        with self._lock:
            now = monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        sleep(start - now)


def open_client(key: str, settings: EndpointSettings, *, needed_by: str, pace: Pace | None = None) -> OpenAI:
    """A client of the endpoint; a context that closes it.

    It repeats 408, 409, 429, 5xx and lost connections, ever later, and waits as long as a server asks it to (up to two
    minutes).

    Args:
        key: From `find_key`.
        settings: Address, retries and patience.
        needed_by: Who asks, for the message where the client is not installed.
        pace: What every request waits for, repeated ones too.

    Raises:
        InputError: The client is not installed.
    """
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError as error:
        raise InputError(f"{needed_by} need the openai client: pip install -e '.[api]'") from error

    hooks: dict[str, list[Any]] = {} if pace is None else {"request": [lambda _: pace.wait()]}
    return OpenAI(
        base_url=settings.base_url,
        api_key=key,
        max_retries=settings.retries,
        timeout=settings.timeout_seconds,
        http_client=DefaultHttpxClient(event_hooks=hooks),
    )


def refused(error: OpenAIError, key: str, settings: EndpointSettings, lacking: str) -> InputError:
    """What the client's error means to the user, without the key.

    To be raised `from None`: the traceback of the cause may show the request.
    """
    status = getattr(error, "status_code", None)
    text = " ".join(str(error).split())
    if settings.key_variable is not None:
        text = text.replace(key, "[key]")
    hint = f"; look at the key in {settings.key_variable}" if status in (401, 403) else ""
    return InputError(f"{settings.base_url}, model {settings.model}: no {lacking}: {text[:300]}{hint}")


class DigestCache:
    """Bytes by the digest of what made them, in one SQLite file; what is put in stays, whatever is killed later."""

    def __init__(self, path: Path, *, table: str, column: str, holds: str) -> None:
        """Open or make the file.

        Args:
            path: The file.
            table: Name of its table.
            column: Name of the table's column of values, beside `digest`.
            holds: What the values are, for messages.

        Raises:
            InputError: It is something else, or damaged.
        """
        self.path = path
        self._holds = holds
        self._read = f"SELECT digest, {column} FROM {table} WHERE digest = ?"
        self._write = f"INSERT OR REPLACE INTO {table} VALUES (?, ?)"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path, timeout=60)
            self._file.execute(f"CREATE TABLE IF NOT EXISTS {table} (digest TEXT PRIMARY KEY, {column} BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def get(self, digests: Iterable[str]) -> dict[str, bytes]:
        """The values that are there, by digest."""
        try:
            return dict(row for digest in digests for row in self._file.execute(self._read, (digest,)))
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep values, all or none of them."""
        try:
            with self._file:
                self._file.executemany(self._write, list(values.items()))
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> InputError:
        return InputError(f"{self.path} cannot be used as a cache of {self._holds} ({error}); move it away")
