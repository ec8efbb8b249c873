"""The tables of studies into `docs/results`: `python -m flexrec.study.publish PLACE...` (`make publish-study`).

A place is the folder of a study, or one above. What the pipeline wrote is copied as `study-<name>.md`, with a line on
where it comes from; no number is typed by hand.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from flexrec.errors import InputError
from flexrec.files import replacing
from flexrec.fingerprint import Sidecar
from flexrec.reporting.publish import FACTS, fact_rows

FILE = "tables.md"
_ORIGIN = ("command", "commit", "uncommitted changes", "hardware cpu", "hardware cores", "seeds", "runs", "runs made")


def found_studies(places: Iterable[Path]) -> list[Path]:
    """The studies' `tables.md` at or below the places, by name.

    Raises:
        InputError: There is none at one of the places.
    """
    studies: dict[str, Path] = {}
    for place in places:
        files = [file for file in (place / FILE, *place.rglob(FILE)) if file.is_file()]
        if not files:
            raise InputError(f"{place}: no {FILE} there; run `make study` first, or name another place (STUDIES=...)")
        for file in files:
            known = studies.setdefault(file.parent.name, file)
            if known.absolute() != file.absolute():
                raise InputError(f"two studies would both become study-{file.parent.name}.md: {known}, {file}")
    return [studies[name] for name in sorted(studies)]


def study_page(path: Path) -> str:
    """The published file: the pipeline's own with its origin on top.

    Raises:
        InputError: The file is not what the pipeline writes.
    """
    text = path.read_text(encoding="utf-8")
    tables, separator, rows = text.partition(FACTS)
    sidecar = Sidecar.read(path)
    if not separator or sidecar is None:
        raise InputError(f"{path} is not what `kedro run --pipeline=study` writes: a table of facts and its record")
    facts = dict(fact_rows(rows))
    known = {name: facts.get(name, "unknown") for name in _ORIGIN}
    state = " with uncommitted changes" if known["uncommitted changes"] == "True" else ""
    origin = (
        f"Written by `{known['command']}` at commit {known['commit']}{state}, {(sidecar.session or 'unknown')[:10]}, "
        f"on {known['hardware cpu']} ({known['hardware cores']} cores), from {known['runs']} runs made "
        f"{known['runs made']}; seeds {known['seeds']}."
    )
    return f"# Study: {path.parent.name}\n\n{origin}\n\n{tables.strip()}\n\n{separator}{rows.rstrip()}\n"


def publish(places: Sequence[Path], *, docs: Path) -> list[Path]:
    """Publish studies; either every page is read without a mistake or nothing is written.

    Raises:
        InputError: See `found_studies` and `study_page`.
    """
    pages = {docs / f"study-{path.parent.name}.md": study_page(path) for path in found_studies(places)}
    for file, text in pages.items():
        with replacing(file) as opened:
            opened.write(text)
    return list(pages)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flexrec.study.publish", description="Publish studies.")
    parser.add_argument("places", nargs="+", type=Path, metavar="PLACE", help="the folder of a study, or one above")
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    given = parser.parse_args(arguments)
    try:
        written = publish(given.places, docs=given.docs)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from error
    print("\n".join(["Published:", *(f"  {path}" for path in written)]))


if __name__ == "__main__":
    main()
