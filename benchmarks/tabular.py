"""Ingest, sparsify and split of KuaiRec's big matrix, beside DuckDB reading the same CSV and writing Parquet.

The sides run in fresh processes, in turns. `plain` is one statement of DuckDB with its own defaults: read the CSV,
write every column as Parquet. `by hand` is the least that gives the same tables: three statements of DuckDB that apply
the rules and check nothing; the same rows and observed events have to come out. `flexrec` is what the nodes do: the
source reads, checks, resolves repeated pairs and ranks by time, the datasets write `interactions` and `observations`
and check them.

The CSV is made up, in the official layout, once per number of rows, and kept in the folder given.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, Row, peak_mib, write_result

PUBLISHED = {"users": 7_176, "videos": 10_728, "rows": 12_530_806}
REPEATS = 0.03
"""Share of rows that repeat a (user, video)."""

BAR = 1.5
MEMORY_BAR_MIB = 4_000.0


def make(folder: Path, rows: int, seed: int) -> Path:
    """Write `big_matrix.csv` and the side tables that its source reads, unless they are there."""
    import duckdb
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    done = folder / "done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    users, videos = max(1, round(PUBLISHED["users"] * rows / PUBLISHED["rows"])), PUBLISHED["videos"]
    ids = {"video_id": np.arange(videos)}
    pd.DataFrame({**ids, "feat": "[1]"}).to_csv(folder / "item_categories.csv", index=False)
    names = {f"{level}_level_category_name": "UNKNOWN" for level in ("first", "second", "third")}
    numbers = {f"{level}_level_category_id": -124 for level in ("first", "second", "third")}
    texts = {"manual_cover_text": "UNKNOWN", "caption": "a video", "topic_tag": "[]"}
    pd.DataFrame({**ids, **texts, **numbers, **names}).to_csv(folder / "kuairec_caption_category.csv", index=False)

    popularity = np.log(rng.pareto(1.2, videos) + 0.05)
    durations = rng.integers(3_000, 60_000, videos)
    sizes = np.minimum(rng.multinomial(rows, rng.dirichlet(np.full(users, 8.0))), videos)
    sizes[0] += rows - sizes.sum()
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    partial = folder / "big_matrix.csv.partial"
    with partial.open("wb") as file:
        file.write(b"user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n")
        for first in range(0, users, 512):
            own = sizes[first : first + 512]
            user = np.repeat(np.arange(first, first + len(own)), own)
            # different videos for each user, the popular ones rather
            video = np.concatenate([np.argsort(-popularity - rng.gumbel(size=videos))[:size] for size in own])
            again = np.flatnonzero(rng.random(len(video)) < REPEATS)
            again = again[(again > 0) & (user[again] == user[again - 1])]
            video[again] = video[again - 1]
            milliseconds = np.int64(1_593_878_400_000) + rng.integers(0, 63 * 86_400_000, len(video))
            order = np.lexsort((milliseconds, user))
            played = (rng.lognormal(-0.3, 0.9, len(video)) * durations[video]).astype(np.int64)
            table = pa.table({"u": user, "v": video, "p": played, "d": durations[video], "t": milliseconds})
            connection.register("part", table.take(order))
            local = "make_timestamp((t + 28800000) * 1000)"
            date = f"strftime({local}, '%Y%m%d') || '.0'"
            chunk = folder / "chunk.csv"
            connection.execute(
                f"COPY (SELECT u, v, p, d, strftime({local}, '%Y-%m-%d %H:%M:%S.%g'), {date}, t / 1000.0, p / d "
                f"FROM part) TO '{chunk}' (HEADER false)"
            )
            file.write(chunk.read_bytes())
            chunk.unlink()
    partial.replace(folder / "big_matrix.csv")
    done.write_text(f"{rows} rows, {users} users, seed {seed}\n", encoding="utf-8")
    return folder


def plain(folder: Path, threads: int, out: Path) -> dict[str, float]:
    """DuckDB alone; seconds by step."""
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    start = time.perf_counter()
    source = f"read_csv('{folder / 'big_matrix.csv'}')"
    connection.execute(f"COPY (SELECT * FROM {source}) TO '{out / 'plain.parquet'}' (FORMAT parquet)")
    return {"all": time.perf_counter() - start}


def by_hand(folder: Path, threads: int, out: Path) -> dict[str, float]:
    """The rules in DuckDB's SQL, without a check; seconds by step."""
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    connection.execute("SET enable_progress_bar = false")
    laps = [time.perf_counter()]
    connection.execute(
        f"""
        CREATE TABLE interactions AS
        SELECT *, row_number() OVER () - 1 AS event_id FROM (
            SELECT user_id, video_id AS item_id, floor(timestamp)::BIGINT AS timestamp, watch_ratio AS engagement
            FROM read_csv('{folder / "big_matrix.csv"}') AS file
            WHERE file.timestamp IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY user_id, video_id ORDER BY file.timestamp, watch_ratio) = 1
            ORDER BY file.timestamp, user_id, video_id
        )
        """
    )
    laps.append(time.perf_counter())
    connection.execute(f"COPY interactions TO '{out / 'interactions.parquet'}' (FORMAT parquet)")
    laps.append(time.perf_counter())
    connection.execute(
        f"""
        COPY (
            SELECT event_id FROM interactions
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY md5(concat_ws('|', 0, event_id, user_id)))
                <= greatest(1, floor(0.1 * count(*) OVER (PARTITION BY user_id) + 0.5))
        ) TO '{out / "observed.parquet"}' (FORMAT parquet)
        """
    )
    laps.append(time.perf_counter())
    return _named(laps)


