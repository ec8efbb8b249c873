"""Progress for people (bars, or lines in a log) and for machines (curves), with no dependency on any tracking service.

`emit` writes a structured record to the logger `flexrec.curves`; whoever wants the curves (the MLflow hook, a test)
attaches a handler to that logger. The library therefore never knows where its curves end up.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)
curves = logging.getLogger("flexrec.curves")

PAUSE_SECONDS = 60.0
"""Between two lines about work that goes on, where no bar can be drawn."""


def track(iterable: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, with a progress bar on standard error; where that is no terminal, with a line a minute.

    Args:
        iterable: What is worked through.
        description: Of the work, for people: "training the critic".
        total: How many there are; None: what `iterable` has, if it says so.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if not sys.stderr.isatty():
        yield from _told(iterable, description, total)
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(iterable, description=description, total=total, console=Console(stderr=True))


def _told(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    begin = told = time.monotonic()
    for done, value in enumerate(iterable):
        now = time.monotonic()
        if now - told >= PAUSE_SECONDS:
            told = now
            count = str(done) if total is None else f"{done} of {total}"
            left = f", about {readable_time((now - begin) / done * (total - done))} to go" if total and done else ""
            log.info("%s: %s after %s%s", description, count, readable_time(now - begin), left)
        yield value


def readable_time(seconds: float) -> str:
    """A time for people, `2 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def emit(curve: str, step: int, values: Mapping[str, float]) -> None:
    """Publish one point of a training curve.

    Args:
        curve: Name of the curve family, for instance `rl` or `critic`.
        step: Optimiser step or epoch, counted from 0.
        values: Finite values by metric name.
    """
    # families of values (`advantage/std_at_rank_07`) are for plots; a line of text holds the few single ones
    told = {name: value for name, value in values.items() if name.count("/") == 0 or name.startswith("validation/")}
    text = "  ".join(f"{name} {value:.4g}" for name, value in told.items())
    curves.info("%s step %d  %s", curve, step, text, extra={"curve": curve, "step": step, "values": dict(values)})
