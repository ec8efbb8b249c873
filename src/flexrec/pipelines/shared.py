"""What nodes of several pipelines have in common."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any


def bound(function: Callable[..., Any], **values: Any) -> Callable[..., Any]:
    """A node's function with its last arguments given here instead of by the catalog.

    Kedro reads the name of a function and the types of its parameters, which a bare `partial` does not have.
    """
    return update_wrapper(partial(function, **values), function)


def show(text: str) -> None:
    """Show the results at the end of a run."""
    print(f"\n{text}", flush=True)
