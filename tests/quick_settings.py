"""The same configuration read faster: a session takes most of its time for that, and the suite has hundreds of them.

What OmegaConf makes of a text is remembered by the text, so a changed file is read anew.
"""

import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omegaconf._utils
import omegaconf.base
from dynaconf.utils import files as dynaconf_files
from omegaconf import OmegaConf, grammar_parser


def read_quickly() -> None:
    """Patch this process."""
    # Every session asks dynaconf for its settings, and dynaconf the whole stack for the name of the script. With the
    # source lines of each frame, which it does not look at, that was half of the time of a session under pytest.
    dynaconf_files.inspect = SimpleNamespace(stack=lambda: inspect.stack(context=0))
    OmegaConf.load = staticmethod(_by_text(OmegaConf.load))
    # of `${dataset}/${need}` and the like; nothing changes a tree
    omegaconf.base.parse = omegaconf._utils.parse = functools.cache(grammar_parser.parse)


def read_all(folder: Path) -> None:
    """Remember the files of a folder, for the forks of this process."""
    for file in folder.rglob("*.yml"):
        # as Kedro does
        config = OmegaConf.load(io.StringIO(file.read_text(encoding="utf-8")))
        for text in _texts(OmegaConf.to_container(config)):
            if "${" in text:
                omegaconf.base.parse(text)


def _by_text(load: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[str, bytes] = {}

    def quick(file: Any) -> Any:
        if not isinstance(file, io.StringIO):
            return load(file)
        text = file.read()
        if text not in known:
            known[text] = pickle.dumps(load(io.StringIO(text)))
        # a copy, which whoever asked may change
        return pickle.loads(known[text])

    return quick


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