def _named(laps: list[float]) -> dict[str, float]:
    names = ("read, check, resolve, rank", "write interactions", "sparsify, split, write observations")
    return {"all": laps[-1] - laps[0]} | {
        name: end - begin for name, begin, end in zip(names, laps[:-1], laps[1:], strict=True)
    }


def contents(out: Path) -> list[float]:
    """What two sides that follow the rules must agree on: rows, their times, observed events and the sum of them."""
    import duckdb

    found: list[float] = []
    for query in (
        f"SELECT count(*), sum(timestamp), sum(engagement * (event_id % 97)) FROM '{out}/interactions.parquet'",
        f"SELECT count(*), sum(event_id) FROM '{out}/**/observed.parquet'",
    ):
        found += [round(float(number), 3) for number in duckdb.sql(query).fetchall()[0]]
    return found


def flexrec(folder: Path, engine: dict[str, Any], out: Path) -> dict[str, float]:
    """The nodes and datasets of `ingest` and `sparsify`; seconds by step."""
    from flexrec.datasets import ObservationsDataset, TableDataset
    from flexrec.sources import source_of
    from flexrec.sources.sparsify import sparsify
    from flexrec.tabular import Engine, connect

    source = source_of("kuairec", {"matrix": "big", "md5": ""})
    connection = connect(Engine.model_validate(engine))
    path = str(out / "interactions.parquet")
    interactions = TableDataset(filepath=path, engine=engine, schema="Interactions")
    observations = ObservationsDataset(
        filepath=str(out / "observations"),
        interactions={"filepath": path},
        engine=engine,
        schema="Observations",
    )
    laps = [time.perf_counter()]
    tables = source.read(folder, connection)
    laps.append(time.perf_counter())
    interactions.save(tables.interactions)
    laps.append(time.perf_counter())
    observations.save(sparsify(interactions.load(), density=0.1, seed=0))
    laps.append(time.perf_counter())
    return _named(laps)


