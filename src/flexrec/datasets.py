"""The catalog's file formats, written atomically, and two kinds of folder.

Everything is local: the runner reads the bytes of every dataset to know what a result was made of.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version
from kedro_datasets.json import JSONDataset as KedroJSONDataset
from kedro_datasets.pandas import ParquetDataset as KedroParquetDataset
from kedro_datasets.plotly import JSONDataset as KedroPlotlyDataset
from kedro_datasets.text import TextDataset as KedroTextDataset
from plotly import graph_objects as go

from flexrec.files import replacing, sibling


def _target(dataset: Any) -> Path:
    """Where a dataset of kedro-datasets is about to be saved."""
    if dataset._protocol != "file":
        raise DatasetError(f"only local files can be written atomically, not {dataset._protocol}://")
    return Path(dataset._get_save_path())


class ParquetDataset(KedroParquetDataset):
    """A table in one Parquet file."""

    def save(self, data: pd.DataFrame) -> None:
        """Write the table."""
        with replacing(_target(self), "wb") as file:
            data.to_parquet(file, **self._save_args)


class JSONDataset(KedroJSONDataset):
    """A JSON file."""

    def save(self, data: Any) -> None:
        """Write the value; what JSON cannot say (NaN, infinity) is refused."""
        with replacing(_target(self)) as file:
            json.dump(data, file, **{"allow_nan": False, "ensure_ascii": False, **self._save_args})


class PlotlyDataset(KedroPlotlyDataset):
    """A Plotly figure as JSON, which kedro-viz shows."""

    def save(self, data: go.Figure) -> None:
        """Write the figure."""
        with replacing(_target(self)) as file:
            data.write_json(file, **self._save_args)


class TextDataset(KedroTextDataset):
    """A text file: Markdown, HTML."""

    def save(self, data: str) -> None:
        """Write the text."""
        with replacing(_target(self)) as file:
            file.write(data)


class FolderDataset(AbstractVersionedDataset[Path | Callable[[Path], None], Path]):
    """A folder as one value, for instance a checkpoint: complete, or not there.

    It is saved from a function that writes into the folder it is given, or from the path of a finished folder, which
    is copied. It is loaded as its path.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> Path:
        """The folder's path."""
        path = Path(self._get_load_path())
        if not path.is_dir():
            raise DatasetError(f"the folder {path} does not exist")
        return path

    def save(self, data: Path | Callable[[Path], None]) -> None:
        """Make the folder.

        Raises:
            DatasetError: `data` is neither a folder nor a function, or it wrote nothing.
        """
        target = Path(self._get_save_path())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial, old = sibling(target), sibling(target)
        try:
            if isinstance(data, Path):
                shutil.copytree(data, partial)
            elif callable(data):
                partial.mkdir()
                data(partial)
            else:
                raise DatasetError(f"a folder is saved from a path or a function, not from {type(data).__name__}")
            if not any(partial.iterdir()):
                raise DatasetError(f"nothing was written into the folder for {target}")
            # A folder cannot take the place of another in one step; a kill in between leaves none, which reruns.
            if target.exists():
                target.replace(old)
            partial.replace(target)
        finally:
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


class WorkFolder(AbstractDataset[NoReturn, Path]):
    """A scratch folder for one long node, which resumes from it after a kill.

    It is an input of the node, loaded as a path. The runner binds it to the node's fingerprint before the node runs,
    which empties it unless it was bound to the same one, and clears it after success: a training therefore resumes
    only with the same code, parameters and data. It is no part of the fingerprint.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self._marker = self._path / ".fingerprint"
        self._bound = False
        self.metadata = metadata

    def bind(self, fingerprint: str, *, wipe: bool = False) -> bool:
        """Keep the folder for `fingerprint` alone.

        Returns:
            Whether there is something to resume from.
        """
        self._bound = True
        known = self._marker.read_text(encoding="utf-8") if self._marker.is_file() else None
        if known != fingerprint or wipe:
            self.clear()
            with replacing(self._marker) as file:
                file.write(fingerprint)
        return any(path != self._marker for path in self._path.iterdir())

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._path, ignore_errors=True)

    def load(self) -> Path:
        """The folder's path."""
        if not self._bound:
            raise DatasetError(f"the work folder {self._path} can only be used by a node that FingerprintRunner runs")
        return self._path

    def save(self, data: NoReturn) -> None:
        """Never: it is an input."""
        raise DatasetError("a work folder is an input of a node, never an output")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path}
