"""One whole RL step: sampling, reference log-probabilities, update with the optimiser.

Two comparisons, each with a real `trainer.train()` on both sides, timed from the beginning of the step to its end
(building models and trainers, checkpoints and validation left out):

- `short`: one prompt, G = 8, P = 800, C = 64, with a reference, against TRL's `GRPOTrainer` doing the same step:
  generation with transformers, a cheap reward function, the same optimiser and KL term. Our answers are permutations of
  64 one-token names; TRL samples 64 free tokens;
- `default`: a step of the default configuration (B prompts, G rollouts, K candidates, LoRA, the default layout) against
  another commit of this project (`--against`), whose `src` and `conf` are read out of git into a scratch folder. Each
  side runs in a process of its own, in turns.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import (
    ROOT,
    Measured,
    Row,
    alternate,
    load_model,
    load_tokenizer,
    make_grammar,
    make_prompts,
    model_folder,
    parser,
    peak_mib,
    prepare,
    reset_peak,
    scratch,
    synchronise,
    write_result,
)
from benchmarks.tasks import configuration, make_examples, project_ranker

ROLLOUTS, PROMPT, ANSWER = 8, 800, 64
BAR = 6.0
STEPS = 3
LEARNING_RATE, KL = 1e-5, 0.01
MARK = "STEPS "


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure what was asked for."""
    made = parser(__doc__.partition("\n")[0])
    made.add_argument(
        "--against", help="commit whose step of the default configuration is compared; left out if absent"
    )
    made.add_argument("--without-trl", action="store_true", help="leave the comparison with TRL out")
    made.add_argument("--weights", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    made.add_argument("--prompts", type=int, default=1, help="prompts of the step against TRL")
    made.add_argument("--rollouts", type=int, default=ROLLOUTS)
    made.add_argument("--prompt-tokens", type=int, default=PROMPT)
    made.add_argument("--answer-tokens", type=int, default=ANSWER)
    made.add_argument("--one-side", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.quick:
        options.rollouts, options.prompt_tokens, options.answer_tokens = 2, 90, 6
    prepare(options)
    if options.one_side:
        print(MARK + json.dumps(default_steps(options, options.one_side)))
        return []
    rows = []
    if not options.without_trl:
        for weights in options.weights:
            for dtype in [options.dtype] if options.dtype else ["bfloat16"]:
                rows.append(against_trl(options, weights, dtype))
    if options.against:
        rows.append(against_commit(options))
    write_result("step", options, rows)
    return rows


class StepTimer:
    """Seconds of every training step, by callbacks that `timed_steps` puts into every trainer."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._start = 0.0

    def begin(self) -> None:
        """The step begins."""
        synchronise(self.device)
        self._start = time.perf_counter()

    def end(self) -> None:
        """The step has ended, the optimiser's part included."""
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - self._start)


@contextlib.contextmanager
def timed_steps(device: str) -> Iterator[StepTimer]:
    """Time the steps of every trainer that is made meanwhile, of whatever class.

    The callback stands first among the trainer's own, so that validation at the end of a step is not counted.
    """
    from transformers import TrainerCallback, trainer

    timer = StepTimer(device)

    class Timing(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            timer.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            timer.end()

    trainer.DEFAULT_CALLBACKS.insert(0, Timing)
    try:
        yield timer
    finally:
        trainer.DEFAULT_CALLBACKS.remove(Timing)


def against_trl(options: argparse.Namespace, weights: str, dtype: str) -> Row:
    """The step beside stock TRL's."""
    from benchmarks.sides import STOCK_SETTINGS

    trained = "all weights" if weights == "full" else "LoRA of the default configuration"
    print(f"whole step, {trained}, {dtype}")
    tokenizer = load_tokenizer(model_folder(options))
    prompts = make_prompts(tokenizer, options.prompts, options.prompt_tokens, options.seed)
    adapter = weights == "lora"
    tokens: dict[str, float] = {}

    def ours() -> float:
        with scratch() as folder, timed_steps(options.device) as timer:
            ranker = fixed_ranker(load_model(options, dtype, adapter=adapter), tokenizer, options, prompts)
            trainer = our_trainer(options, ranker, folder, steps=1)
            reset_peak(options.device)
            trainer.train()
            tokens["flexrec"] = options.answer_tokens
        return timer.seconds[-1]

    def stock() -> float:
        with scratch() as folder, timed_steps(options.device) as timer:
            trainer = stock_step_trainer(
                options, load_model(options, dtype, adapter=adapter, stock=True), tokenizer, folder, prompts
            )
            reset_peak(options.device)
            trainer.train()
            tokens["stock TRL"] = logged(trainer, "completions/mean_length")
        return timer.seconds[-1]

    measured = alternate(
        {"flexrec": ours, "stock TRL": stock},
        repetitions=options.repetitions,
        device=options.device,
        warm_ups=options.warm_ups,
    )
    return Row(
        work=f"whole RL step, B={options.prompts}, G={options.rollouts}, P={options.prompt_tokens}, "
        f"C={options.answer_tokens}, {dtype}, {trained}",
        against="stock TRL",
        figure=measured.ratio("stock TRL", "flexrec"),
        bar=None if options.quick else BAR,
        seconds=measured.seconds,
        peak_mib=measured.peak_mib,
        settings={"dtype": dtype, "trained": trained, "beta": KL, "tokens per answer": tokens, **STOCK_SETTINGS},
    )


def logged(trainer: Any, name: str) -> float:
    """The last value that a trainer logged under a name."""
    return [entry[name] for entry in trainer.state.log_history if name in entry][-1]


def fixed_ranker(model: Any, tokenizer: Any, options: argparse.Namespace, prompts: Sequence[Any]) -> Any:
    """A ranker with prompts and answers of exact lengths in place of the project's layout."""
    from flexrec.policy.grammar import Grammar
    from flexrec.policy.ranker import Query, Ranker
    from flexrec.prompting import PromptSettings

    grammar = make_grammar(tokenizer, options.answer_tokens, constrained=True)

    class FixedRanker(Ranker):
        def prompt(self, query: Query) -> list[int]:
            return list(prompts[query.instance.instance_id % len(prompts)].tokens)

        def grammar(self, count: int) -> Grammar:
            return grammar

    return FixedRanker(model, tokenizer, PromptSettings())


def our_trainer(options: argparse.Namespace, ranker: Any, folder: Path, *, steps: int) -> Any:
    """The project's trainer for `steps` steps on prompts of a fixed length."""
    from transformers import PrinterCallback

    from flexrec.rl.settings import MethodSettings, RlSettings
    from flexrec.rl.trainer import RankingTrainer

    settings = RlSettings(
        steps=steps,
        prompts_per_step=options.prompts,
        rollouts=options.rollouts,
        learning_rate=LEARNING_RATE,
        kl=KL,
        entropy_bonus=0.0,
        validate_every=1000,
        save_every=1000,
    )
    examples = make_examples(options.prompts, options.answer_tokens, seed=options.seed)
    trainer = RankingTrainer(ranker, examples, [], MethodSettings(), settings, folder, options.seed)
    trainer.remove_callback(PrinterCallback)
    return trainer


def stock_step_trainer(
    options: argparse.Namespace, model: Any, tokenizer: Any, folder: Path, prompts: Sequence[Any]
) -> Any:
    """TRL's trainer for one step on the same prompts."""
    from benchmarks.sides import stock_config, stock_trainer

    rows = options.prompts * options.rollouts
    config = stock_config(
        folder,
        device=options.device,
        rollouts=options.rollouts,
        length=options.answer_tokens,
        micro_batch=rows,
        rows=rows,
        max_steps=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        beta=KL,
        seed=options.seed,
        logging_steps=1,
        save_strategy="no",
        shuffle_dataset=False,
    )
    return stock_trainer(model, tokenizer, config, [prompt.messages for prompt in prompts])


def against_commit(options: argparse.Namespace) -> Row:
    """A step of the default configuration beside that of another commit, each in processes of its own."""
    dtype = options.dtype or "bfloat16"
    found = subprocess.run(
        ["git", "rev-parse", "--short=12", f"{options.against}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"--against {options.against}: no such commit here; a shallow clone has the newest alone")
    described = found.stdout.strip()
    seconds: dict[str, list[float]] = {"flexrec": [], described: []}
    peaks: dict[str, float] = dict.fromkeys(seconds, 0.0)
    with scratch() as folder:
        export(options.against, folder)
        for turn in range(options.repetitions):
            for name, root in (("flexrec", ROOT), (described, folder)):
                result = _other_process(options, root, dtype)
                # the first step of a process warms up
                seconds[name] += result["seconds"][1:]
                peaks[name] = max(peaks[name], result["peak_mib"])
                shown = ", ".join(f"{value:.2f}" for value in result["seconds"])
                print(f"  {name:<34} {turn + 1}/{options.repetitions} {shown} s", flush=True)
    measured = Measured(seconds, peaks)
    settings = configuration()
    return Row(
        work=f"whole RL step of the default configuration, {dtype}",
        against=f"the step at {described}",
        figure=measured.ratio(described, "flexrec"),
        bar=None,
        seconds=seconds,
        peak_mib=peaks,
        settings={
            "dtype": dtype,
            "B": settings["rl"]["prompts_per_step"],
            "G": settings["rl"]["rollouts"],
            "K": settings["candidates"],
            "adapter": settings["adapter"],
            "median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        },
    )


def export(reference: str, folder: Path) -> None:
    """`src` and `conf` as they were at a commit; the working tree is not touched."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", reference, "src", "conf"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def _other_process(options: argparse.Namespace, root: Path, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.step", "--one-side", str(root), "--dtype", dtype]
    command += ["--threads", str(options.threads), "--device", options.device, "--seed", str(options.seed)]
    command += ["--model", str(model_folder(options).resolve()), *(["--quick"] if options.quick else [])]
    # that commit's source stands before what is installed
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise SystemExit(f"the step of {root} failed:\n{done.stderr[-3000:]}")


def default_steps(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Seconds of a few steps of the default configuration as `root` has it, in this process."""
    import flexrec
    from flexrec.rl.settings import MethodSettings, RlSettings
    from flexrec.rl.trainer import train_policy

    if not Path(flexrec.__file__).is_relative_to(root):
        raise SystemExit(f"the source of {root} is not the one that was imported: {flexrec.__file__}")
    settings = configuration(root)
    # no validation and no checkpoint within these steps
    rl = RlSettings.model_validate(settings["rl"] | {"steps": STEPS, "validate_every": 1000, "save_every": 1000})
    candidates = 5 if options.quick else settings["candidates"]
    examples = make_examples(STEPS * rl.prompts_per_step, candidates, seed=options.seed, root=root)
    model = load_model(options, options.dtype, adapter=True, root=root)
    ranker = project_ranker(model, model_folder(options), root)
    reset_peak(options.device)
    with scratch() as folder, timed_steps(options.device) as timer:
        train_policy(
            ranker,
            examples,
            [],
            method=MethodSettings.model_validate(settings["method_settings"]),
            settings=rl,
            work_folder=folder,
            seed=options.seed,
        )
    return {"seconds": timer.seconds, "peak_mib": peak_mib(options.device)}


if __name__ == "__main__":
    main()
