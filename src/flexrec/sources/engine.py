"""What the sources that read through an Ibis connection share: errors in words, and rows that break a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexrec.errors import InputError

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Turn whatever an engine raises while it reads a file into one message.

    Args:
        path: The file that is read inside the block.
        advice: What to do about it.

    Raises:
        InputError: The engine could not read the file. Running out of memory stays what it is.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # every engine has exceptions of its own
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else reason[:197] + "..."
        raise InputError(f"{path}: cannot be read ({reason}); {advice}") from error


def require_columns(table: ibis.Table, columns: Mapping[str, str], path: Path) -> None:
    """Refuse a table that lacks a column or has it with another type.

    Args:
        table: What the engine found in the file.
        columns: Name to `whole` (whole numbers) or `text`.
        path: The file, for messages.

    Raises:
        InputError: Names the column, and the columns or the type that are there.
    """
    schema = table.schema()
    if absent := [name for name in columns if name not in schema]:
        raise InputError(f"{path}: column {', '.join(absent)} is missing; the columns are {', '.join(schema)}")
    for name, kind in columns.items():
        fits = schema[name].is_integer() if kind == "whole" else schema[name].is_string()
        if not fits:
            wanted = "whole numbers are" if kind == "whole" else "text is"
            raise InputError(f"{path}: column {name}: {wanted} needed, the type is {schema[name]}")


def first_broken(
    connection: BaseBackend, table: ibis.Table, key: str, rules: Mapping[str, ibis.Value]
) -> tuple[str, dict[str, Any]] | None:
    """The first row, in the order of a key, that breaks a rule; found in one pass over the table.

    Args:
        connection: Where the table lives.
        table: Any table with a column of the key, whole numbers without nulls.
        key: Name of the column that orders the rows.
        rules: Problem in words to condition; a row where the condition holds breaks the rule (null does not).

    Returns:
        The problem and the row by column, or None where every row is sound.
    """
    names = [f"rule_{place}" for place in range(len(rules))]
    firsts = table.aggregate(
        [table[key].min(where=rule).name(name) for name, rule in zip(names, rules.values(), strict=True)]
    )
    found = connection.to_pandas(firsts).iloc[0]
    broken = [(int(found[name]), problem) for name, problem in zip(names, rules, strict=True) if found.notna()[name]]
    if not broken:
        return None
    at, problem = min(broken)
    return problem, connection.to_pandas(table.filter(table[key] == at).limit(1)).iloc[0].to_dict()


def count_where(connection: BaseBackend, table: ibis.Table, conditions: Mapping[str, ibis.Value]) -> dict[str, int]:
    """How many rows meet each condition, by its words; in one pass. Null does not meet it."""
    names = [f"count_{place}" for place in range(len(conditions))]
    counts = table.aggregate(
        [table.count(where=condition).name(name) for name, condition in zip(names, conditions.values(), strict=True)]
    )
    found = connection.to_pandas(counts).iloc[0]
    return {words: int(found[name]) for name, words in zip(names, conditions, strict=True)}
