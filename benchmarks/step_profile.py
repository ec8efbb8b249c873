"""Where the time of one RL step goes, by part and by operator.

(Not named `profile`: run as a script it would take the place of Python's own module of that name.)

By part: the methods that a step goes through are timed, each without what it calls among them, on a training of a few
steps; medians over the steps after the first. A pass that keeps the graph for the update counts where it is made, in
sampling. By operator: one more step under torch's profiler; what it does not account for is Python.

Steps: the default configuration, and one prompt with G = 8, P = 800, C = 64, both as in step.py.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Row,
    load_model,
    load_tokenizer,
    make_prompts,
    model_folder,
    parser,
    prepare,
    scratch,
    synchronise,
    write_result,
)
from benchmarks.flops import matrix_rate, step_flops
from benchmarks.step import ANSWER, PROMPT, ROLLOUTS, fixed_ranker, our_trainer, timed_steps
from benchmarks.tasks import configuration, make_examples, project_ranker

STEPS = 4
TOP = 12
OTHER = "rest: data, gradient norm, the trainer's loop"


def main(arguments: list[str] | None = None) -> list[Row]:
    """Profile both kinds of steps."""
    made = parser(__doc__.partition("\n")[0])
    made.add_argument("--steps", type=int, default=STEPS)
    made.add_argument("--which", nargs="+", choices=("default", "short"), default=["default", "short"])
    made.add_argument("--weights", choices=("full", "lora"), default="lora")
    options = made.parse_args(arguments)
    options.prompts, options.rollouts, options.prompt_tokens, options.answer_tokens = 1, ROLLOUTS, PROMPT, ANSWER
    if options.quick:
        options.steps, options.rollouts, options.prompt_tokens, options.answer_tokens = 2, 2, 90, 6
    prepare(options)
    profiles, rows = {}, []
    for which in options.which:
        found = profile(options, which)
        profiles[which] = found
        rows.append(
            Row(
                work=f"one RL step, {found['what']}",
                against="",
                figure=found["seconds"],
                unit="s",
                seconds={"step": [found["seconds"]]},
                settings={"table": "where the time goes", "dtype": options.dtype or "bfloat16"},
            )
        )
        print_profile(found)
    write_result("step_profile", options, rows, {"profiles": profiles})
    return rows


class Clock:
    """Seconds by part, each without the parts that it calls."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stack: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    def _book(self) -> None:
        synchronise(self._device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    def phase(self) -> str:
        """What the step is at: the first word of the part that stands lowest on the stack and has one."""
        return next((name.partition(":")[0] for name in reversed(self._stack) if ":" in name), "update")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens inside as `name`."""
        self._book()
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()


def parts(clock: Clock) -> list[tuple[Any, str, Callable[[], str]]]:
    """The methods that are timed, and the name of the part that each belongs to."""
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from flexrec.policy.decoder import Decoder, Decoding
    from flexrec.rl.trainer import RankingTrainer

    def scoring() -> str:
        return ("update" if torch.is_grad_enabled() else "reference") + ": logits, grammar"

    return [
        (RankingTrainer, "rollout", lambda: "sampling: choices, parsing"),
        (RankingTrainer, "_generate_and_score_completions", lambda: "rewards: advantages, padding, records"),
        (RankingTrainer, "_get_per_token_logps_and_entropies", scoring),
        (RankingTrainer, "_compute_loss", lambda: "update: loss, records"),
        (Decoder, "lower", lambda: f"{clock.phase()}: prompts, untrained layers"),
        (Decoder, "encode", lambda: f"{clock.phase()}: prompts, trained layers"),
        (Decoder, "lower_answers", lambda: f"{clock.phase()}: answers, untrained layers"),
        (Decoder, "answers", lambda: f"{clock.phase()}: answers, trained layers"),
        (Decoding, "step", lambda: "sampling: decoding"),
        (Accelerator, "backward", lambda: "update: backward pass"),
        (AcceleratedOptimizer, "step", lambda: "optimiser: step"),
    ]


@contextlib.contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """Time the methods of `parts` wherever they are called."""
    originals = []
    for owner, name, label in parts(clock):
        original = getattr(owner, name)
        originals.append((owner, name, original))
        setattr(owner, name, _timed(clock, original, label))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _timed(clock: Clock, original: Callable[..., Any], label: Callable[[], str]) -> Callable[..., Any]:
    def method(*arguments: Any, **named: Any) -> Any:
        with clock.part(label()):
            return original(*arguments, **named)

    return method


def profile(options: argparse.Namespace, which: str) -> dict[str, Any]:
    """Seconds by part and by operator of one kind of step."""
    clock = Clock(options.device)
    by_step: list[dict[str, float]] = []
    # the trainer keeps its `rollout` from the beginning on
    with scratch() as folder, timed(clock), timed_steps(options.device) as timer:
        trainer, what = make_trainer(options, which, folder)
        needed = needed_flops(trainer, options, which)
        end = timer.end

        def end_step() -> None:
            end()
            by_step.append(dict(clock.seconds))
            clock.seconds.clear()

        timer.end = end_step  # type: ignore[method-assign]
        trainer.train()
        totals = timer.seconds[1:]
    seconds = statistics.median(totals)
    names = {name for step in by_step[1:] for name in step}
    table = {name: statistics.median(step.get(name, 0.0) for step in by_step[1:]) for name in names}
    table[OTHER] = max(0.0, seconds - sum(table.values()))
    rate = matrix_rate(options.device, options.dtype or "bfloat16")
    return {
        "what": what,
        "seconds": seconds,
        "needed_tflop": needed / 1e12,
        "matrix_rate_tflops": rate / 1e12,
        "floor_seconds": needed / rate,
        "parts": dict(sorted(table.items(), key=lambda entry: -entry[1])),
        "operators": operators(options, which),
    }


def needed_flops(trainer: Any, options: argparse.Namespace, which: str) -> float:
    """Operations that the result of one step needs, with prompts of their mean length."""
    from flexrec.policy.settings import AdapterSettings

    ranker, settings = trainer.ranker, configuration()
    adapter = AdapterSettings.model_validate(settings["adapter"]) if options.weights == "lora" else None
    if which == "short":
        prompts, prompt, answer, rollouts = 1, options.prompt_tokens, options.answer_tokens, options.rollouts
    else:
        lengths = [len(ranker.prompt(example.query)) for example in trainer.examples]
        prompts, prompt = settings["rl"]["prompts_per_step"], round(statistics.mean(lengths))
        answer, rollouts = len(trainer.examples[0].gains), settings["rl"]["rollouts"]
    return prompts * step_flops(
        ranker.model.config, prompt=prompt, rollouts=rollouts, answer=answer, columns=answer, adapter=adapter
    )


def make_trainer(options: argparse.Namespace, which: str, folder: Path) -> tuple[Any, str]:
    """The project's trainer, and what its step is in words."""
    from transformers import PrinterCallback

    from flexrec.rl.settings import MethodSettings, RlSettings
    from flexrec.rl.trainer import RankingTrainer

    dtype = options.dtype or "bfloat16"
    model = load_model(options, dtype, adapter=options.weights == "lora")
    trained = "LoRA of the default configuration" if options.weights == "lora" else "all weights"
    if which == "short":
        tokenizer = load_tokenizer(model_folder(options))
        prompts = make_prompts(tokenizer, 1, options.prompt_tokens, options.seed)
        ranker = fixed_ranker(model, tokenizer, options, prompts)
        trainer = our_trainer(options, ranker, folder, steps=options.steps)
        sizes = f"B=1, G={options.rollouts}, P={options.prompt_tokens}, C={options.answer_tokens}"
        return trainer, f"{sizes}, {dtype}, {trained}"
    settings = configuration()
    rl = RlSettings.model_validate(
        settings["rl"] | {"steps": options.steps, "validate_every": 1000, "save_every": 1000}
    )
    candidates = 5 if options.quick else settings["candidates"]
    trainer = RankingTrainer(
        project_ranker(model, model_folder(options)),
        make_examples(options.steps * rl.prompts_per_step, candidates, seed=options.seed),
        [],
        MethodSettings.model_validate(settings["method_settings"]),
        rl,
        folder,
        options.seed,
    )
    trainer.remove_callback(PrinterCallback)
    sizes = f"B={rl.prompts_per_step}, G={rl.rollouts}, K={candidates}"
    return trainer, f"default configuration, {sizes}, {dtype}, {trained}"


def operators(options: argparse.Namespace, which: str) -> list[dict[str, Any]]:
    """The operators that take the most time of one step, and what is left to Python."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    activities = [ProfilerActivity.CPU]
    if options.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    steps, options.steps = options.steps, 2
    held: list[Any] = []
    with scratch() as folder, timed_steps(options.device) as timer:
        trainer, _ = make_trainer(options, which, folder)
        begin, end = timer.begin, timer.end

        def begin_step() -> None:
            if timer.seconds:
                held.append(torch_profile(activities=activities))
                held[0].__enter__()
            begin()

        def end_step() -> None:
            end()
            if held:
                held[0].__exit__(None, None, None)

        timer.begin, timer.end = begin_step, end_step  # type: ignore[method-assign]
        trainer.train()
    options.steps = steps
    whole = timer.seconds[-1]
    gpu = options.device == "cuda"

    def own(event: Any) -> float:
        return (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6

    events = sorted(held[0].key_averages(), key=own, reverse=True)
    table = [{"operator": event.key, "calls": event.count, "seconds": own(event)} for event in events[:TOP]]
    inside = sum(own(event) for event in events)
    rest = {"operator": "outside operators (Python)", "calls": 1, "seconds": max(0.0, whole - inside)}
    return [*table, rest, {"operator": "whole step under the profiler", "calls": 1, "seconds": whole}]


def print_profile(found: dict[str, Any]) -> None:
    """Both tables."""
    print(f"one step, {found['what']}: {found['seconds']:.3f} s")
    print(
        f"    needs {found['needed_tflop']:.3f} TFLOP, {found['floor_seconds']:.3f} s at this machine's matrix rate of "
        f"{found['matrix_rate_tflops']:.3f} TFLOP/s"
    )
    for name, value in found["parts"].items():
        print(f"    {name:<48} {value:9.4f} s {100 * value / found['seconds']:5.1f}%")
    for entry in found["operators"]:
        print(f"      {entry['operator'][:46]:<46} {entry['seconds']:9.4f} s {entry['calls']:>7} calls")


if __name__ == "__main__":
    main()
