"""Pages that pipelines wrote into `docs/results`: `python -m flexrec.reporting.publish_pages PLACE...`.

Those are the tables of a study, the planted-truth study, query rewriting, the probe with its gallery, the check for
forgetting, the headroom and a chat endpoint; a place is such a page, or a folder above it. Each is copied with a line
on where it comes from, and with its figures as pictures beside it; no number is typed by hand.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from plotly.io import read_json

from flexrec.errors import InputError
from flexrec.files import replacing
from flexrec.fingerprint import Sidecar
from flexrec.reporting.blocks import markdown_text
from flexrec.reporting.pictures import picture, plain_text
from flexrec.reporting.publish import FACTS, fact_rows, origin, refuse_other_regime


def _of_run(kind: str) -> Callable[[Path], str]:
    """`<dataset>/<regime>/<need>/<model>/<method>`, whose regime stands in the page."""
    return lambda folder: f"{folder.parents[3].name}-{'-'.join(folder.parts[-3:])}-{kind}"


NAMES: Mapping[str, Callable[[Path], str]] = {
    "tables.md": lambda folder: f"study-{folder.name}",
    "planted.md": lambda folder: "planted",
    # <dataset>/<regime>/query_rewrite/<model>
    "rewrite_results.md": lambda folder: f"{folder.parents[2].name}-query_rewrite-{folder.name}",
    "probe.md": _of_run("probe"),
    "forgetting.md": _of_run("forgetting"),
    # <dataset>/<regime>
    "headroom.md": lambda folder: f"{folder.parent.name}-headroom-{folder.name}",
    # <dataset>/<regime>/<need>/<model>/chat/<name>
    "chat.md": lambda folder: f"{folder.parents[4].name}-{'-'.join(folder.parts[-4:])}",
}
"""File that a pipeline writes -> how it is called in `docs/results`, from its folder."""

FIGURES: Mapping[str, Sequence[str]] = {
    "tables.md": [
        f"figures/{name}.json"
        for name in ("results", "learning_by_steps", "learning_by_tokens", "critic", "advantage", "weights")
    ],
    "planted.md": ["*_figure.json"],
    "rewrite_results.md": ["rewrite_figure.json", "rewrite_training_figure.json"],
    "probe.md": [f"probe_{name}_figure.json" for name in ("transfer", "switching", "input_order")],
    "forgetting.md": ["forgetting_figure.json"],
    "headroom.md": ["headroom_figure.json"],
}
"""File that a pipeline writes -> the figures that belong to it, from its folder."""


def found_pages(places: Iterable[Path]) -> dict[str, Path]:
    """Name in `docs/results` -> the page, for all at or below the places; of several versions the newest.

    Raises:
        InputError: There is none at one of the places, or two of one name.
    """
    pages: dict[str, Path] = {}
    for place in places:
        around = [place] if place.name in NAMES and place.is_file() else [*place.rglob("*.md")]
        files = sorted(file.absolute() for file in around if file.name in NAMES and file.is_file())
        if not files:
            raise InputError(f"{place}: no {' or '.join(NAMES)} there; run the pipeline first, or name another place")
        for file in files:
            name = re.sub(r"[^\w.+-]+", "+", f"{NAMES[file.name](_folder(file))}.md")
            known = pages.get(name, file)
            if _folder(known) != _folder(file):
                raise InputError(f"two pages would both become {name}: {known}, {file}")
            pages[name] = file
    return pages


def _folder(page: Path) -> Path:
    # Kedro puts a version of a page into <page>/<version>
    return page.parents[2] if page.parents[1].name == page.name else page.parent


def pictures(path: Path, name: str) -> dict[str, tuple[str, bytes]]:
    """The figures of a page, those that show nothing left out.

    Args:
        path: The pipeline's page.
        name: Of the published one.

    Returns:
        File name -> the figure's own title, and the picture.
    """
    folder, found = _folder(path), {}
    for pattern in FIGURES.get(path.name, ()):
        for file in sorted(folder.glob(pattern)):
            figure = read_json(file)
            if figure.data:
                said = " ".join(plain_text(figure.layout.title.text or file.stem).split())
                # what the page's own name says need not be said again
                own = file.stem.removesuffix("_figure").removeprefix(path.stem.partition("_")[0]).strip("_")
                found["-".join([name.removesuffix(".md"), *([own] if own else [])]) + ".png"] = said, picture(figure)
    return found


def published(path: Path, name: str, drawn: Mapping[str, tuple[str, bytes]] | None = None) -> str:
    """The pipeline's page with its origin on top, and its pictures below the tables.

    Raises:
        InputError: The file is not what a pipeline writes.
    """
    text = path.read_text(encoding="utf-8")
    body, separator, rows = text.partition(FACTS)
    sidecar = Sidecar.read(path)
    if not separator or sidecar is None:
        raise InputError(f"{path} is not what a pipeline writes: a table of facts and its record")
    made = origin(dict(fact_rows(rows)), sidecar.session or "unknown")
    heading, _, rest = body.strip().partition("\n")
    if not heading.startswith("# "):
        heading, rest = f"# {name.removesuffix('.md')}", body
    shown = [f"![{markdown_text(said)}]({file})" for file, (said, _) in (drawn or {}).items()]
    figures = "\n\n".join(["## Figures", *shown, ""]) + "\n" if shown else ""
    return f"{heading}\n\n{made}\n\n{rest.strip()}\n\n{figures}{separator}{rows.rstrip()}\n"


def publish(places: Sequence[Path], *, docs: Path) -> list[Path]:
    """Publish pages; either every one is read without a mistake or nothing is written.

    Raises:
        InputError: See `found_pages`, `published`, `picture` and `refuse_other_regime`.
    """
    files: dict[Path, bytes] = {}
    for name, path in found_pages(places).items():
        refuse_other_regime(docs / name, dict(fact_rows(path.read_text(encoding="utf-8").partition(FACTS)[2])))
        drawn = pictures(path, name)
        files[docs / name] = published(path, name, drawn).encode()
        files |= {docs / file: content for file, (_, content) in drawn.items()}
    for file, content in files.items():
        with replacing(file, "wb") as opened:
            opened.write(content)
    return list(files)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flexrec.reporting.publish_pages", description="Publish pages.")
    parser.add_argument("places", nargs="+", type=Path, metavar="PLACE", help="a page, or a folder above")
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    given = parser.parse_args(arguments)
    try:
        written = publish(given.places, docs=given.docs)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from error
    print("\n".join(["Published:", *(f"  {path}" for path in written)]))


if __name__ == "__main__":
    main()
