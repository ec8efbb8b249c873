"""What the benchmark programs share: arguments, prompts of exact lengths, alternation, memory, the result file."""

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

# before torch: nothing is asked of a model hub, and nothing is reported to one
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DEFAULT_MODEL = "smollm2-135m"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy")
MIB = 2**20


@dataclass
class Row:
    """One line of the table of results.

    Attributes:
        work: What was done.
        against: Beside what; empty for a bar in seconds.
        figure: The median ratio, or the seconds.
        unit: Of the figure: `x`, `s`, `share`.
        bar: The figure to reach; None where only the figure is asked for.
        at_most: Whether the bar is an upper limit.
        seconds: Every measured time of every side.
        peak_mib: Peak memory of every side.
        settings: What else defines the work.
    """

    work: str
    against: str
    figure: float
    unit: str = "x"
    bar: float | None = None
    at_most: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the figure reaches the bar."""
        if self.bar is None:
            return None
        return self.figure <= self.bar if self.at_most else self.figure >= self.bar


def parser(description: str, *, repetitions: int = 3) -> argparse.ArgumentParser:
    """The arguments that all programs have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument(
        "--quick", action="store_true", help="a smoke test: tiny random model, tiny sizes, one repetition"
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), help="the program's own choice unless given")
    made.add_argument("--model", type=Path, help=f"Hugging Face folder; the project's {DEFAULT_MODEL} unless given")
    made.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    made.add_argument("--repetitions", type=int, default=repetitions, help="of every side, after one warm-up")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--results", type=Path, help="folder for the result; benchmarks/results, none with --quick")
    made.add_argument("--part", help="of a program that is run in parts: the result is <program>-<part>.json")
    return made


