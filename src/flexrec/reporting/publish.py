"""Results into the README and `docs/results`: `python -m flexrec.reporting.publish PLACE...` (`make publish`).

A place is a `results.md` that the pipeline wrote, or a folder; of every run below a folder the newest version counts.
Each is copied to `docs/results`, its tables go between two markers of the README, and the time of every pipeline into
the README's table of pipelines. Times come from the sidecars of exactly the outputs that the result was made from, so
a stage that was reused shows what it took when it ran. No number is typed by hand.
"""

import argparse
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexrec.errors import InputError
from flexrec.files import replacing
from flexrec.fingerprint import SUFFIX, Sidecar

FILE = "results.md"
LAYOUT = f"<dataset>/<density and seed>/<need>/<model>/<method>/{FILE}/<version>/{FILE}"
FACTS = "| fact | value |"
_ORIGIN = ("command", "commit", "uncommitted changes", "hardware cpu", "hardware cores")
_FURTHER = {
    "density": "density {}",
    "runs": "from {} runs",
    "runs made": "made {}",
    "seeds": "seeds {}",
    "seed": "seed {}",
}
"""What a page may know beside, and how it is said."""


@dataclass(frozen=True)
class Step:
    """A node behind a result, and how long it took when it ran."""

    stage: str
    node: str
    seconds: float


@dataclass(frozen=True)
class Result:
    """One `results.md` of the pipeline.

    Attributes:
        dataset: From the path, as are need, model and method.
        need: One need or several.
        model: The base model.
        method: The training method.
        version: Kedro's version, the time of the run (UTC).
        tables: Sentences and tables, Markdown.
        fact_table: The facts of the run, Markdown.
        facts: The same by name.
        steps: The nodes behind it; empty where the sidecars are gone.
    """

    dataset: str
    need: str
    model: str
    method: str
    version: str
    tables: str
    fact_table: str
    facts: Mapping[str, str]
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Name of the published file, without its suffix."""
        return re.sub(r"[^\w.+-]+", "+", f"{self.dataset}-{self.need}-{self.model}-{self.method}")

    @property
    def origin(self) -> str:
        """Where it comes from, in one line."""
        return origin(self.facts, self.version)


def origin(facts: Mapping[str, str], session: str) -> str:
    """Where a page comes from, in one line: what its facts say, and the day of the session that made it."""
    known = {name: facts.get(name, "unknown") for name in _ORIGIN}
    state = " with uncommitted changes" if known["uncommitted changes"] == "True" else ""
    further = ", ".join(words.format(facts[name]) for name, words in _FURTHER.items() if name in facts)
    return (
        f"Made by `{known['command']}` at commit {known['commit']}{state}, {session[:10]}, "
        f"on {known['hardware cpu']} ({known['hardware cores']} cores){'; ' if further else ''}{further}."
    )


def newest_results(places: Iterable[Path]) -> list[Path]:
    """The newest `results.md` of every run at or below the places, newest run first.

    Raises:
        InputError: There is none at one of the places.
    """
    newest: dict[Path, Path] = {}
    for place in places:
        found = [place] if place.is_file() else [path for path in place.rglob(FILE) if path.is_file()]
        if not found:
            raise InputError(f"{place}: no {FILE} there; run `make run` first, or name another place (RESULTS=...)")
        for path in found:
            run = path.parent.parent
            if run not in newest or path.parent.name > newest[run].parent.name:
                newest[run] = path
    return sorted(newest.values(), key=lambda path: (path.parent.name, str(path)), reverse=True)


def read_result(path: Path) -> Result:
    """Read one `results.md` with what is known of its making.

    Raises:
        InputError: The path or the content is not what the pipeline writes.
    """
    parts = path.absolute().parts
    tables, separator, rows = path.read_text(encoding="utf-8").partition(FACTS)
    # two folders above are the layer's and that of all layers
    if len(parts) <= 10 or parts[-3] != FILE or parts[-1] != FILE or not separator:
        raise InputError(f"{path} is not a result of the pipeline, which writes .../{LAYOUT} with a table of facts")
    dataset, _, need, model, method, _, version, _ = parts[-8:]
    return Result(
        dataset=dataset,
        need=need,
        model=model,
        method=method,
        version=version,
        tables=tables.strip(),
        fact_table=separator + rows.rstrip(),
        facts=dict(fact_rows(rows)),
        steps=tuple(_steps(path)),
    )


def fact_rows(table: str) -> Iterator[tuple[str, str]]:
    """The pairs of a Markdown table of two columns, without the escapes of `flexrec.reporting.tables`."""
    for line in table.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 4 and not set(line) <= set("|- "):
            name, value = (html.unescape(re.sub(r"\\([\\`*_\[\]|#~])", r"\1", cell.strip())) for cell in cells[1:3])
            yield name, value


def _steps(path: Path) -> Iterator[Step]:
    """The nodes that the result was made by, first to last, found through the digests of inputs in the sidecars."""
    layers = path.absolute().parents[8]
    known: dict[tuple[str, str], Sidecar] = {}
    for file in layers.rglob(f"*{SUFFIX}"):
        sidecar = Sidecar.read(file.with_name(file.name.removesuffix(SUFFIX)))
        if sidecar is None:
            continue
        key = sidecar.dataset, sidecar.content
        # the same bytes made twice: what the later run took
        if key not in known or (sidecar.session or "") > (known[key].session or ""):
            known[key] = sidecar
    seen: set[str] = set()

    def walk(sidecar: Sidecar) -> Iterator[Step]:
        if sidecar.node not in seen:
            seen.add(sidecar.node)
            for key in sidecar.parts.get("input", {}).items():
                if key in known:
                    yield from walk(known[key])
            yield Step(_stage(sidecar), sidecar.node, sidecar.seconds)

    last = Sidecar.read(path)
    if last is not None:
        yield from walk(last)


def _stage(sidecar: Sidecar) -> str:
    """The pipeline of the node, by the module of its function."""
    modules = (re.fullmatch(r"flexrec\.pipelines\.(\w+)\.nodes", name) for name in sidecar.parts.get("code", {}))
    return next((match[1] for match in modules if match), "?")


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1:
        return "< 1 s"
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"


def stage_seconds(steps: Iterable[Step]) -> dict[str, float]:
    """Seconds by pipeline."""
    total: dict[str, float] = {}
    for step in steps:
        total[step.stage] = total.get(step.stage, 0.0) + step.seconds
    return total


def result_page(result: Result) -> str:
    """The published file: the pipeline's own with its origin on top and its times below."""
    lines = [f"| {step.stage} | {step.node} | {step.seconds:.1f} |" for step in result.steps]
    times = ["", "| pipeline | node | seconds |", "| --- | --- | --- |", *lines] if lines else []
    page = [
        f"# {result.need} on {result.dataset}: {result.model}, {result.method}",
        "",
        result.origin,
        "",
        result.tables,
        "",
        result.fact_table,
        *times,
    ]
    return "\n".join(page) + "\n"


