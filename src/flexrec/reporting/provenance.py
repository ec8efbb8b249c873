"""What a result came from, in plain values: command, commit, hardware, versions."""

import subprocess
import sys
from pathlib import Path

from flexrec.reporting.facts import command_line, run_facts


def git_state(folder: Path) -> dict[str, object]:
    """Commit of a working tree and whether it has changes; empty outside git."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "--short=12", "HEAD"),
            "uncommitted changes": bool(git("status", "--porcelain")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


def provenance(**known: object) -> dict[str, object]:
    """Facts of this run, with what the caller knows (seed, dataset, model) first."""
    return {"command": command_line(sys.argv), **git_state(Path.cwd()), **known, **run_facts()}
