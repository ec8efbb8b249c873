"""Making what is missing of a study, one process per run.

A process per run keeps the memory of one training from the next, and survives whatever a run dies of. Every run is an
ordinary one (`kedro run --pipelines=evaluate --params ...`), so it keeps its results where the same command would.
"""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flexrec.errors import InputError
from flexrec.pipelines.study.look import Look
from flexrec.pipelines.study.project import Project
from flexrec.pipelines.study.times import Times
from flexrec.politeness import ended_politely
from flexrec.progress import PAUSE_SECONDS, readable_time
from flexrec.runner import readable_path
from flexrec.study.plan import Cell

logger = logging.getLogger(__name__)

_LONGEST_REASON = 400
_LONGEST_LINE = 200
_TAIL_BYTES = 4096
_PATIENCE_SECONDS = 20.0
"""What an interrupted run gets to end by itself."""


def run_missing(name: str, looks: Sequence[Look], times: Times, project: Project, logs: Path) -> dict[Cell, str]:
    """Run every cell that is not up to date, in their order.

    Args:
        name: Of the study.
        looks: Its cells.
        times: For the time that is left.
        project: Of this session.
        logs: Folder of what the runs print, `<that of all studies>/<name>/logs`.

    Returns:
        Why a cell failed, for those that did.

    Raises:
        InputError: Another study is running in this project.
    """
    failed: dict[Cell, str] = {}
    missing = [one for one in looks if one.stale]
    if not missing:
        return failed
    planned = times.seconds(missing)
    begin = time.perf_counter()
    with _alone(logs.parents[1]) as lock:
        for number, one in enumerate(missing):
            # as much faster or slower than planned as those before
            pace = (time.perf_counter() - begin) / sum(planned[:number]) if number else 1.0
            logger.info(
                "study %s, run %d of %d: %s; about %s, %s with the others",
                name,
                number + 1,
                len(missing),
                one.cell.words,
                readable_time(pace * planned[number]),
                readable_time(pace * sum(planned[number:])),
            )
            log = logs / f"{one.cell.file_name}.log"
            start = time.perf_counter()
            command, folder = project.command(one.cell), project.folder
            status = launch(command, folder=folder, log=log, variables=project.variables, lock=lock)
            took = readable_time(time.perf_counter() - start)
            if status == 0:
                logger.info("study %s, run %d of %d: done in %s", name, number + 1, len(missing), took)
            else:
                failed[one.cell] = failure(log, status, folder)
                logger.error(
                    "study %s, run %d of %d: failed after %s, the others go on. %s (all it said: %s)",
                    name,
                    number + 1,
                    len(missing),
                    took,
                    failed[one.cell],
                    readable_path(log),
                    extra={"markup": False},
                )
    return failed


def launch(
    command: Sequence[str], *, folder: Path, log: Path, variables: Mapping[str, str], lock: int | None = None
) -> int:
    """Run the interpreter with a command to its end, telling now and then what it says; an interruption ends it, too.

    Args:
        command: Arguments of the interpreter.
        folder: Where it is started.
        log: File for what it prints.
        variables: Added to the environment.
        lock: Open file that it holds as long as it lives.

    Returns:
        Its exit status; minus the signal where it was ended by one.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, ended_politely():
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            pass_fds=() if lock is None else (lock,),
            # Ctrl-C reaches the foreground's whole group: with ours, too, the run would be interrupted twice
            process_group=0,
        )
        try:
            return _wait(process, log)
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _wait(process: subprocess.Popen[bytes], log: Path) -> int:
    begin, told = time.perf_counter(), ""
    while True:
        try:
            return process.wait(PAUSE_SECONDS)
        except subprocess.TimeoutExpired:
            if (line := _last_line(log)) != told:
                told = line
                after = readable_time(time.perf_counter() - begin)
                logger.info("after %s: %s", after, line, extra={"markup": False})


def _last_line(log: Path) -> str:
    """What was said last, without its time; a bar is one line, drawn again and again."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\d\d:\d\d:\d\d\s+", "", lines[-1])[:_LONGEST_LINE] if lines else "it has said nothing yet"


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the lock of the project's studies; a run that outlives its study holds it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "another study, or a run that it left behind, is at work in this project; wait for its end"
            ) from error
        yield file.fileno()


def failure(log: Path, status: int, folder: Path) -> str:
    """Why a run failed, in its own words: what it said last, without the places of this machine.

    Args:
        log: What it printed.
        status: Its exit status.
        folder: The project's.
    """
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    told = " ".join(lines[starts[-1] :]) if starts else (lines[-1] if lines else "it said nothing")
    told = " ".join(re.sub(r"\s+", " ", told.replace(f"{folder}/", "")).split())
    ended = f"ended by signal {-status}: " if status < 0 else ""
    return (ended + told.removeprefix("Error: "))[:_LONGEST_REASON]
