"""Which code a function runs, read from source without importing anything.

Of the module that defines the function only what the function can reach counts, so that the nodes of one pipeline do
not drag each other along. Of every first-party module that is imported from there, at any depth, the whole counts, with
the data files beside it. Comments, docstrings and formatting do not count.

The `__init__.py` of a package is looked through: a name that it only passes on counts as imported from where it is
defined, and what else it lists does not count, so that a new entry in a registry reruns nothing but the users of that
registry. If it does anything beyond importing, defining and naming things, the whole of it counts.

A module that wires pipelines (it imports `node` of `kedro.pipeline`) computes nothing and is left out: what it says
about a node is part of the fingerprint anyway. An import whose target is only known at run time counts as importing
every module of its package: a stale result is worse than a slow one.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flexrec.errors import InputError
from flexrec.fingerprint import canonical, content_digest
from flexrec.module_source import packages_above, read_source

HARMLESS = frozenset(
    {"click", "jaxtyping", "kedro", "mlflow", "pooch", "requests", "rich", "tqdm", "typing_extensions"}
)
"""Libraries that cannot change a result: annotations, progress bars, downloads checked by digest, and what runs the
nodes."""

BEHIND = {
    "ibis": ("duckdb", "sqlglot"),
    "lightgbm": ("numpy", "scipy", "sklearn"),
    "pandas": ("numpy", "pyarrow"),
    "peft": ("torch",),
    "sentence_transformers": ("tokenizers", "torch", "transformers"),
    "sklearn": ("numpy", "scipy"),
    "transformers": ("tokenizers",),
    "trl": ("accelerate", "transformers"),
}
"""Libraries that compute on behalf of an imported one without being imported by name."""


def unwrap(function: Callable[..., Any]) -> tuple[list[types.FunctionType], str]:
    """The plain functions behind a node's function (partials and `functools.wraps` removed), and what is bound to them.

    Raises:
        InputError: A lambda, a closure or an object: what they hold cannot be read from source.
    """
    functions: list[types.FunctionType] = []
    bound: list[Any] = []
    current: Any = function
    while True:
        if isinstance(current, functools.partial):
            bound.append([list(current.args), current.keywords])
            current = current.func
            continue
        name = getattr(current, "__qualname__", repr(current))
        if not isinstance(current, types.FunctionType) or current.__name__ == "<lambda>":
            raise InputError(f"{name} cannot be a node: use a function defined with `def` at the top of a module")
        functions.append(current)
        wrapped = getattr(current, "__wrapped__", None)
        held = [cell.cell_contents for cell in current.__closure__ or () if cell.cell_contents is not wrapped]
        if held and wrapped is None:
            raise InputError(f"{name} cannot be a node: it is a closure; pass what it holds as parameters")
        bound.append(held)
        if wrapped is None:
            return functions, canonical(bound)
        current = wrapped


@dataclasses.dataclass(frozen=True)
class Code:
    """Digests of modules and data files, and versions of libraries, by name."""

    modules: Mapping[str, str]
    libraries: Mapping[str, str]


class Disk:
    """Source files as they were when they were first asked for: one look for the nodes of a run, which share most."""

    def __init__(self) -> None:
        self._places: dict[tuple[Path, tuple[str, ...]], Path | None] = {}
        self._texts: dict[Path, str] = {}

    def locate(self, root: Path, parts: tuple[str, ...]) -> Path | None:
        """The file of a module below a package, or the folder of a package without one; None if there is neither."""
        if (key := (root, parts)) not in self._places:
            base = root.joinpath(*parts)
            candidates = (base / "__init__.py", base.parent / f"{base.name}.py", base)
            there = (path for path in candidates if path.is_file() or (path == base and base.is_dir()))
            self._places[key] = next(there, None)
        return self._places[key]

    def text(self, path: Path) -> str:
        """What a file holds."""
        if path not in self._texts:
            self._texts[path] = path.read_text(encoding="utf-8")
        return self._texts[path]


def code_of(definitions: Iterable[Callable[..., Any]], named: Iterable[str] = (), disk: Disk | None = None) -> Code:
    """The code that a node runs.

    Args:
        definitions: Top-level functions and classes; a top-level package that defines a function is first-party.
        named: More of them by dotted name, `package.module.Name`; a name that is a module counts as a whole.
        disk: The one of the other nodes of a run, if there are any.

    Raises:
        InputError: A function was defined interactively, or a module changed on disk after it was imported.
    """
    starts: dict[str, set[str]] = {}
    packages = {__name__.partition(".")[0]}
    for definition in definitions:
        # `functools.wraps` gives a wrapper the module of what it wraps; its globals are those of its own.
        scope = getattr(definition, "__globals__", {"__name__": definition.__module__})["__name__"]
        if isinstance(definition, types.FunctionType):
            packages.add(scope.partition(".")[0])
        code = getattr(definition, "__code__", None)
        starts.setdefault(scope, set()).add(code.co_name if code else definition.__qualname__)
    walk = _Walk(packages, disk or Disk())
    for name in named:
        module, _, member = name.rpartition(".")
        if module.partition(".")[0] not in packages or walk.locate(name) is not None:
            walk.target(name)
        else:
            starts.setdefault(module, set()).add(member)
    for name, wanted in starts.items():
        if name.partition(".")[0] in packages:
            walk.module(name, reachable_from=tuple(sorted(wanted)))
        else:
            walk.target(name)
    walk.finish()
    return Code(dict(sorted(walk.digests.items())), _versions(walk.libraries))


class _Walk:
    """Follows imports from module to module."""

    def __init__(self, packages: Iterable[str], disk: Disk) -> None:
        self.disk = disk
        self.roots = {package: _root(package) for package in packages}
        self.digests: dict[str, str] = {}
        self.libraries: set[str] = set()
        self._pending: list[str] = []
        self._whole: set[str] = set()
        self._folders: set[Path] = set()

    def finish(self) -> None:
        """Visit everything that was found on the way."""
        while self._pending:
            self.module(self._pending.pop())

    def target(self, name: str) -> None:
        """Something named `name` is used: a module, or a member of one."""
        top = name.partition(".")[0]
        if top in self.roots:
            while self.locate(name) is None:
                name = name.rpartition(".")[0]
            self._pending.append(name)
        elif top not in sys.stdlib_module_names and top not in HARMLESS:
            self.libraries.add(top)

    def member(self, module: str, name: str) -> None:
        """`from module import name`."""
        path = self.locate(module) if module.partition(".")[0] in self.roots else None
        if path is None or path.name != "__init__.py" or name == "*":
            self.target(module)
            return
        source = read_source(self.disk.text(path))
        if name in source.own:
            self.target(module)
        elif name in source.passed_on:
            level, origin, original = source.passed_on[name]
            base = _absolute(level, origin, package=module)
            if (base, original) == (module, name):  # `from . import name` passes on a module of its own
                self.target(f"{module}.{name}")
            else:
                self.member(base, original)
        else:  # a module in the package, or nothing: then the package is what there is
            self.target(f"{module}.{name}")

    def module(self, name: str, reachable_from: tuple[str, ...] = ()) -> None:
        """Read one first-party module and note what it imports."""
        if name in self._whole:
            return
        if not reachable_from:
            self._whole.add(name)
        path = self.locate(name)
        if path is None:
            raise InputError(f"the source of module {name} cannot be found; nodes have to be functions of the project")
        for parent in packages_above(name):
            init = self.locate(parent)
            if init is not None and init.is_file() and read_source(self.disk.text(init)).acts:
                self._pending.append(parent)
        if path.is_dir():  # a package without __init__.py
            return
        text = self.disk.text(path)
        source = read_source(text, reachable_from)
        if not reachable_from and any(m == "kedro.pipeline" and "node" in names for _, m, names in source.imports):
            return
        _refuse_outdated(name, text)
        self.digests[name] = source.digest
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        if package:
            self._data_files(path.parent, package)
        for level, module, names in source.imports:
            base = _absolute(level, module, package)
            if not names:
                self.target(base)
            for member in names:
                self.member(base, member)
        for mention in source.mentions:
            module = mention.partition(":")[0]
            if module.partition(".")[0] in self.roots and self._below_root(module):
                self.target(module)
        if source.dynamic:
            self._everything(name.partition(".")[0])

    def _below_root(self, name: str) -> bool:
        """Whether a dotted name leads into a package, rather than being the name of a logger or the like."""
        return self.locate(".".join(name.split(".")[:2])) is not None

    def locate(self, name: str) -> Path | None:
        """The file of a first-party module, or the folder of a package without one; None if there is neither."""
        package, *rest = name.split(".")
        root = self.roots[package]
        if root.is_file():
            return None if rest else root
        return self.disk.locate(root, tuple(rest))

    def _everything(self, package: str) -> None:
        root = self.roots[package]
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            self._pending.append(".".join([package, *(part for part in parts if part != "__init__")]))

    def _data_files(self, folder: Path, package: str) -> None:
        """Files that the package's code may read: not Python, and not in a folder of Python."""
        if folder in self._folders:
            return
        self._folders.add(folder)
        for path in folder.iterdir():
            if path.name.startswith((".", "__pycache__")) or path.suffix in (".py", ".pyi", ".pyc"):
                continue
            if path.is_file():
                self.digests[f"{package}/{path.name}"] = content_digest(path)
            elif not any(path.glob("*.py")):
                self._data_files(path, f"{package}/{path.name}")


def _absolute(level: int, module: str, package: str) -> str:
    """The module that a `from` import in `package` names."""
    parts = package.split(".")
    parents = parts[: len(parts) - level + 1] if level else []
    return ".".join([*parents, *([module] if module else [])])


def _root(package: str) -> Path:
    """The folder of a package, or the file of a single module."""
    spec = importlib.util.find_spec(package) if package != "__main__" else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec is None or spec.origin is None:
        raise InputError("a node's function has to be defined in a module of the project, not interactively")
    return Path(spec.origin)


def _refuse_outdated(name: str, text: str) -> None:
    """In a process that runs more than once, make sure that the code on disk is still the code in memory."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:
        return
    first = spec.__dict__.setdefault("_flexrec_source", text)
    if first != text and read_source(first).digest != read_source(text).digest:
        raise InputError(f"{name} changed on disk after it was imported here: restart this Python process to run it")


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed versions of the distributions behind import names; Python's is among them."""
    wanted = set(libraries)
    wanted |= {behind for library in wanted for behind in BEHIND.get(library, ())}
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for library in wanted:
        for distribution in _distributions().get(library, [library]):
            versions[distribution] = _version(distribution)
    return dict(sorted(versions.items()))
