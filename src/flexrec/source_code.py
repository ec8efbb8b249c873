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

import ast
import dataclasses
import functools
import importlib.metadata
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flexrec.errors import InputError
from flexrec.fingerprint import canonical, content_digest, text_digest

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
class Source:
    """What matters in the source of one module, or of the part of it that a function can reach."""

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    """(level, module, names) of every import: `from .a import b` is (1, "a", ("b",)), `import a` is (0, "a", ())."""
    passed_on: Mapping[str, tuple[int, str, str]]
    """(level, module, name) by the name that a `from` import at the top of the module binds."""
    own: frozenset[str]
    """Names that the module binds in any other way."""
    acts: bool
    """Whether importing it does more than importing, defining and naming things."""
    mentions: tuple[str, ...]
    """Text constants that look like a dotted name: a registry may import them."""
    dynamic: bool
    """Whether it imports something whose name is only known at run time."""


_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+(?::[\w.]+)?")
_WORD = re.compile(r"\w+")


@functools.cache
def read_source(text: str, reachable_from: tuple[str, ...] = ()) -> Source:
    """Analyse the source of a module.

    Args:
        text: Source of the module.
        reachable_from: Names of top-level functions and classes; what none of them needs is left out.

    Raises:
        SyntaxError: It is not Python.
    """
    pieces = _pieces(text)
    if reachable_from:
        pieces = _reachable(pieces, set(reachable_from))
    passed_on: dict[str, tuple[int, str, str]] = {}
    own: set[str] = set()
    for piece in pieces:
        if isinstance(statement := piece.imported, ast.ImportFrom):
            for alias in statement.names:
                passed_on[alias.asname or alias.name] = (statement.level, statement.module or "", alias.name)
        else:
            own |= piece.binds
    return Source(
        digest=text_digest(_dump_of_module(pieces)),
        imports=tuple(found for piece in pieces for found in piece.imports),
        passed_on=passed_on,
        own=frozenset(own),
        acts=any(piece.acts for piece in pieces),
        mentions=tuple(sorted(set().union(*(piece.mentions for piece in pieces)))),
        dynamic=any(piece.dynamic for piece in pieces),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    """What matters of one statement at the top of a module; its syntax tree would take ten times the memory."""

    dump: str
    defines: str | None
    """The function or class that it is."""
    decorated: bool
    imported: ast.Import | ast.ImportFrom | None
    names: frozenset[str]
    """Every name in it; words in its texts too, which may be annotations or looked up at run time."""
    binds: frozenset[str]
    """Names that it binds, at any depth; rather one too many."""
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    mentions: frozenset[str]
    dynamic: bool
    acts: bool


@functools.cache
def _pieces(text: str) -> tuple[_Piece, ...]:
    """The statements of a module, docstrings and other text that stands alone left out."""
    return tuple(_piece(statement) for statement in ast.parse(text).body if not _is_text(statement))


def _piece(statement: ast.stmt) -> _Piece:
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    names: set[str] = set()
    binds: set[str] = set()
    mentions: set[str] = set()
    dynamic = False
    for node in _without_texts(statement):
        if isinstance(node, ast.Name):
            names.add(node.id)
            if isinstance(node.ctx, ast.Store):
                binds.add(node.id)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                names.update(_WORD.findall(node.value))
                if _DOTTED.fullmatch(node.value):
                    mentions.add(node.value)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            literal = node.args and isinstance(node.args[0], ast.Constant)
            dynamic |= name in ("import_module", "__import__") and not literal
        elif isinstance(node, ast.alias):
            binds.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                imports.append((0, alias.name, ()))
                if alias.asname is None:  # `import a.b` gives all of `a`
                    imports += [(0, parent, ()) for parent in _parents(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            binds.add(node.name)
    defined = statement if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else None
    return _Piece(
        dump=ast.dump(statement),
        defines=defined.name if defined else None,
        decorated=bool(defined and defined.decorator_list),
        imported=statement if isinstance(statement, ast.Import | ast.ImportFrom) else None,
        names=frozenset(names),
        binds=frozenset(binds),
        imports=tuple(imports),
        mentions=frozenset(mentions),
        dynamic=dynamic,
        acts=not _only_names(statement),
    )


def _without_texts(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that has parts; docstrings and other text that stands alone are taken out of the tree on the way."""
    pending = [tree]
    while pending:
        node = pending.pop()
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                # an operator or a context has nothing in it
                if value._fields:
                    pending.append(value)
            elif isinstance(value, list):
                if name in ("body", "orelse", "finalbody"):
                    value[:] = [inner for inner in value if not _is_text(inner)]
                pending.extend(inner for inner in value if isinstance(inner, ast.AST) and inner._fields)
        yield node


def _is_text(statement: ast.AST) -> bool:
    if not isinstance(statement, ast.Expr):
        return False
    return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


def _dump_of_module(pieces: Iterable[_Piece]) -> str:
    """`ast.dump` of a module of these statements; how it writes the module itself is Python's business."""
    if not (dumps := [piece.dump for piece in pieces]):
        return ast.dump(ast.Module([], []))
    before, _, after = ast.dump(ast.Module([ast.Pass()], [])).partition("Pass()")
    return f"{before}{', '.join(dumps)}{after}"


def _parents(name: str) -> list[str]:
    """The packages above a module: `a` and `a.b` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _only_names(statement: ast.stmt) -> bool:
    """Whether a statement imports, defines or names something and does nothing else."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not statement.decorator_list
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return all(isinstance(target, ast.Name) for target in targets)
    if isinstance(statement, ast.If | ast.Try):
        inner = [*statement.body, *statement.orelse]
        if isinstance(statement, ast.Try):
            inner += [*statement.finalbody, *(item for handler in statement.handlers for item in handler.body)]
        return all(_only_names(item) for item in inner)
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def _reachable(pieces: tuple[_Piece, ...], wanted: set[str]) -> tuple[_Piece, ...]:
    """Drop the functions, classes and imports that only other dropped ones use.

    Whatever runs when the module is imported stays: plain statements, and decorated definitions, which may register
    themselves somewhere.
    """
    named = [piece for piece in pieces if piece.defines is not None]
    definitions = {piece.defines: piece for piece in named}
    if not wanted <= definitions.keys() or len(definitions) != len(named):
        return pieces  # made in another way (a loop, an assignment), or defined twice
    optional = {name: piece for name, piece in definitions.items() if name in wanted or not piece.decorated}
    always = [piece for piece in pieces if optional.get(piece.defines) is not piece and piece.imported is None]
    needed = wanted.union(*(piece.names for piece in always))
    pending = list(needed)
    while pending:
        if (definition := optional.get(pending.pop())) is not None:
            found = definition.names - needed
            needed |= found
            pending += found
    dropped = [piece for name, piece in optional.items() if name not in needed]
    unneeded = set().union(*(piece.names for piece in dropped)) - needed
    kept: list[_Piece] = []
    for piece in pieces:
        if (statement := piece.imported) is not None:
            # An import that nothing names is there for its effect, and stays.
            names = [a for a in statement.names if (a.asname or a.name).partition(".")[0] not in unneeded]
            if len(names) == len(statement.names):
                kept.append(piece)
            elif names:
                kept.append(_piece(_with_names(statement, names)))
        elif piece not in dropped:
            kept.append(piece)
    return tuple(kept)


def _with_names(statement: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> ast.stmt:
    """The import statement of only these names."""
    if isinstance(statement, ast.Import):
        return ast.Import(names)
    return ast.ImportFrom(statement.module, names, statement.level)


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
        for parent in _parents(name):
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
