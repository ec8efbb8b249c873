"""What made a result: the fingerprint of a node, and the sidecar file that keeps it beside every output.

A fingerprint covers everything that the outputs of a node are a function of: the code that it runs
(`flexrec.source_code`), its parameters, the bytes of its inputs, the versions of the libraries behind it, how its
catalog entries read and write, and how it is wired. Equal fingerprints mean that running the node again would be a
waste; one changed part names the reason to.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.files import replacing

FORMAT = 1
"""Raised when the meaning of a fingerprint changes; older sidecars then no longer match."""

SUFFIX = ".fingerprint.json"

LONGEST_SHOWN = 120
"""Parameter values up to this many characters stand in the sidecar as they are, longer ones as their digest."""

Parts = Mapping[str, Mapping[str, str]]

_WORDS = {
    "code": "the code of {}",
    "parameter": "parameter {}",
    "order": "the order of the keys of parameter {}",
    "input": "input {}",
    "library": "library {}",
    "entry": "the catalog entry of {}",
    "wiring": "the node's {}",
}


# --- Values -----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Reduce a value to what JSON can say, with nothing dropped.

    Raises:
        InputError: The value has no canonical form (an object, a function).
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, RootModel):
        return plain(value.root)
    if isinstance(value, BaseModel | Mapping):
        return {str(key): plain(item) for key, item in dict(value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=canonical)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise InputError(
        f"a value of type {type(value).__name__} cannot be fingerprinted; use numbers, text, lists and mappings"
    )


def canonical(value: Any) -> str:
    """The one JSON text of a value; the order of keys does not matter."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The leaves of a nested value as (dotted name, canonical JSON), in the order of the value."""
    value = plain(value)
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(f"{name}.{key}" if name else key, item)
    else:
        yield name, canonical(value)


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the sorted names and digests of the files in a folder.

    The bytes are always read: a modification time says nothing about content. Sidecars and unfinished files do not
    count.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not file.name.endswith((SUFFIX, ".partial"))
    )
    return text_digest("folder\n" + "".join(f"{content_digest(path / name)}  {name}\n" for name in names))


def size_of(path: Path) -> int:
    """Bytes in a file or folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# --- Fingerprint and sidecar ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The parts that a result is made of, by kind (see `_WORDS`) and name."""

    parts: Parts

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all parts."""
        return text_digest(canonical({"format": FORMAT, "parts": self.parts}))

    def difference(self, made: Parts) -> str | None:
        """The first part in which this differs from the parts that something was made with, in words."""
        for kind, words in _WORDS.items():
            now, then = self.parts.get(kind, {}), made.get(kind, {})
            names = sorted(now.keys() | then.keys(), key=lambda name: (name not in now or name not in then, name))
            for name in names:
                subject = words.format(name)
                if name not in then:
                    return f"{subject} was not used before"
                if name not in now:
                    return f"{subject} is no longer used"
                if now[name] != then[name]:
                    shown = kind in ("parameter", "library") and "sha256:" not in now[name] + then[name]
                    return f"{subject} changed" + (f" from {then[name]} to {now[name]}" if shown else "")
        return None


class Sidecar(Settings):
    """The file `<output>.fingerprint.json`: what made an output, and the digest that it had then."""

    dataset: str
    node: str
    fingerprint: str
    parts: dict[str, dict[str, str]]
    content: str
    size: int
    seconds: float
    session: str | None
    mlflow_run: str | None

    @staticmethod
    def beside(path: Path) -> Path:
        """The sidecar's path."""
        return path.with_name(path.name + SUFFIX)

    @classmethod
    def read(cls, path: Path) -> "Sidecar | None":
        """The sidecar of the output at `path`, or None where there is none that can be read."""
        try:
            return cls.model_validate_json(cls.beside(path).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Write the sidecar of the output at `path`, atomically."""
        with replacing(self.beside(path)) as file:
            file.write(self.model_dump_json(indent=2) + "\n")


def parameter_parts(values: Mapping[str, Any]) -> Parts:
    """The kinds `parameter` and `order` of the parameters that a node reads.

    The order of keys is a part of its own because code may iterate over a mapping. That of `parameters` as a whole is
    not: it follows the order in which configuration files are found.
    """
    shown, order = {}, {}
    for name, value in values.items():
        pairs = list(leaves("" if name == "parameters" else name.removeprefix("params:"), value))
        for leaf, text in pairs:
            shown[leaf] = text if len(text) <= LONGEST_SHOWN else f"sha256:{text_digest(text)}"
        if name != "parameters" and len(pairs) > 1:
            order[name.removeprefix("params:")] = text_digest("\n".join(leaf for leaf, _ in pairs))
    return {"parameter": shown, "order": order}
