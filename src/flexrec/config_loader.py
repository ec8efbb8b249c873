"""The project's configuration as Kedro reads it, in a fraction of the time."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

Read = dict[tuple[str | None, str], Any]
"""What the files of a kind hold, by environment and kind."""


class FlexrecConfigLoader(OmegaConfigLoader):
    """Kedro's, with shorter ways to the same values, and environments that change what base's own choices read.

    What it overrides are steps of Kedro's own. Where Kedro no longer took them, it would be slower, and an environment
    would not change what is picked out of a table (tests/test_conf.py).
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

    def _resolve_from_raw_config(
        self,
        key: str,
        base_configs: dict[Path, DictConfig],
        env_configs: dict[Path, DictConfig],
        *rest: Any,
    ) -> dict[str, Any]:
        # Kedro resolves base before it merges the environment: what base picks out of a table (`task` of datasets.yml)
        # would not be what the environment has changed there
        if self.merge_strategy.get(key) == "soft":
            # tables first: a key that is merged into what was picked reads it then
            base_configs, env_configs = {**base_configs, **dict(sorted(env_configs.items()))}, {}
        resolved: dict[str, Any] = super()._resolve_from_raw_config(key, base_configs, env_configs, *rest)
        return resolved

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
