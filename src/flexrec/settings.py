"""The project's settings for Kedro."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from omegaconf.resolvers import oc

from flexrec.config_loader import FlexrecConfigLoader
from flexrec.context import FlexrecContext
from flexrec.hooks import TrackingHooks
from flexrec.session import FlexrecSession

# No telemetry: Kedro and MLflow read the first (the word, not 1), TRL and the hub's client the second.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Bars of the libraries are for terminals, as the project's own are (`flexrec.progress`); in a log they are noise.
if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _selection(name: str) -> Callable[..., Any]:
    """A resolver of `flexrec.selection`, which takes long to import and is not needed to list the pipelines."""

    def resolve(*arguments: Any, _root_: Any) -> Any:
        return getattr(importlib.import_module("flexrec.selection"), name)(*arguments, _root_=_root_)

    return resolve


def _layout_part(name: Any) -> str:
    """What the layout of the prompt adds to the paths of what is made with it."""
    return "" if name == "default" else f"+{name}"


def _need_part(selection: Any) -> str:
    """The needs of a selection, which have one place however they are spelled: `a,b`, `b+a`."""
    return "+".join(sorted({name.strip() for name in str(selection).replace("+", ",").split(",")}))


def _density_part(density: Any) -> str:
    """A density as paths have it: 1 is 1.0. What is no number is refused with all other parameters, later."""
    try:
        return str(float(density))
    except (TypeError, ValueError):
        return str(density)


SESSION_CLASS = FlexrecSession
CONTEXT_CLASS = FlexrecContext
HOOKS = (TrackingHooks(),)
CONFIG_LOADER_CLASS = FlexrecConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # an environment overrides single keys, not whole blocks
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    "config_patterns": {
        "parameters": ["parameters*", "parameters*/**", "datasets.yml", "needs.yml", "methods.yml", "models.yml"],
        # the catalog's paths hold what a method learns from
        "globals": ["globals.yml", "methods.yml"],
        "mlflow": ["mlflow.yml"],
    },
    # Kedro takes `oc.env` away outside credentials
    "custom_resolvers": {
        "oc.env": oc.env,
        "layout_part": _layout_part,
        "need_part": _need_part,
        "density_part": _density_part,
        **{name: _selection(name) for name in ("entry", "entries", "most")},
    },
}
