"""`python -m flexrec.rl SPEC`: train from one file, without Kedro and MLflow (docs/backends.md)."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flexrec.rl", description="Train a policy from a specification.")
    parser.add_argument("specification", type=Path, help="YAML file (docs/backends.md)")
    parser.add_argument("--check", action="store_true", help="only check the file and what it names")
    parser.add_argument("--fresh", action="store_true", help="start again, whatever the output folder holds")
    options = parser.parse_args(arguments)
    # everything is on this machine; TRL and the hub's client read these when they are imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("flexrec").setLevel(logging.INFO)

    from flexrec.errors import FlexrecError
    from flexrec.rl.specification import load_specification, read_tables, run
    from flexrec.rl.travelling import check_digests

    try:
        if options.check:
            spec = load_specification(options.specification)
            read_tables(spec.data)
            files = check_digests(options.specification.resolve().parent)
            print(f"{options.specification} can be run" + (f"; {files} files are as exported" if files else ""))
        else:
            print(run(options.specification, fresh=options.fresh))
    except FlexrecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