def one_side(options: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own; its seconds, processor seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.tabular", "--side", side, "--folder", str(folder)]
    command += ["--threads", str(options.threads), "--engine", options.engine, "--memory-gb", str(options.memory_gb)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_side(options: argparse.Namespace) -> None:
    """What the process of one side does; the last line of its output is the result."""
    import shutil
    import tempfile

    engine: dict[str, Any] = {"kind": "duckdb", "threads": options.threads, "memory_gb": options.memory_gb}
    if options.engine == "spark":
        config = {"spark.ui.enabled": False, "spark.sql.shuffle.partitions": 8, "spark.driver.memory": "4g"}
        engine = {"kind": "spark", "master": f"local[{options.threads}]", "config": config}
    out = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        if options.side == "plain":
            seconds = plain(options.folder, options.threads, out)
        elif options.side == "by hand":
            seconds = by_hand(options.folder, options.threads, out)
        else:
            seconds = flexrec(options.folder, engine, out)
        used, peak = os.times(), peak_mib("cpu")
        found = contents(out) if options.side != "plain" and options.engine == "duckdb" else []
    finally:
        shutil.rmtree(out, ignore_errors=True)
    print(json.dumps({"seconds": seconds, "cpu": used.user + used.system, "peak_mib": peak, "contents": found}))


def main() -> None:
    """Measure every number of rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000, PUBLISHED["rows"]])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the CSV files (90 bytes a row) and what is made"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="of every side, after one warm-up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb", help="of the side `flexrec`")
    parser.add_argument("--memory-gb", type=float, default=3.0, help="as in conf/base/globals.yml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("--side", choices=("plain", "by hand", "flexrec"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = "cpu"
    if options.side:
        return run_side(options)
    rows, steps = [], {}
    for count in options.rows:
        folder = make(options.folder / f"kuairec-{count}-{options.seed}", count, options.seed)
        sides = ("plain", "by hand", "flexrec") if options.engine == "duckdb" else ("plain", "flexrec")
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(-1, options.repetitions):
            for side, found in runs.items():
                result = one_side(options, side, folder)
                label = "warm-up" if turn < 0 else f"{turn + 1}/{options.repetitions}"
                print(f"  {side:<10} {label:>8} {result['seconds']['all']:8.2f} s, {result['cpu']:.2f} s of processor")
                if turn >= 0:
                    found.append(result)
        made = {tuple(result["contents"]) for side in sides[1:] for result in runs[side]}
        if len(made) > 1:
            raise SystemExit(f"the sides do not make the same tables: {made}")
        seconds = {side: [result["seconds"]["all"] for result in found] for side, found in runs.items()}
        peaks = {side: max(result["peak_mib"] for result in found) for side, found in runs.items()}
        middle_of = {side: statistics.median(values) for side, values in seconds.items()}
        ours, theirs = middle_of["flexrec"], middle_of["plain"]
        settings = {"rows": count, "engine": options.engine, "threads": options.threads, "memory_gb": options.memory_gb}
        work = f"ingest, sparsify, split of {count:,} rows"
        bar = BAR if options.engine == "duckdb" else None
        rows.append(Row(work, "DuckDB, CSV to Parquet", ours / theirs, "x", bar, True, seconds, peaks, settings))
        if "by hand" in runs:
            least = middle_of["by hand"] / theirs
            rows.append(
                Row(f"{work}, by hand", "DuckDB, CSV to Parquet", least, "x", None, True, seconds, peaks, settings)
            )
        rows.append(Row(f"{work}, peak memory", "", peaks["flexrec"], "MiB", MEMORY_BAR_MIB, True, {}, {}, settings))
        middle = sorted(runs["flexrec"], key=lambda result: result["seconds"]["all"])[options.repetitions // 2]
        steps[str(count)] = middle["seconds"]
        for name, value in middle["seconds"].items():
            print(f"    {name:<40} {value:.2f} s, {count / value / 1e6:.2f} million rows a second")
    write_result(
        f"tabular-{options.engine}" if options.engine != "duckdb" else "tabular", options, rows, {"steps": steps}
    )
    return None


if __name__ == "__main__":
    main()
