"""What a run ran on: hardware, library versions and the command, without secrets, host names or absolute paths."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath

LIBRARIES = (
    "flexrec",
    "kedro",
    "mlflow",
    "torch",
    "transformers",
    "trl",
    "peft",
    "vllm",
    "sentence-transformers",
    "numpy",
    "pandas",
    "scikit-learn",
    "ibis-framework",
    "duckdb",
    "plotly",
)
"""Libraries whose versions can change a result."""


def run_facts() -> dict[str, dict[str, object]]:
    """Describe the machine and the libraries.

    Returns:
        `hardware` (cpu, cores, memory in GiB, threads, accelerators as far as torch is loaded), `platform` (system,
        machine, Python) and `versions` of those of `LIBRARIES` that are installed. Nothing that names the host, its
        user or a place in its file system.
    """
    hardware: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }
    # torch is only asked where the run has loaded it: importing it takes seconds
    torch = sys.modules.get("torch")
    if torch is not None:
        hardware["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            hardware["accelerators"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "hardware": hardware,
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": _versions(),
    }


def command_line(arguments: Sequence[str]) -> str:
    """Join the words of a command for display, without absolute paths and without values of secret-looking options.

    Args:
        arguments: The command, for instance `sys.argv`.
    """
    shown: list[str] = []
    hide_next = False
    for word in arguments:
        if hide_next:
            shown.append("***")
            hide_next = False
            continue
        name, separator, _ = word.partition("=")
        if _SECRET.search(name):
            shown.append(f"{name}=***" if separator else name)
            hide_next = not separator and name.startswith("-")
            continue
        shown.append(_ABSOLUTE.sub(lambda match: PurePath(match.group()).name, _SECRET_PAIR.sub(r"\1***", word)))
    return " ".join(shown)


_SECRET = re.compile(r"(?i)(token(?!s|iz)|secret|passw|credential|api[_-]?key)")
_SECRET_PAIR = re.compile(r"(?i)([\w.-]*(?:token(?!s|iz)|secret|passw|credential|api[_-]?key)[\w.-]*[=:])[^,\s]+")
_ABSOLUTE = re.compile(r"(?:(?<![\w.:/~])|(?<=\bfile://))/(?:[^\s,;:=]+)")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8", errors="replace"), re.M)
        if names:
            return " ".join(names[0].split())
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use, which a container can set below those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _versions() -> dict[str, object]:
    found: dict[str, object] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
