"""Write docs/benchmarks.md from the results of the programs and the notes in benchmarks/notes.md."""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
NOTES = ROOT / "benchmarks" / "notes.md"
ORDER = (
    "update",
    "memory",
    "sampling",
    "greedy",
    "rewards",
    "step",
    "step_profile",
    "tabular",
    "data",
    "critic",
    "search",
    "bert4rec",
)
INTRODUCTION = """# Benchmarks

Every ratio is that of the medians of one process run in which both sides took turns (memory and other commits:
processes in turns). The programs, what they measure and how to run them elsewhere:
[benchmarks/](../benchmarks/README.md). This page is written by `make bench`; its notes are `benchmarks/notes.md`.
"""


def main(arguments: list[str] | None = None) -> None:
    """Read the results, write the page."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--page", type=Path, default=PAGE)
    made.add_argument("--notes", type=Path, default=NOTES)
    options = made.parse_args(arguments)
    results = read_results(options.results)
    if not results:
        sys.exit(f"no results of these programs in {options.results}: run `make bench`, or one of them, first")
    from flexrec.files import replacing

    notes = options.notes.read_text() if options.notes.exists() else ""
    with replacing(options.page) as file:
        file.write(page(results, notes))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results of this folder's programs, in the order of the programs, CPU before GPU; others are left alone.

    Of the same work on the same kind of processor the newest row alone is kept, whichever file it is in: a program may
    have been run in parts, and one of them again.
    """
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    ours = [
        result | {"command": _repeatable(result, stem)}
        for stem, result in found.items()
        if isinstance(result, dict) and result.get("program") in ORDER
    ]
    known: set[tuple[str, ...]] = set()
    for result in sorted(ours, key=lambda result: result["made"], reverse=True):
        of = (result["program"], _processor(result))
        rows = [row for row in result["rows"] if (*of, row["work"], row["against"]) not in known]
        steps = {count: parts for count, parts in result.get("steps", {}).items() if (*of, count) not in known}
        known |= {(*of, row["work"], row["against"]) for row in rows} | {(*of, count) for count in steps}
        gone = {row["work"] for row in result["rows"]} - {row["work"] for row in rows}
        profiles = {
            name: one for name, one in result.get("profiles", {}).items() if f"one RL step, {one['what']}" not in gone
        }
        result |= {"rows": rows}
        result |= {name: left for name, left in (("steps", steps), ("profiles", profiles)) if name in result}
    left = [result for result in ours if result["rows"]]
    return sorted(left, key=lambda result: (result["device"] != "cpu", ORDER.index(result["program"]), result["made"]))


def _repeatable(result: Mapping[str, Any], stem: str) -> str:
    """The command of a result as it is given today, from the name of its file: `--results` was a name, is a folder."""
    words = shlex.split(result["command"])
    if "--results" not in words:
        return result["command"]
    place = words.index("--results")
    device = "" if result["device"] == "cpu" else f"-{result['device']}"
    part = stem.removesuffix(device).removeprefix(result["program"]).removeprefix("-")
    words[place : place + 2] = ["--part", part] if part and "--part" not in words else []
    return shlex.join(words)


def page(results: Sequence[Mapping[str, Any]], notes: str) -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for device in dict.fromkeys(result["device"] for result in results):
        group = [result for result in results if result["device"] == device]
        parts.append(f"## {'CPU' if device == 'cpu' else 'GPU'}\n")
        parts.append(_summary(group))
    parts += [_profiles(result) for result in results if result.get("profiles")]
    parts.append("## Details\n")
    parts += [_details(result) for result in results]
    if notes.strip():
        parts.append("## Notes\n")
        parts.append(notes.strip() + "\n")
    return "\n".join(parts)


