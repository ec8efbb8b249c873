import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flexrec import fingerprint
from flexrec.errors import InputError
from flexrec.source_code import code_of, unwrap

# --- Functions ---


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def plain_node(a: int, b: int = 0) -> int:
    return a + b


@decorated
def wrapped_node(a: int) -> int:
    return a


def make_closure(held: object) -> Callable[..., Any]:
    def inner(a: int) -> object:
        return held

    return inner


def test_unwrap() -> None:
    assert unwrap(plain_node) == ([plain_node], "[[]]")
    functions, bound = unwrap(functools.partial(functools.partial(plain_node, 1), b=[2]))
    assert functions == [plain_node]
    assert bound == "[[[1],{\"b\":[2]}],[]]"  # fmt: skip
    assert unwrap(wrapped_node)[0] == [wrapped_node, wrapped_node.__wrapped__]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a: a, "use a function defined with `def`"),
        (make_closure(1), "it is a closure"),
        (functools.partial(print, 1), "print cannot be a node"),
        (functools.partial(plain_node, object()), "object cannot be fingerprinted"),
        ("abc".upper, "upper cannot be a node"),
    ],
)
def test_what_cannot_be_read_from_source_is_refused(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        unwrap(function)


# --- Code ---

PACKAGE = {
    "__init__.py": '"""Package."""\nfrom shop.inner import add\nfrom .shapes import area as surface\n',
    "nodes.py": '''
        """Nodes."""
        from shop import prices, shapes as forms
        from shop.lazy.registry import find
        from .late import *
        import numpy

        LIMIT = 3

        def total(rows):
            """Total."""
            from shop.inner import add
            return helper(add(rows, LIMIT))

        def helper(x):
            return prices.gross(x)

        def other(x):
            return forms.area(x) + find(x)

        def annotated(x: "Money"):
            return x

        class Money:
            pass
    ''',
    "prices.py": "from shop.rates import VAT\n\ndef gross(x):\n    # with tax\n    return x * VAT\n",
    "rates.py": "VAT = 1.2\n",
    "shapes.py": "def area(x):\n    return x\n",
    "inner.py": "def add(a, b):\n    return a + b\n",
    "late.py": "LATE = 1\n",
    "lazy/__init__.py": "",
    "lazy/registry.py": "import importlib\nNAMES = {'a': 'shop.lazy.a:A'}\ndef find(x):\n    return NAMES[x]\n",
    "lazy/a.py": "A = 1\n",
    "lazy/b.py": "B = 1\n",
    "unrelated.py": "X = 1\n",
    "pipeline.py": "from kedro.pipeline import node\nfrom shop.unrelated import X\n",
    "page.css": "a {}\n",
    "templates/page.html": "<p>\n",
}


class Shop:
    """A package on disk whose code can be edited and fingerprinted again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shop"
        for name, text in PACKAGE.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.split("\n")
        indent = "        " if text.startswith("\n        ") else ""
        file.write_text("\n".join(line.removeprefix(indent) for line in lines).lstrip("\n"))

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def code(self, function: str = "total") -> dict[str, str]:
        for module in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[module]
        importlib.invalidate_caches()
        return dict(code_of([getattr(importlib.import_module("shop.nodes"), function)]).modules)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Shop(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[module]


def test_code_is_what_the_function_can_reach(shop: Shop) -> None:
    assert shop.code("total").keys() == {
        "shop/page.css",
        "shop/templates/page.html",
        "shop.nodes",
        "shop.prices",
        "shop.rates",
        "shop.inner",
        "shop.late",
    }
    # A registry may import what it names.
    assert {"shop.shapes", "shop.lazy.registry", "shop.lazy.a"} <= shop.code("other").keys()
    assert "shop.lazy.b" not in shop.code("other")


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("prices.py", "# with tax", "# with VAT\n\n", {}),
        ("nodes.py", '"""Total."""', '"""Sum.\n\n    More."""', {}),
        ("nodes.py", '"""Nodes."""\n', "", {}),
        ("prices.py", "return x * VAT", "return (x *\n        VAT)", {}),
        ("nodes.py", "return forms.area(x) + find(x)", "return find(x) - forms.area(x)", {}),
        ("nodes.py", "    pass", "    x = 1", {}),
        ("shapes.py", "return x", "return 2 * x", {}),
        ("unrelated.py", "1", "2", {}),
        ("pipeline.py", "node", "node, pipeline", {}),
        ("rates.py", "1.2", "1.25", {"shop.rates"}),
        ("inner.py", "a + b", "b + a", {"shop.inner"}),
        ("late.py", "1", "2", {"shop.late"}),
        ("__init__.py", '"""Package."""', "from shop import unrelated\nX = {'a': unrelated.X}", {}),
        ("__init__.py", '"""Package."""', "import os\nos.environ['A'] = '1'", {"shop", "shop.shapes"}),
        (
            "__init__.py",
            '"""Package."""',
            "from shop.unrelated import X\nprint(X)",
            {"shop", "shop.shapes", "shop.unrelated"},
        ),
        ("nodes.py", "from shop.inner", "from shop", {"shop.nodes"}),
        ("page.css", "a", "b", {"shop/page.css"}),
        ("templates/page.html", "<p>", "<b>", {"shop/templates/page.html"}),
        ("nodes.py", "LIMIT = 3", "LIMIT = 4", {"shop.nodes"}),
        ("nodes.py", "gross(x)", "gross(2 * x)", {"shop.nodes"}),
        ("nodes.py", "def helper(x)", "def helper(x=1)", {"shop.nodes"}),
        ("nodes.py", "def other(x)", "@print\ndef other(x)", {"shop.nodes", "shop.shapes"}),
        ("nodes.py", "import numpy", "import shop.unrelated as u", {"shop.nodes", "shop.unrelated"}),
    ],
)
def test_what_changes_the_code_of_a_function(shop: Shop, name: str, old: str, new: str, changed: set[str]) -> None:
    before = shop.code()
    shop.edit(name, old, new)
    after = shop.code()
    different = {module for module in after if after[module] != before.get(module)}
    assert different - {"shop.lazy.registry", "shop.lazy.a"} == set(changed)


def test_an_annotation_in_quotes_is_a_use(shop: Shop) -> None:
    before = shop.code("annotated")
    shop.edit("nodes.py", "    pass", "    x = 1")
    assert shop.code("annotated")["shop.nodes"] != before["shop.nodes"]


def test_an_import_whose_name_is_not_known_counts_as_everything(shop: Shop) -> None:
    shop.edit("lazy/registry.py", "return NAMES[x]", "return importlib.import_module(NAMES[x])")
    assert {"shop.lazy.b", "shop.unrelated"} <= shop.code("other").keys()
    assert "shop.unrelated" not in shop.code("total")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("from shop import surface", {"shop.shapes"}),
        ("from shop.deals import half as h", {"shop.deals.cuts"}),
        ("from shop.deals import cuts", {"shop.deals.cuts"}),
        ("from shop.deals import TABLE", {"shop.deals", "shop.deals.cuts", "shop.deals.more"}),
        ("from shop.star import half", {"shop.star", "shop.deals", "shop.deals.cuts", "shop.deals.more"}),
        ("from shop.deals import more", {"shop.deals", "shop.deals.cuts", "shop.deals.more"}),
        ("import shop.deals.cuts as c", {"shop.deals.cuts"}),
        ("import shop.deals.cuts", {"shop", "shop.shapes", "shop.deals", "shop.deals.cuts", "shop.deals.more"}),
        ("import logging\n    logging.getLogger('shop.events')", set()),
        ("from shop.deals.late import late", {"shop.deals.late", "shop.deals.cuts"}),
    ],
)
def test_packages_are_looked_through(shop: Shop, statement: str, found: set[str]) -> None:
    shop.write(
        "deals/__init__.py",
        "from typing import TYPE_CHECKING\nfrom shop.deals import cuts\nfrom shop.deals.cuts import half\n"
        "from shop.deals.more import MORE\nif TYPE_CHECKING:\n    import pandas\n"
        "class more:\n    pass\nTABLE: dict = {'half': half, 'more': MORE}\n__all__ = ['TABLE']\n",
    )
    shop.write("deals/cuts.py", "def half(x):\n    return x / 2\n")
    shop.write("deals/more.py", "MORE = 1\n")
    shop.write("deals/late.py", "from . import half\ndef late(x):\n    return half(x)\n")
    shop.write("star.py", "from shop.deals import *\n")
    before = shop.code()
    shop.edit("inner.py", "return a + b", f"{statement}\n    return a + b")
    assert shop.code().keys() - before.keys() == found


def test_the_wrapper_of_a_function_counts(shop: Shop) -> None:
    shop.write(
        "wrap.py",
        "import functools\ndef loud(f):\n    @functools.wraps(f)\n    def w(*a):\n        return f(*a)\n    return w\n",
    )
    shop.edit("nodes.py", "def total", "from shop.wrap import loud\n@loud\ndef total")
    shop.code()
    function = sys.modules["shop.nodes"].total
    modules = code_of(unwrap(function)[0]).modules
    assert {"shop.wrap", "shop.prices"} <= modules.keys()


def test_libraries_count_by_version(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.edit("inner.py", "return a + b", "import sklearn.metrics, rich, json, not_there\n    return a + b")
    shop.code()
    function = sys.modules["shop.nodes"].total
    found = code_of([function]).libraries
    # numpy and scipy compute for scikit-learn; rich is harmless, json is Python's own
    assert found.keys() == {"python", "scikit-learn", "numpy", "scipy", "not_there"}
    assert found["scikit-learn"] == importlib.metadata.version("scikit-learn")
    assert found["not_there"] == "not installed"
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_is_named_counts_without_its_neighbours(shop: Shop) -> None:
    shop.write("schemas.py", "class Items:\n    a: int\n\nclass Users:\n    b: int\n")

    def schemas(name: str) -> str | None:
        shop.code()
        return code_of([sys.modules["shop.nodes"].total], [name]).modules.get("shop.schemas")

    before = {name: schemas(name) for name in ("shop.schemas.Items", "shop.schemas.Users", "shop.schemas")}
    assert len({*before.values()}) == 3
    shop.edit("schemas.py", "b: int", "b: str")
    changed = {name for name, digest in before.items() if schemas(name) != digest}
    assert changed == {"shop.schemas.Users", "shop.schemas"}
    assert schemas("pandas.DataFrame") is None
    assert "pandas" in code_of([sys.modules["shop.nodes"].total], ["pandas.DataFrame"]).libraries


def test_a_class_counts_without_its_neighbours(shop: Shop) -> None:
    def nodes() -> str:
        shop.code()
        module = sys.modules["shop.nodes"]
        return code_of([module.total, module.Money]).modules["shop.nodes"]

    before = nodes()
    shop.edit("nodes.py", "return forms.area(x) + find(x)", "return find(x) - forms.area(x)")
    assert nodes() == before
    shop.edit("nodes.py", "    pass", "    x = 1")
    assert nodes() != before


def test_code_edited_after_it_was_imported_is_refused(shop: Shop) -> None:
    shop.code()
    function = sys.modules["shop.nodes"].total
    shop.edit("rates.py", "VAT = 1.2", "VAT = 1.2  # of 2011")
    code_of([function])
    shop.edit("rates.py", "1.2", "1.3")
    with pytest.raises(InputError, match=r"shop\.rates changed on disk after it was imported"):
        code_of([function])
    importlib.reload(sys.modules["shop.rates"])
    code_of([function])


def test_an_interactive_function_is_refused() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def node(x):\n    return x", space)
    with pytest.raises(InputError, match="not interactively"):
        code_of([space["node"]])


def test_nothing_that_python_imports_is_overlooked() -> None:
    script = "import sys, flexrec.hooks; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    imported = {name for name in printed.split() if name.partition(".")[0] == "flexrec"}
    assert {"flexrec.hooks", "flexrec.files"} <= imported
    # of the package itself, whose `__init__` only names a version, nothing is used
    assert imported - {"flexrec"} <= code_of([fingerprint.content_digest], ["flexrec.hooks"]).modules.keys()
