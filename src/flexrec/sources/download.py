"""One file by HTTP, gone on with where it was cut: a downloader for pooch, which compares the digest.

What has arrived stays in `<name>.part` beside the file until all of it is there, also when the run is interrupted or
the machine goes down; the next attempt asks the server for the rest (RFC 9110, section 14: Range).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from flexrec.config import Settings

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)

_CHUNK = 1 << 14  # at most so much is lost of what arrived before a cut
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_REPORT_SECONDS = 15.0


class DownloadPolicy(Settings):
    """How patient a download is."""

    attempts: int = Field(default=5, ge=1, description="Attempts in a row without a new byte before it is given up.")
    backoff_seconds: float = Field(default=1.0, ge=0, description="Pause before the second attempt; doubles each time.")
    longest_pause_seconds: float = Field(default=60.0, ge=0, description="Bound of a pause, a server's wish included.")
    connect_seconds: float = Field(default=10.0, gt=0, description="Patience for a connection.")
    read_seconds: float = Field(default=30.0, gt=0, description="Patience for the next bytes.")


class DownloadError(OSError):
    """The file could not be had from one address; the message says why."""


class _CutError(Exception):
    """An attempt ended early; another one may help. `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class ResumingDownloader:
    """Downloader for `pooch.retrieve` that resumes and retries."""

    def __init__(self, partial: Path, policy: DownloadPolicy) -> None:
        """Args: `partial` keeps what has arrived; `policy` says when to give up."""
        self.partial = partial
        self.policy = policy
        self.resumed = False
        """Whether the last file was put together from more than one answer."""

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Bring the file at `url` to `output_file`.

        Raises:
            DownloadError: The server refuses, or does not answer or send anything new in several attempts.
        """
        self.resumed = self._size() > 0
        furthest, failures = self._size(), 0
        while True:
            try:
                self._attempt(url)
                break
            except _CutError as error:
                # a server that sends everything anew each time makes progress only beyond what it has sent before
                failures = 1 if self._size() > furthest else failures + 1
                furthest = max(furthest, self._size())
                if failures >= self.policy.attempts:
                    raise DownloadError(f"{error}; {failures} attempts in a row brought nothing new") from error
                pause = min(
                    max(error.wait, self.policy.backoff_seconds * 2 ** (failures - 1)),
                    self.policy.longest_pause_seconds,
                )
                logger.info("%s: %s; trying again in %.0f s", self._name, error, pause)
                time.sleep(pause)
                self.resumed = self._size() > 0
        os.replace(self.partial, output_file)  # noqa: PTH105  (the name says what it is for)

    @property
    def _name(self) -> str:
        return self.partial.name.removesuffix(".part")

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _attempt(self, url: str) -> None:
        """Ask for what is missing and append it; returns when the file is whole."""
        import requests

        have = self._size()
        headers = {"Accept-Encoding": "identity"}  # a range counts bytes of the file, not of a compressed transfer
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = (self.policy.connect_seconds, self.policy.read_seconds)
        try:
            with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code == 416 and have:
                    if _whole_size(response) == have:
                        return
                    self.partial.unlink()
                    raise _CutError(f"the server cannot go on at byte {have}")
                if response.status_code >= 400:
                    raise self._refusal(response)
                self._receive(response, have)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            raise DownloadError("no address that can be fetched") from None
        except requests.RequestException as error:
            raise _CutError(_in_words(error)) from error

    def _refusal(self, response: Response) -> Exception:
        reason = f"the server answers {response.status_code} {response.reason}".rstrip()
        if response.status_code not in _TRANSIENT:
            return DownloadError(reason)
        wait = response.headers.get("Retry-After", "")
        return _CutError(reason, float(wait) if wait.isdigit() else 0.0)

    def _receive(self, response: Response, have: int) -> None:
        going_on = response.status_code == 206 and _first_byte(response) == have
        if response.status_code == 206 and not going_on:
            self.partial.unlink()
            raise _CutError(f"the server goes on at another byte than {have}")
        start = have if going_on else 0
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        total = start + int(length) if length.isdigit() and not encoded else None
        if going_on:
            logger.info("%s: going on at byte %d", self._name, have)
        with self.partial.open("ab" if going_on else "wb") as sink, _progress(self._name, start, total) as advance:
            for chunk in response.iter_content(_CHUNK):
                sink.write(chunk)
                advance(len(chunk))
        if total is not None and self._size() < total:
            raise _CutError(f"the connection ended after {self._size()} of {total} bytes")


def _first_byte(response: Response) -> int | None:
    """The first position of `Content-Range: bytes 100-199/200`."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _whole_size(response: Response) -> int | None:
    """The size in `Content-Range: bytes */200`."""
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _in_words(error: Exception) -> str:
    """A short reason for a failed request; the nested texts of its causes are for programmers."""
    import requests

    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection within the time allowed"
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        return "nothing arrived within the time allowed"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return "the connection ended early"
    if "resolve" in str(error):
        return "the server's name cannot be resolved"
    return "no connection to the server"


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator:
    """A bar with speed and remaining time on a terminal, a line now and then elsewhere; yields `advance(bytes)`."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, completed=start)
            yield lambda count: bar.advance(task, count)
        return
    received, said = start, time.monotonic()

    def advance(count: int) -> None:
        nonlocal received, said
        received += count
        if time.monotonic() - said > _REPORT_SECONDS:
            said = time.monotonic()
            share = f"{received / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{received / 1e6:.0f} MB"
            logger.info("%s: %s", name, share)

    yield advance
