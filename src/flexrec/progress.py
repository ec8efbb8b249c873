"""Progress for people (bars) and for machines (curves), without a dependency on any tracking service.

`emit` writes a structured record to the logger `flexrec.curves`; whoever wants the curves (the MLflow hook, a test)
attaches a handler to that logger. The library therefore never knows where its curves end up.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

curves = logging.getLogger("flexrec.curves")


def track(iterable: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, with a progress bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(iterable, description=description, total=total, console=Console(stderr=True))


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