def _summary(results: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| work | against | processor | bar | figure | met |", "|---|---|---|---|---|---|"]
    rows = [(result, row) for result in results for row in result["rows"]]
    # where one work was measured on several processors, its rows stand together
    first: dict[tuple[str, str, str], int] = {}
    for place, (result, row) in enumerate(rows):
        first.setdefault((result["program"], row["work"], row["against"]), place)
    for result, row in sorted(rows, key=lambda pair: first[pair[0]["program"], pair[1]["work"], pair[1]["against"]]):
        bar = "-" if row["bar"] is None else f"{'<=' if row['at_most'] else '>='} {row['bar']:,g} {row['unit']}"
        met = {None: "-", True: "yes", False: "**no**"}[row["met"]]
        against, where = row["against"] or "-", _processor(result)
        lines.append(f"| {row['work']} | {against} | {where} | {bar} | {_figure(row)} | {met} |")
    return "\n".join(lines) + "\n"


def _processor(result: Mapping[str, Any]) -> str:
    """The GPU, or what the CPU calls itself with its instructions for bfloat16."""
    known = result["hardware"]
    name = known.get("gpu") if result["device"] != "cpu" else known.get("cpu")
    return str(name or result["device"]).replace("(R)", "").replace(" Processor", "")


def _figure(row: Mapping[str, Any]) -> str:
    digits = 3 if row["figure"] < 1 else 2 if row["figure"] < 10 else 1
    return f"{row['figure']:,.{digits}f} {row['unit']}"


def _details(result: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["hardware"].items())
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    lines = [
        f"### {result['program']}, {result['device']}\n",
        f"`{result['command']}` at commit {result['commit']}, {result['made']}; {machine}; {versions}.\n",
    ]
    for name, value in result.items():
        if name.startswith("agreement") and value:
            shown = "; ".join(
                f"{kind}: " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items())
                for kind, errors in value.items()
            )
            how = name.removeprefix("agreement").strip()
            lines.append(f"Agreement of both sides{f', {how}' if how else ''}: {shown}.\n")
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        # rows that came of the same runs share one table; what was not timed stands above alone
        if any(row["seconds"].values()):
            measured.setdefault(json.dumps([row["seconds"], row["settings"]]), []).append(row)
    for rows in measured.values():
        lines.append("**" + "; ".join(dict.fromkeys(row["work"] for row in rows)) + "**\n")
        lines += ["| side | median, s | least | most | runs | peak, MiB |", "|---|---|---|---|---|---|"]
        first = rows[0]
        for side, values in first["seconds"].items():
            if values:
                peak = f"{first['peak_mib'][side]:,.0f}" if side in first["peak_mib"] else "-"
                median = statistics.median(values)
                lines.append(
                    f"| {side} | {median:.3f} | {min(values):.3f} | {max(values):.3f} | {len(values)} | {peak} |"
                )
        lines.append("")
        lines.append("; ".join(f"{name}: {_value(value)}" for name, value in first["settings"].items()) + ".\n")
    if steps := result.get("steps"):
        lines += ["| rows | step | seconds | million rows a second |", "|---|---|---|---|"]
        for rows, seconds in steps.items():
            for name, value in seconds.items():
                lines.append(f"| {int(rows):,} | {name} | {value:.2f} | {int(rows) / value / 1e6:.2f} |")
        lines.append("")
    lines += _calibration(result)
    for entry in result.get("published", ()):
        figures = ", ".join(f"{name} {value}" for name, value in entry.items() if isinstance(value, float))
        lines.append(f"Published, {entry['dataset']}: {figures} ([{entry['what']}]({entry['address']})).\n")
    return "\n".join(lines)


def _calibration(result: Mapping[str, Any]) -> list[str]:
    """What the critic learned, by its variant."""
    table = result.get("calibration_on_made_up_data")
    if not table:
        return []
    names = list(next(iter(table.values())))
    head = " | ".join(name.replace("_", " ") for name in names)
    lines = ["Calibration on held-out interactions, made up; seconds of one epoch:\n"]
    lines += [f"| variant | {head} | seconds |", "|---" * (len(names) + 2) + "|"]
    for variant, values in table.items():
        shown = " | ".join(f"{values[name]:,.4g}" if name != "n" else f"{values[name]:,}" for name in names)
        seconds = result["seconds_per_epoch"][variant]
        lines.append(f"| {variant} | {shown} | {seconds:.2f} |")
    return [*lines, ""]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(entry)}" for name, entry in value.items())
    return str(value)


def _floor(found: Mapping[str, Any]) -> str:
    """What the step would take if nothing but its matrix products took time; older results have not counted it."""
    if "floor_seconds" not in found:
        return ""
    return (
        f" It needs {found['needed_tflop']:.2f} TFLOP (benchmarks/flops.py), {found['floor_seconds']:.2f} s at the "
        f"{found['matrix_rate_tflops']:.2f} TFLOP/s at which this machine multiplies large matrices: "
        f"{found['floor_seconds'] / found['seconds']:.0%} of the time."
    )


def _profiles(result: Mapping[str, Any]) -> str:
    lines = [f"## Where the time goes, {_processor(result)}\n"]
    for found in result["profiles"].values():
        lines.append(f"One step, {found['what']}: {found['seconds']:.3f} s.{_floor(found)}\n")
        lines += ["| part | seconds | share |", "|---|---|---|"]
        for name, value in found["parts"].items():
            lines.append(f"| {name} | {value:.4f} | {value / found['seconds']:.1%} |")
        lines += ["", "| operator, own time | seconds | calls |", "|---|---|---|"]
        for entry in found["operators"]:
            lines.append(f"| `{entry['operator']}` | {entry['seconds']:.4f} | {entry['calls']} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
