"""The catalog's file formats, written atomically, and two kinds of folder.

Everything is local: the runner reads the bytes of every dataset to know what a result was made of.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version
from kedro_datasets.json import JSONDataset as KedroJSONDataset
from kedro_datasets.pandas import ParquetDataset as KedroParquetDataset
from kedro_datasets.plotly import JSONDataset as KedroPlotlyDataset
from kedro_datasets.text import TextDataset as KedroTextDataset
from plotly import graph_objects as go

from flexrec.attempts import Clock
from flexrec.errors import InputError
from flexrec.files import building, replacing
from flexrec.fingerprint import content_digest
from flexrec.ranking.columns import Columns
from flexrec.sources.sparsify import Marks, marked
from flexrec.tabular import (
    Engine,
    as_table,
    connect,
    is_numbered,
    read_parquet,
    write_parquet,
)

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend


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


def _schema(name: str) -> Any:
    # pandera takes a while to import, and listing pipelines needs none of it
    from flexrec.ranking import schemas

    return getattr(schemas, name)


class TableDataset(AbstractDataset["ibis.Table | pd.DataFrame", "ibis.Table"]):
    """A table that may be too large for memory: Parquet on disk, an Ibis table in the nodes, computed by an engine.

    DuckDB writes one file, Spark a folder of part files; each reads the other's. The values are checked once, when the
    table is written and before it takes its place; loading checks columns and types only.
    """

    def __init__(
        self, *, filepath: str, engine: dict[str, Any], schema: str, metadata: dict[str, Any] | None = None
    ) -> None:
        """Args: `engine` as `flexrec.tabular.Engine` reads it, `schema` the name of a class in `schemas`."""
        self._filepath = Path(filepath)
        self._engine = Engine.model_validate(engine)
        self._schema = _schema(schema)
        self.metadata = metadata

    @property
    def connection(self) -> "BaseBackend":
        """The engine, started when it is first needed."""
        return connect(self._engine)

    def load(self) -> "ibis.Table":
        """The table; nothing is read until something is computed from it."""
        return self._schema.validate_types(read_parquet(self._filepath, self.connection))

    def save(self, data: "ibis.Table | pd.DataFrame") -> None:
        """Compute and write the table.

        Raises:
            InputError: A value breaks a rule of the schema; the message names row and rule, and the old table stays.
        """
        in_memory = isinstance(data, pd.DataFrame)
        table = as_table(self._schema.validate(data)) if in_memory else self._schema.validate_types(data)
        with building(self._filepath) as partial:
            write_parquet(table, partial, self.connection)
            if not in_memory:
                self._schema.validate_values(read_parquet(partial, self.connection))
                self._schema.validate_numbers(lambda column: is_numbered(partial, column, self.connection))

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "engine": self._engine.root.kind}


DIGEST = "interactions.sha256"
"""File beside marks that says which interactions they belong to."""


class ObservationsDataset(AbstractDataset[Marks, "ibis.Table"]):
    """The table `observations`, kept as marks on the table `interactions` instead of a second copy of it.

    A folder with the observed events, the split of every user, and the digest of the interactions that they belong to.
    """

    def __init__(
        self,
        *,
        filepath: str,
        interactions: dict[str, str],
        engine: dict[str, Any],
        schema: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Args: `interactions` has the `filepath` of that table; the others as for `TableDataset`."""
        self._filepath = Path(filepath)
        self._interactions = TableDataset(filepath=interactions["filepath"], engine=engine, schema="Interactions")
        self._schema = _schema(schema)
        self.metadata = metadata

    def load(self) -> "ibis.Table":
        """The interactions with `observed` and `split`; nothing is read until something is computed from it.

        Raises:
            InputError: The marks belong to other interactions than there are now.
        """
        digest = (self._filepath / DIGEST).read_text(encoding="utf-8").strip()
        if content_digest(self._interactions._filepath) != digest:
            raise InputError(
                f"{self._filepath} belongs to other interactions than {self._interactions._filepath} holds now; make "
                "it again: kedro run --pipelines=sparsify, with the same --env and --params"
            )
        connection = self._interactions.connection
        marks = Marks(
            *(read_parquet(self._filepath / name, connection) for name in ("observed.parquet", "splits.parquet"))
        )
        return self._schema.validate_types(marked(self._interactions.load(), marks))

    def save(self, data: Marks) -> None:
        """Compute and write the marks.

        Raises:
            InputError: A mark breaks a rule of the schema; the old ones stay.
        """
        connection = self._interactions.connection
        with building(self._filepath) as partial:
            partial.mkdir()
            self._schema.validate_marks(data.observed, data.splits)
            write_parquet(data.observed.order_by(Columns.EVENT_ID), partial / "observed.parquet", connection)
            write_parquet(data.splits.order_by(Columns.USER_ID), partial / "splits.parquet", connection)
            digest = content_digest(self._interactions._filepath)
            (partial / DIGEST).write_text(f"{digest}\n", encoding="utf-8")

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "interactions": self._interactions._filepath}


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
        with building(target) as partial:
            if isinstance(data, Path):
                shutil.copytree(data, partial)
            elif callable(data):
                partial.mkdir()
                data(partial)
            else:
                raise DatasetError(f"a folder is saved from a path or a function, not from {type(data).__name__}")
            if not any(partial.iterdir()):
                raise DatasetError(f"nothing was written into the folder for {target}")

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
        self._clock = Clock(self._path)
        self._bound = False
        self._lock_file = self._path.with_name(f".{self._path.name}.lock")
        self._held: IO[str] | None = None
        self.seconds = 0.0
        """What earlier attempts took; known once it is bound."""
        self.metadata = metadata

    def bind(self, fingerprint: str, *, wipe: bool = False) -> bool:
        """Keep the folder for `fingerprint` alone, and from other runs until `release`.

        Returns:
            Whether there is something to resume from.

        Raises:
            InputError: Another run is at work in it.
        """
        self._lock()
        self._bound = True
        known = self._marker.read_text(encoding="utf-8") if self._marker.is_file() else None
        if known != fingerprint or wipe:
            self.clear()
            with replacing(self._marker) as file:
                file.write(fingerprint)
        self.seconds = self._clock.start()
        return any(path not in (self._marker, self._clock.file) for path in self._path.iterdir())

    def _lock(self) -> None:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        while self._held is None:
            file = self._lock_file.open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise InputError(
                    f"another run is at work in {self._path}; wait for it: a training that both went on with would be "
                    "neither's"
                ) from error
            # who had it may have removed it after it was opened here: then it would keep nobody out
            if self._lock_file.exists() and os.path.samestat(os.fstat(file.fileno()), self._lock_file.stat()):
                self._held = file
            else:
                file.close()

    def release(self) -> None:
        """Let other runs have the folder."""
        if self._held is not None:
            self._lock_file.unlink(missing_ok=True)
            self._held.close()
            self._held = None

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
