"""`python -m flexrec.sources.fabricator kuairec --scale 0.01 --seed 0 --folder DIR`."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flexrec.errors import FlexrecError
from flexrec.sources.fabricator.esci import write_esci
from flexrec.sources.fabricator.kuairec import write_kuairec
from flexrec.sources.fabricator.movielens import write_ml_1m

WRITERS = {"kuairec": write_kuairec, "esci": write_esci, "ml-1m": write_ml_1m}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a made-up dataset and say what was written; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flexrec.sources.fabricator",
        description="Write made-up raw files in the official layout of a dataset, and the planted truth beside them.",
    )
    parser.add_argument("dataset", choices=sorted(WRITERS))
    parser.add_argument("--scale", type=float, default=0.01, help="times the published size (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default %(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go; made if missing")
    chosen = parser.parse_args(arguments)
    if chosen.seed < 0:
        parser.error("--seed must not be negative")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    begin = time.perf_counter()
    try:
        written = WRITERS[chosen.dataset](chosen.folder, chosen.scale, chosen.seed)
    except (FlexrecError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{written}: made up, {chosen.scale:g} times the published size, seed {chosen.seed}")
    print(f"{time.perf_counter() - begin:.1f} s; the planted truth is beside it. Call results on it fabricated.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
