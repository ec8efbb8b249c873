"""`kedro run --pipelines=data` from nothing, as a process, for every dataset at hand: seconds and peak memory.

A run begins with a folder that holds the configuration, the raw files and the encoder, and nothing that a run makes: it
reads, samples, embeds every item's text, retrieves, labels and records itself with MLflow, as a user's first run does
after its downloads. `hashed texts` is the same without the encoder (`--env test` has another embedder, and no other
setting of these pipelines).

KuaiRec's published size is made up by the fabricator, in the official layout; what is measured of it is time. The
public sample of KuaiRec is measured where its three files are given. Beside the times stands what a random order scores
for every need, as the run's own description of the task has it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, Row, parser, scratch, write_result

ENCODER = Path("data/06_models/encoder/all-MiniLM-L6-v2")


@dataclass(frozen=True)
class Case:
    """One dataset with its needs.

    Attributes:
        name: How the table calls it.
        given: What `--params` gets.
        bar: Seconds, at most; None where only the time is asked for.
        environment: As `--env` takes it.
        changed: Options of the source in `datasets.yml` that differ.
    """

    name: str
    given: dict[str, Any]
    bar: float | None = None
    environment: str = "base"
    changed: dict[str, Any] = field(default_factory=dict)


CASES = {
    "ml-100k": Case("MovieLens-100K, every need", {"dataset": "ml-100k", "need": "all"}),
    "ml-1m": Case("MovieLens-1M, every need", {"dataset": "ml-1m", "need": "all"}, 300.0),
    "ml-1m-hashed": Case(
        "MovieLens-1M, every need, hashed texts", {"dataset": "ml-1m", "need": "all"}, 60.0, environment="test"
    ),
    "kuairec-sample": Case("KuaiRec, the public sample", {"dataset": "kuairec-sample", "need": "all"}),
    "kuairec": Case(
        "KuaiRec's small matrix, published size, made up, every need",
        {"dataset": "kuairec", "need": "all"},
        600.0,
        changed={"md5": ""},
    ),
    "fabricated-esci": Case(
        "ESCI, made up, a hundredth of the published size",
        {"dataset": "fabricated-esci", "need": "search", "density": 1.0, "task.candidates": 16},
        changed={"scale": 0.01, "fewest_judged": 16},
    ),
}
QUICK = {"fabricated": Case("made-up films", {"dataset": "fabricated", "need": "all"}, environment="test")}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The program's arguments."""
    made = parser(__doc__ or "", repetitions=1)
    made.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    made.add_argument("--sample", type=Path, help="folder with the three files of KuaiRec's public sample")
    made.add_argument("--scale", type=float, default=1.0, help="of the made-up KuaiRec, times the published size")
    made.add_argument("--folder", type=Path, help="where downloads and made-up files are kept; a scratch one otherwise")
    options = made.parse_args(given)
    if options.results is None and not options.quick:
        options.results = RESULTS
    return options


