"""Peak memory of the update, G = 16, P = 1500, C = 30, against stock TRL, each side in a fresh process.

On a CPU it is the highest resident memory of the process (`getrusage`), on a GPU what torch allocated at most. Stated
for both sides: the peak, and the peak above what libraries and model take before the update. The ratio is that of the
peaks as they are.

Stock TRL takes all 16 rollouts at once if the memory suffices. Otherwise its batch is halved until it fits (its
`per_device_train_batch_size` with gradient accumulation), which flatters it and is said so: that process may take no
more than the memory that is available, less a reserve, and fails in words instead of bringing the machine down.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import (
    OUT_OF_MEMORY,
    ROOT,
    Row,
    limited_memory,
    load_model,
    make_grammar,
    make_prompts,
    model_folder,
    name_tokens,
    parser,
    peak_mib,
    prepare,
    reset_peak,
    scratch,
    write_result,
)

ROLLOUTS, PROMPT, ANSWER = 16, 1500, 30
BAR = 0.25
MARK = "MEASURED "


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure both sides, for all weights and for LoRA."""
    made = parser(__doc__.partition("\n")[0], repetitions=1)
    made.add_argument("--rollouts", type=int, default=ROLLOUTS)
    made.add_argument("--prompt-tokens", type=int, default=PROMPT)
    made.add_argument("--answer-tokens", type=int, default=ANSWER)
    made.add_argument("--weights", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    made.add_argument("--side", choices=("flexrec", "stock"), help=argparse.SUPPRESS)
    made.add_argument("--micro-batch", type=int, help="rollouts that stock TRL takes at once; the most that fit")
    options = made.parse_args(arguments)
    if options.quick:
        options.rollouts, options.prompt_tokens, options.answer_tokens = 2, 90, 8
    prepare(options)
    if options.side:
        print(MARK + json.dumps(one_side(options)))
        return []
    rows = [compare(options, weights) for weights in options.weights]
    write_result("memory", options, rows)
    return rows


def compare(options: argparse.Namespace, weights: str) -> Row:
    """Both sides in turns, each in a process of its own."""
    dtype = options.dtype or "bfloat16"
    micro = options.micro_batch or options.rollouts
    found: dict[str, list[dict[str, float]]] = {"flexrec": [], "stock TRL": []}
    for _ in range(options.repetitions):
        found["flexrec"].append(_measure(options, "flexrec", weights, options.rollouts) or {})
        while (stock := _measure(options, "stock", weights, micro)) is None:
            if micro == 1:
                raise SystemExit("stock TRL does not fit into the memory of this machine, one rollout at a time")
            micro //= 2
            print(f"  stock TRL does not fit; again with {micro} rollouts at a time", flush=True)
        found["stock TRL"].append(stock)
    whole: dict[str, Any] = {}
    if 1 < micro < options.rollouts:
        half = _measure(options, "stock", weights, micro // 2, rollouts=micro // 2)
        if half is not None:
            step = (max(run["peak_mib"] for run in found["stock TRL"]) - half["peak_mib"]) / (micro - micro // 2)
            more = max(run["peak_mib"] for run in found["stock TRL"]) + step * (options.rollouts - micro)
            name = f"stock TRL with all {options.rollouts} at once, MiB, extrapolated from {micro // 2} and {micro}"
            whole = {name: round(more)}
    peaks = {side: max(run["peak_mib"] for run in runs) for side, runs in found.items()}
    before = {side: max(run["before_mib"] for run in runs) for side, runs in found.items()}
    net = {side: round(peaks[side] - before[side], 1) for side in peaks}
    trained = "all weights" if weights == "full" else "LoRA of the default configuration"
    return Row(
        work=f"peak memory of the update, G={options.rollouts}, P={options.prompt_tokens}, C={options.answer_tokens}, "
        f"{dtype}, {trained}",
        against="stock TRL",
        figure=peaks["flexrec"] / peaks["stock TRL"],
        unit="of it",
        bar=None if options.quick else BAR,
        at_most=True,
        seconds={side: [run["seconds"] for run in runs] for side, runs in found.items()},
        peak_mib=peaks,
        settings={
            "dtype": dtype,
            "trained": trained,
            "stock micro-batch": f"{micro} of {options.rollouts}",
            **whole,
            "libraries and model before the update, MiB": {side: round(value) for side, value in before.items()},
            "above that, MiB": net,
            "ratio above that": round(net["flexrec"] / max(net["stock TRL"], 1e-9), 3),
        },
    )


def _measure(
    options: argparse.Namespace, side: str, weights: str, micro: int, rollouts: int | None = None
) -> dict[str, float] | None:
    """Peak of one side in a fresh process; None if it did not fit."""
    command = [sys.executable, "-m", "benchmarks.memory", "--side", side, "--weights", weights]
    command += [
        "--micro-batch",
        str(micro),
        "--rollouts",
        str(rollouts or options.rollouts),
        "--device",
        options.device,
    ]
    command += ["--prompt-tokens", str(options.prompt_tokens), "--answer-tokens", str(options.answer_tokens)]
    command += ["--threads", str(options.threads), "--seed", str(options.seed)]
    command += ["--model", str(model_folder(options).resolve()), "--dtype", options.dtype or "bfloat16"]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            result = json.loads(line.removeprefix(MARK))
            print(f"  {side:<8} {weights}: peak {result['peak_mib']:,.0f} MiB, {result['seconds']:.1f} s", flush=True)
            return result
    # the kernel ends a process that takes more than there is with signal 9
    if done.returncode == -9 or any(words in done.stderr for words in (*OUT_OF_MEMORY, "MemoryError")):
        return None
    raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def one_side(options: argparse.Namespace) -> dict[str, float]:
    """The update once, in this process: memory before it, its peak, and its time."""
    from benchmarks.sides import make_batch, our_update, stock_config, stock_trainer, stock_update
    from flexrec.policy.models import load_tokenizer

    tokenizer = load_tokenizer(model_folder(options))
    model = load_model(options, options.dtype, adapter=options.weights == ["lora"])
    prompt = make_prompts(tokenizer, 1, options.prompt_tokens, options.seed)[0]
    names = name_tokens(tokenizer, options.answer_tokens)
    batch = make_batch(prompt.tokens, names, options.rollouts, device=options.device, seed=options.seed)
    with scratch() as folder:
        size = options.micro_batch
        config = stock_config(
            folder, device=options.device, rollouts=options.rollouts, length=options.answer_tokens, micro_batch=size
        )
        # both processes make the trainer, so that they start from the same libraries
        trainer = stock_trainer(model, tokenizer, config)
        reset_peak(options.device)
        before = peak_mib(options.device)
        start = time.perf_counter()
        with limited_memory(options.device):
            if options.side == "stock":
                stock_update(trainer, model, batch, size)
            else:
                our_update(model, batch, make_grammar(tokenizer, options.answer_tokens, constrained=True))
        seconds = time.perf_counter() - start
    return {"before_mib": before, "peak_mib": peak_mib(options.device), "seconds": seconds}


if __name__ == "__main__":
    main()
