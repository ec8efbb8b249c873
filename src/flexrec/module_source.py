"""What matters in the source of one module: its digest, and what it imports.

Comments, docstrings and formatting do not count. Of a module of which only some functions are asked for, what none of
them can reach does not count either.
"""

import ast
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

from flexrec.fingerprint import text_digest


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
                    imports += [(0, parent, ()) for parent in packages_above(alias.name)]
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


def packages_above(name: str) -> list[str]:
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