def project(folder: Path, *, encoder: bool) -> None:
    """The project's configuration in a folder of its own, with the downloads that are here, and the encoder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    (folder / "src").mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    raw = folder / "data" / "01_raw"
    raw.mkdir(parents=True)
    for file in (ROOT / "data" / "01_raw").glob("*"):
        if file.suffix in (".whl", ".zip"):
            (raw / file.name).symlink_to(file)
    if encoder:
        from flexrec.retrieval.embedders import fetch_encoder

        fetch_encoder(ROOT / ENCODER)
        shutil.copytree(ROOT / ENCODER, folder / ENCODER)


def emptied(folder: Path) -> None:
    """Take away all that runs have made; raw files and the encoder stay."""
    for place in (folder / "data").iterdir():
        if place.name not in ("01_raw", "06_models"):
            shutil.rmtree(place)
    for place in folder.glob("ml*"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def run(folder: Path, case: Case, pipelines: str) -> tuple[float, float]:
    """One command line in the folder; its seconds and peak memory in MiB.

    Raises:
        SystemExit: It failed; its last lines are told.
    """
    pairs = ",".join(f"{name}={value}" for name, value in case.given.items())
    command = [sys.executable, "-m", "kedro", "run", "--env", case.environment]
    command += [f"--pipelines={pipelines}", "--params", pairs]
    said = folder / "said.txt"
    start = time.perf_counter()
    with said.open("w", encoding="utf-8") as out:
        files = [(os.POSIX_SPAWN_DUP2, out.fileno(), number) for number in (1, 2)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        before = Path.cwd()
        os.chdir(folder)
        try:
            process = os.posix_spawn(command[0], command, environment, file_actions=files)
        finally:
            os.chdir(before)
        _, status, used = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{case.name} failed:\n{said.read_text(encoding='utf-8')[-3000:]}")
    # kibibytes, on macOS bytes
    return seconds, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def prepared(name: str, options: argparse.Namespace, folder: Path) -> str | None:
    """Bring the raw files of a case; why it cannot be measured, in words, or None."""
    import yaml

    raw = folder / "data" / "01_raw"
    if changed := CASES[name].changed if name in CASES else {}:
        tables = folder / "conf" / "base" / "datasets.yml"
        content = yaml.safe_load(tables.read_text(encoding="utf-8"))
        content["datasets"][CASES[name].given["dataset"]]["source_options"] |= changed
        tables.write_text(yaml.safe_dump(content), encoding="utf-8")
    if name == "kuairec-sample":
        if options.sample is None:
            return "no --sample was given"
        files = ("item_categories.csv", "kuairec_caption_category.csv", "small_matrix_sample_random.txt")
        (raw / name).mkdir(exist_ok=True)
        for file in files:
            shutil.copy(options.sample / file, raw / name)
    if name == "kuairec":
        # in a process of its own: a child's peak memory begins with that of its parent
        start = time.perf_counter()
        make = "import sys, pathlib; from flexrec.sources.fabricator.kuairec import write_kuairec; "
        make += "write_kuairec(pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), truth=False)"
        command = [sys.executable, "-c", make, str(raw), str(options.scale), str(options.seed)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
        print(f"  fabricated in {time.perf_counter() - start:.0f} s, which does not count", flush=True)
    return None


def described(folder: Path) -> dict[str, Any]:
    """What the run itself says of its task."""
    (path,) = (folder / "data" / "08_reporting").rglob("task_report.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        need: " / ".join(f"{values[f'random_ndcg_at_{k}']:.3f}" for k in (5, 10, 30))
        for need, values in report["test_scores"].items()
    }
    paper = {
        need: {row["row"]: " / ".join(f"{v:.3f}" for name, v in row.items() if name.startswith("ndcg")) for row in rows}
        for need, rows in report["paper_near_random"].items()
    }
    return {
        "interactions": report["interactions"],
        "instances": report["instances"],
        "candidates": report["candidates_per_instance"],
        "NDCG@5/10/30 of a random order": scores,
        **({"near-random rows of the paper": paper} if paper else {}),
    }


def measured(name: str, case: Case, options: argparse.Namespace, folder: Path) -> Row | None:
    """A case from nothing, as often as asked for."""
    print(case.name, flush=True)
    if reason := prepared(name, options, folder):
        print(f"  left out: {reason}", flush=True)
        return None
    # downloads, and what is unpacked of them, are no part of it
    run(folder, case, "ingest")
    seconds, peaks = [], []
    for turn in range(options.repetitions):
        emptied(folder)
        took, peak = run(folder, case, "data")
        print(f"  {turn + 1}/{options.repetitions}  {took:8.1f} s  {peak:,.0f} MiB", flush=True)
        seconds.append(took)
        peaks.append(peak)
    bar = None if name == "kuairec" and options.scale != 1 else case.bar
    given = {"params": case.given, **({"source options": case.changed} if case.changed else {})}
    settings = {**given, **described(folder)}
    work = f"data, {case.name}"
    return Row(
        work,
        "",
        statistics.median(seconds),
        "s",
        bar,
        True,
        {"kedro run": seconds},
        {"kedro run": max(peaks)},
        settings,
    )


def main(given: Sequence[str] | None = None) -> None:
    """Measure every case asked for, write."""
    options = arguments(given)
    cases = QUICK if options.quick else {name: CASES[name] for name in options.cases}
    options.repetitions = 1 if options.quick else options.repetitions
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with scratch() as temporary:
        folder = (options.folder or temporary) / "project"
        project(folder, encoder=not options.quick)
        rows = [row for name, case in cases.items() if (row := measured(name, case, options, folder))]
        write_result("data", options, rows)


if __name__ == "__main__":
    main()
