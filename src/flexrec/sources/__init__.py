"""The datasets: raw files in, the common tables out. A new dataset is one module and one line of `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from flexrec.errors import InputError
from flexrec.sources.esci import Esci, FabricatedEsci
from flexrec.sources.fabricated import Fabricated
from flexrec.sources.kuairec import FabricatedKuaiRec, KuaiRec, KuaiRecSample
from flexrec.sources.movielens import MovieLens1M, MovieLens100K
from flexrec.sources.own import OwnData
from flexrec.sources.protocols import Changeable, Source
from flexrec.sources.tables import Tables

__all__ = ["SOURCES", "Changeable", "Source", "Tables", "source_of"]


SOURCES: Mapping[str, Callable[..., Source]] = {
    "ml-100k": MovieLens100K,
    "ml-1m": MovieLens1M,
    "fabricated": Fabricated,
    "kuairec": KuaiRec,
    "kuairec-sample": KuaiRecSample,
    "fabricated-kuairec": FabricatedKuaiRec,
    "esci": Esci,
    "fabricated-esci": FabricatedEsci,
    "own": OwnData,
}
"""Settings classes: a dataset's `source_options` are their fields."""


def source_of(name: str, options: Mapping[str, Any]) -> Source:
    """The source of that name with its options.

    Raises:
        InputError: An unknown name, or options that the source refuses; the message names the key.
    """
    if name not in SOURCES:
        raise InputError(f"unknown source '{name}', allowed: {', '.join(SOURCES)}")
    try:
        return SOURCES[name](**options)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'the options together'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise InputError(f"source_options of source '{name}': {'; '.join(problems)}") from error
