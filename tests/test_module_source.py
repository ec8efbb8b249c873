import ast
from pathlib import Path

import pytest

import flexrec
from flexrec.module_source import read_source

SOURCES = sorted(Path(flexrec.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_formatting_and_comments_never_count(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # `unparse` knows no comments and formats in its own way: an independent rewriting of the same code
    assert read_source(ast.unparse(ast.parse(text))).digest == read_source(text).digest
