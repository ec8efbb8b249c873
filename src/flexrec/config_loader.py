"""The project's configuration as Kedro reads it, in a fraction of the time."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

Read = dict[tuple[str | None, str], Any]
"""What the files of a kind hold, by environment and kind."""


class FlexrecConfigLoader(OmegaConfigLoader):
    """Kedro's, with shorter ways to the same values.

    What it overrides are steps of Kedro's own; where Kedro no longer takes them, it is slower and nothing else.
    """

    def __init__(self, *args: Any, read: Read | None = None, **kwargs: Any) -> None:
        """Args: `read`, which loaders share whose files are to be read once."""
        # the constructor of Kedro's reads the globals
        self.read = read
        super().__init__(*args, **kwargs)

    def _read_raw_config(self, key: str) -> Any:
        if self.read is None:
            return self._from_files(key)
        if (self.env, key) not in self.read:
            self.read[self.env, key] = self._from_files(key)
        # a copy, since what is made of it is written into it
        return copy.deepcopy(self.read[self.env, key])

    def _from_files(self, key: str) -> Any:
        return super()._read_raw_config(key)

    def _resolve_catalog_config(self, aggregate_config: Iterable[DictConfig]) -> Any:
        merged: Any = OmegaConf.unsafe_merge(*aggregate_config)
        # the parts of paths, which hold each other, once instead of in every path
        for name in merged:
            if str(name).startswith("_"):
                merged[name] = merged[name]
        return super()._resolve_catalog_config([merged])

    @staticmethod
    def _soft_merge(config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None) -> Any:
        # both are plain by now; OmegaConf's merge would make nodes of them once more, and plain values of those
        return _merged(config, env_config)


def _merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in other.items():
        there = result.get(name)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        result[name] = _merged(there, value) if both else value  # type: ignore[arg-type]
    return result