def prepare(options: argparse.Namespace) -> None:
    """Settle the threads and, for a smoke test, the sizes that all programs share."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    options.warm_ups = 0 if options.quick else 1
    if options.quick:
        options.repetitions = 1
    elif options.results is None:
        options.results = RESULTS
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU on this machine")


def model_folder(options: argparse.Namespace) -> Path:
    """The model's folder: the one given, the one that `make run` left, or one made now as `make run` would."""
    if options.model is not None:
        if not (options.model / "config.json").exists():
            raise SystemExit(f"--model {options.model}: no `config.json` there; give a Hugging Face folder")
        return options.model
    import yaml

    from flexrec.policy.models import BaseModelSettings, prepare_base_model

    name = "tiny" if options.quick else DEFAULT_MODEL
    made_by_run = ROOT / "data" / "06_models" / "base" / name
    folder = ROOT / "data" / "06_models" / "benchmarks" / name
    for known in (made_by_run, folder):
        if (known / "config.json").exists():
            return known
    spec = yaml.safe_load((ROOT / "conf" / "base" / "models.yml").read_text())["models"][name]
    print(f"making the model folder {name}")
    partial = folder.with_name(f".{name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    prepare_base_model(BaseModelSettings.model_validate(spec).root, ROOT / "data" / "01_raw", partial)
    partial.rename(folder)
    return folder


@cache
def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder, read once."""
    from flexrec.policy.models import load_tokenizer

    return load_tokenizer(folder)


def load_model(
    options: argparse.Namespace, dtype: str, *, adapter: bool, root: Path = ROOT, stock: bool = False
) -> Any:
    """The model in `dtype`, whole or with the project's default LoRA adapter, in training mode.

    Args:
        options: Of the program.
        dtype: Name of the type.
        adapter: Whether it has one.
        root: Whose default configuration.
        stock: Let PEFT compute the adapter as it does by itself.
    """
    import torch

    from flexrec.policy.models import load_base
    from flexrec.rl.warm_up import add_adapter

    model = load_base(model_folder(options), device=options.device).to(getattr(torch, dtype))
    # TRL loads its reference by the name, which is then looked up on a hub unless it is a folder
    model.config._name_or_path = str(model_folder(options))
    if adapter:
        model = add_adapter(model, adapter_settings(root), seed=options.seed).to(options.device)
        # a fresh adapter changes nothing, and half of its gradients are zero
        generator = torch.Generator().manual_seed(options.seed)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    if stock:
        from peft.tuners import lora

        for module in model.modules():
            if isinstance(module, lora.Linear):
                module.__class__ = lora.Linear
    return model.train()


def adapter_settings(root: Path = ROOT) -> Any:
    """The adapter of the default configuration, as `root` has it."""
    from benchmarks.tasks import configuration
    from flexrec.policy.settings import AdapterSettings

    return AdapterSettings.model_validate(configuration(root)["adapter"])


@dataclass(frozen=True)
class Prompt:
    """A prompt as chat messages and as the tokens that these become."""

    messages: list[dict[str, str]]
    tokens: list[int]


FIRST = ("Silent", "Crimson", "Lost", "Golden", "Broken", "Distant", "Hidden", "Northern", "Paper", "Midnight")
SECOND = ("River", "Garden", "Empire", "Letter", "Horizon", "Machine", "Winter", "Harbour", "Mountain", "Circus")
FILLER = " and"


def make_prompts(tokenizer: Any, count: int, length: int, seed: int) -> list[Prompt]:
    """Prompts in the project's form, a history and candidates, of exactly `length` tokens each.

    The history takes the room that the rest leaves; what is then missing to the length is filled with one word.
    """
    import numpy as np

    if len(tokenizer.encode(FILLER * 5, add_special_tokens=False)) != 5:
        raise SystemExit(f"this tokenizer does not read {FILLER!r} as one token: prompts of exact length need that")
    rng = np.random.default_rng(seed)

    def lines(amount: int) -> list[str]:
        draws = rng.integers(0, 10, (amount, 2)).tolist()
        return [f"{FIRST[a]} {SECOND[b]} ({1950 + 5 * a + b})" for a, b in draws]

    def render(seen: Sequence[str], films: Sequence[str], filler: int) -> Prompt:
        text = f"Seen before{FILLER * filler}:\n" + "\n".join(seen) + "\n\nFilms:\n" + "\n".join(films)
        messages = [{"role": "user", "content": f"{text}\n\nRank the films.\nBest first:"}]
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return Prompt(messages, list(tokens))

    prompts = []
    for _ in range(count):
        seen, films = lines(max(2, length // 9)), lines(max(1, length // 30))
        while len(render(seen, films, 1).tokens) > length and (seen or films):
            (seen or films).pop()
        prompt = render(seen, films, 1 + length - len(render(seen, films, 1).tokens))
        if len(prompt.tokens) != length:
            raise SystemExit(
                f"a prompt has {len(prompt.tokens)} tokens instead of {length}: --prompt-tokens is too small"
            )
        prompts.append(prompt)
    return prompts


def name_tokens(tokenizer: Any, count: int) -> list[int]:
    """`count` different one-token names: the project's letters first, then pairs of letters."""
    from flexrec.prompting import identifier_tokens

    tokens = identifier_tokens(tokenizer, "letters", min(count, 52))
    for first, second in product(ascii_uppercase, repeat=2):
        if len(tokens) == count:
            break
        ids = tokenizer.encode(f" {first}{second}", add_special_tokens=False)
        if len(ids) == 1 and ids[0] not in tokens:
            tokens.append(ids[0])
    if len(tokens) < count:
        raise SystemExit(f"this tokenizer has {len(tokens)} one-token names of one or two letters, {count} are needed")
    return tokens


def make_grammar(tokenizer: Any, length: int, *, constrained: bool) -> Any:
    """Answers of `length` tokens: a permutation of as many one-token names, or any tokens."""
    from flexrec.policy.grammar import Grammar

    names = name_tokens(tokenizer, length)
    return Grammar(
        identifiers=tuple((token,) for token in names),
        constrained=constrained,
        end_token=tokenizer.eos_token_id,
        max_length=length,
    )


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Start a new measurement of the peak memory, where the system allows it."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: str) -> float:
    """Peak memory since `reset_peak`: resident memory of the process, or what torch has allocated on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    # kibibytes, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


# as torch, CUDA, the C++ library and oneDNN say it
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "bad_alloc", "could not create a")
RESERVE_MIB = 1024


@contextlib.contextmanager
def limited_memory(device: str) -> Iterator[None]:
    """No more memory than is available now less a reserve: what does not fit fails in words, not the machine."""
    meminfo = Path("/proc/meminfo")
    if device != "cpu" or not meminfo.exists():
        yield
        return
    available = next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if "MemAvailable" in line)
    statm = Path("/proc/self/statm").read_text().split()
    data = int(statm[5]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data + (available * 1024 - RESERVE_MIB * MIB), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def fitting(run: Callable[[int], object], most: int, device: str) -> int:
    """The largest of `most`, a half, a quarter, ... with which `run` does not run out of memory.

    Raises:
        SystemExit: Not even 1 fits.
    """
    size = most
    while size >= 1:
        try:
            with limited_memory(device):
                run(size)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            reason = str(error).partition("\n")[0][:120]
        else:
            return size
        gc.collect()
        print(f"  stock TRL does not fit with {size} rollouts at a time ({reason})", flush=True)
        size //= 2
    raise SystemExit("stock TRL does not fit into the memory of this machine, one rollout at a time")


@dataclass
class Measured:
    """Times and peak memory of the sides of one comparison."""

    seconds: dict[str, list[float]]
    peak_mib: dict[str, float]

    def median(self, side: str) -> float:
        """Median seconds of a side."""
        return statistics.median(self.seconds[side])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times longer `slow` takes than `fast`: the ratio of the medians."""
        return self.median(slow) / self.median(fast)


def alternate(
    sides: Mapping[str, Callable[[], float | None]],
    *,
    repetitions: int,
    device: str,
    warm_ups: int,
) -> Measured:
    """Run the sides in turns, first `warm_ups` times for nothing.

    A side may return its own seconds, of the part that is to be compared; otherwise the whole call counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0.0)
    for turn in range(-warm_ups, repetitions):
        for name, run in sides.items():
            reset_peak(device)
            synchronise(device)
            start = time.perf_counter()
            own = run()
            synchronise(device)
            took = time.perf_counter() - start if own is None else own
            if turn >= 0:
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak_mib(device))
            label = "warm-up" if turn < 0 else f"{turn + 1}/{repetitions}"
            print(f"  {name:<34} {label:>8} {took:9.3f} s", flush=True)
    return Measured(seconds, peaks)


def show(row: Row) -> None:
    """Print one row: ratio, bar, times, memory, settings."""
    bar = (
        "" if row.bar is None else f", bar {'<=' if row.at_most else '>='} {row.bar:g} {'met' if row.met else 'MISSED'}"
    )
    against = f" against {row.against}" if row.against else ""
    print(f"{row.work}{against}: {row.figure:.3g} {row.unit}{bar}")
    for name, values in row.seconds.items():
        peak = f", peak {row.peak_mib[name]:,.0f} MiB" if name in row.peak_mib else ""
        spread = f" ({min(values):.3f} to {max(values):.3f}, {len(values)} runs)" if len(values) > 1 else ""
        print(f"    {name:<34} median {statistics.median(values):.3f} s{spread}{peak}")
    print("    " + ", ".join(f"{name} {value}" for name, value in row.settings.items()), flush=True)


def hardware(options: argparse.Namespace) -> dict[str, Any]:
    """The machine, in words and numbers."""
    facts: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": options.threads}
    with contextlib.suppress(OSError, ValueError):
        facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if options.device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpu_name() -> str:
    """What the processor calls itself, and its instructions for bfloat16, which the name may not tell."""
    with contextlib.suppress(OSError):
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        names = {key.strip(): value.strip() for key, value in facts.items()}
        flags = names.get("flags", "").split()
        own = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
        if "model name" in names:
            return ", ".join([names["model name"], *own[:1]])
    return platform.processor() or platform.machine()


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that the figures depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """The commit that was measured, with a mark where the working tree differs from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "conf", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def write_result(
    program: str, options: argparse.Namespace, rows: Sequence[Row], extra: Mapping[str, Any] | None = None
) -> None:
    """Print the rows and write `<program>.json` (`<program>-<part>-cuda.json` of a part on a GPU)."""
    for row in rows:
        show(row)
    if options.results is None:
        return
    from flexrec.files import replacing

    result = {
        "program": program,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(program),
        "commit": commit(),
        "device": options.device,
        "hardware": hardware(options),
        "versions": library_versions(),
        "rows": [
            {**vars(row), "met": row.met, "seconds": _rounded(row.seconds), "peak_mib": _rounded(row.peak_mib)}
            for row in rows
        ],
        **(extra or {}),
    }
    marks = [getattr(options, "part", None), None if options.device == "cpu" else options.device]
    path = options.results / f"{'-'.join([program, *filter(None, marks)])}.json"
    with replacing(path) as file:
        file.write(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def _command(program: str) -> str:
    """The command line without where things lie on this machine."""
    arguments = [Path(text).name if Path(text).is_absolute() else text for text in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{program}", *arguments])


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="flexrec-benchmark-") as folder:
        yield Path(folder)