def readme_block(results: Sequence[Result], docs: str) -> str:
    """What stands between the markers of the README."""
    parts = [
        f"**{result.dataset}, {result.model}, {result.method}.** {result.origin} "
        f"All facts: [{docs}/{result.name}.md]({docs}/{result.name}.md).\n\n{result.tables}"
        for result in results
    ]
    return "\n\n".join(parts)


def replace_block(text: str, name: str, content: str) -> str:
    """Put new content between `<!-- name:begin -->` and `<!-- name:end -->`.

    Raises:
        InputError: The markers are not there, each once and in this order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, first, rest = text.partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second) or begin in rest or end in after:
        raise InputError(f"the README needs the markers {begin} and {end}, each once and in this order")
    return f"{before}{begin}\n{content}\n{end}{after}"


def fill_times(text: str, seconds: Mapping[str, float]) -> str:
    """Put the time of each pipeline into the last cell of its row in the block `pipelines`.

    Raises:
        InputError: The markers are not there.
    """
    _, _, block = text.partition("<!-- pipelines:begin -->")
    lines = block.partition("<!-- pipelines:end -->")[0].strip("\n").splitlines()
    for number, line in enumerate(lines):
        row = re.fullmatch(r"(\| `(\w+)` \|.*\|)[^|]*\|", line)
        if row:
            lines[number] = f"{row[1]} {duration(seconds[row[2]]) if row[2] in seconds else '-'} |"
    return replace_block(text, "pipelines", "\n".join(lines))


def refuse_other_regime(page: Path, facts: Mapping[str, str]) -> None:
    """Make sure that a page takes the place of an older one of the same density and seed only.

    Args:
        page: The published file, which need not be there.
        facts: Of what would take its place.

    Raises:
        InputError: What lies there is of another density or seed.
    """
    if not page.is_file():
        return
    there = dict(fact_rows(page.read_text(encoding="utf-8").partition(FACTS)[2]))
    for name in ("density", "seed"):
        if name in there and name in facts and there[name] != facts[name]:
            raise InputError(
                f"{page} is of {name} {there[name]}, what would take its place of {facts[name]}: move it away first"
            )


def publish(places: Sequence[Path], *, readme: Path, docs: Path) -> list[Path]:
    """Publish results; either everything is written or, after a mistake, nothing.

    Args:
        places: Files or folders, see `newest_results`.
        readme: The README with its markers.
        docs: Folder of the published files, below the README's.

    Returns:
        The published files.

    Raises:
        InputError: See `newest_results`, `read_result`, `replace_block` and `refuse_other_regime`; or two results that
            would have one name.
    """
    results = [read_result(path) for path in newest_results(places)]
    names = [result.name for result in results]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two results would both become {twice[0]}.md; name one of them by its path")
    for result in results:
        refuse_other_regime(docs / f"{result.name}.md", result.facts)
    link = docs.absolute().relative_to(readme.absolute().parent).as_posix()
    text = replace_block(readme.read_text(encoding="utf-8"), "results", readme_block(results, link))
    text = fill_times(text, stage_seconds(results[0].steps))
    written = []
    for result in results:
        written.append(docs / f"{result.name}.md")
        with replacing(written[-1]) as file:
            file.write(result_page(result))
    with replacing(readme) as file:
        file.write(text)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flexrec.reporting.publish", description="Publish results.")
    parser.add_argument("places", nargs="+", type=Path, metavar="PLACE", help=f"a {FILE}, or a folder of runs")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    given = parser.parse_args(arguments)
    try:
        written = publish(given.places, readme=given.readme, docs=given.docs)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from error
    print("\n".join(["Published:", *(f"  {path}" for path in (*written, given.readme))]))


if __name__ == "__main__":
    main()
