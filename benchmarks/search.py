"""Search among very many items: the index against the exact search, time and recall, on made-up embeddings.

The embeddings are as those of texts: a common mean, and deviations around it that fall from one direction to the next
like a power (MiniLM's, of MovieLens titles and genres, fall with exponent 0.5 to 0.6 around a mean of length 0.6). They
have no clusters that an index could take for its cells. Recall is the share of the exact `k` neighbours that it finds.
"""

import argparse
import time

import numpy as np

from benchmarks.common import Measured, Row, parser, peak_mib, prepare, reset_peak, write_result


def arguments() -> argparse.Namespace:
    """The program's arguments."""
    made = parser(__doc__ or "", repetitions=3)
    made.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    made.add_argument("--queries", type=int, default=200)
    made.add_argument("--dimensions", type=int, default=384)
    made.add_argument("--fall", type=float, default=0.55, help="exponent with which the deviations fall")
    made.add_argument("--mean", type=float, default=0.6, help="length of the common mean")
    made.add_argument("--k", type=int, default=30)
    made.add_argument("--probes", type=int, nargs="+", default=[8, 32, 128], help="cells that a query looks into")
    return made.parse_args()


def make_vectors(count: int, options: argparse.Namespace, stream: int) -> np.ndarray:
    """Unit vectors, float32, made in blocks."""
    rng = np.random.default_rng([options.seed, stream])
    deviations = np.arange(1, options.dimensions + 1, dtype=np.float32) ** -np.float32(options.fall)
    deviations *= (1 - options.mean**2) ** 0.5 / np.linalg.norm(deviations)
    vectors = np.empty((count, options.dimensions), dtype=np.float32)
    for start in range(0, count, 1 << 16):
        block = vectors[start : start + (1 << 16)]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32) * deviations
        block[:, -1] += options.mean
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def measure(count: int, options: argparse.Namespace) -> list[Row]:
    """The rows of one number of items."""
    from flexrec.retrieval.search import CellIndex, ExactSearch, FaissSearch, ordered, recall, search_all

    items, queries = make_vectors(count, options, 1), make_vectors(options.queries, options, 2)
    exact = ExactSearch()
    seconds: dict[str, list[float]] = {"exact": []}
    for _ in range(options.repetitions):
        start = time.perf_counter()
        right, _cosines = search_all(queries, items, options.k, exact)
        seconds["exact"].append(time.perf_counter() - start)
    reset_peak("cpu")
    start = time.perf_counter()
    index = CellIndex(items, FaissSearch())
    building, peak = time.perf_counter() - start, peak_mib("cpu")
    settings = {
        "items": count,
        "dimensions": options.dimensions,
        "queries": options.queries,
        "k": options.k,
        "cells": index.cells,
        "threads": options.threads,
    }
    of_all = f"of {count:,} items"
    rows = [
        Row(
            f"building the index {of_all}",
            "",
            building,
            "s",
            None,
            True,
            {"index": [building]},
            {"index": peak},
            settings,
        ),
    ]
    for probes in options.probes:
        name = f"index, {probes} probes"
        index.probes = min(probes, index.cells)
        seconds[name] = []
        for _ in range(options.repetitions):
            start = time.perf_counter()
            found, _cosines = ordered(index.search(queries, options.k), queries, items, options.k)
            seconds[name].append(time.perf_counter() - start)
        measured = Measured({side: seconds[side] for side in ("exact", name)}, {})
        here = {**settings, "probes": index.probes, "recall": round(recall(found, right), 4)}
        rows.append(
            Row(
                f"{name}, {of_all}",
                "exact search",
                measured.ratio("exact", name),
                "x",
                None,
                False,
                measured.seconds,
                {},
                here,
            )
        )
        share = recall(found, right)
        rows.append(
            Row(f"recall@{options.k}, {probes} probes, {of_all}", "exact search", share, "share", settings=here)
        )
    return rows


def main() -> None:
    """Measure and write."""
    options = arguments()
    prepare(options)
    import faiss

    faiss.omp_set_num_threads(options.threads)
    if options.quick:
        options.items, options.queries = [5000], 20
    rows = [row for count in options.items for row in measure(count, options)]
    write_result("search", options, rows)


if __name__ == "__main__":
    main()
