"""Sampling of one batch, 8 prompts with G = 8 rollouts each, against TRL's own generation and against vLLM.

- `flexrec`: answers constrained to a permutation of K one-token names, the project's default;
- `flexrec, free`: K free tokens, the very work that the others do;
- `stock TRL`: `GRPOTrainer._generate_single_turn`, which generates K free tokens with transformers;
- `vLLM` (with `--vllm-python`): the same folder in a process of its own, prefix caching on, K free tokens.

The cache of prefixes is emptied before every batch, because in training the weights have changed by then; within a
batch it lets the rollouts of a group share their prompt. vLLM's other costs of training (bringing the weights over)
are left out. The processes take turns: never does one compute while the other is measured.
"""

import argparse
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from benchmarks.common import (
    ROOT,
    Row,
    alternate,
    load_model,
    load_tokenizer,
    make_grammar,
    make_prompts,
    model_folder,
    parser,
    prepare,
    scratch,
    write_result,
)

PROMPTS, ROLLOUTS, PROMPT, ANSWER = 8, 8, 800, 30
TRL_BAR, VLLM_BAR = 5.0, 1.0


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure one batch on every side."""
    made = parser(__doc__.partition("\n")[0])
    made.add_argument("--prompts", type=int, default=PROMPTS)
    made.add_argument("--rollouts", type=int, default=ROLLOUTS)
    made.add_argument("--prompt-tokens", type=int, default=PROMPT)
    made.add_argument("--answer-tokens", type=int, default=ANSWER)
    made.add_argument("--vllm-python", type=Path, help="Python of an environment with vllm; left out unless given")
    made.add_argument("--without-trl", action="store_true", help="leave TRL's generation out")
    options = made.parse_args(arguments)
    if options.quick:
        options.prompts, options.rollouts, options.prompt_tokens, options.answer_tokens = 2, 2, 90, 6
    prepare(options)
    rows = measure(options)
    write_result("sampling", options, rows)
    return rows


def measure(options: argparse.Namespace) -> list[Row]:
    """All sides in turns."""
    import torch

    from benchmarks.sides import stock_config, stock_trainer
    from flexrec.policy.engine import SharedPromptEngine

    dtype = options.dtype or "bfloat16"
    tokenizer = load_tokenizer(model_folder(options))
    model = load_model(options, dtype, adapter=False)
    prompts = [p.tokens for p in make_prompts(tokenizer, options.prompts, options.prompt_tokens, options.seed)]
    lengths: dict[str, int] = {}

    def ours(grammar: Any, name: str) -> None:
        engine = SharedPromptEngine(model, tokenizer.pad_token_id)
        sampled = engine.sample(prompts, grammar, rollouts=options.rollouts, temperature=1.0, seed=options.seed)
        lengths[name] = sum(map(len, sampled.completions))

    grammars = {kind: make_grammar(tokenizer, options.answer_tokens, constrained=kind) for kind in (True, False)}
    sides: dict[str, Any] = {
        "flexrec": partial(ours, grammars[True], "flexrec"),
        "flexrec, free": partial(ours, grammars[False], "flexrec, free"),
    }
    with scratch() as folder:
        if not options.without_trl:
            rows = options.prompts * options.rollouts
            config = stock_config(
                folder,
                device=options.device,
                rollouts=options.rollouts,
                length=options.answer_tokens,
                micro_batch=rows,
                rows=rows,
            )
            trainer = stock_trainer(model, tokenizer, config)
            replicated = [prompt for prompt in prompts for _ in range(options.rollouts)]

            def stock() -> None:
                torch.manual_seed(options.seed)
                completions, _ = trainer._generate_single_turn(replicated, None, {}, options.rollouts)
                lengths["stock TRL"] = sum(map(len, completions))

            sides["stock TRL"] = stock
        with VllmSide(options, dtype, prompts) as vllm:
            if vllm.runs:
                sides["vLLM"] = vllm.sample
            measured = alternate(
                sides, repetitions=options.repetitions, device=options.device, warm_ups=options.warm_ups
            )
            lengths |= vllm.lengths
    settings = {
        "prompts": options.prompts,
        "G": options.rollouts,
        "P": options.prompt_tokens,
        "C": options.answer_tokens,
        "dtype": dtype,
        "tokens sampled": lengths,
        **vllm.facts,
    }
    work = f"sampling of {options.prompts} prompts, G={options.rollouts}, P={options.prompt_tokens}, "
    work += f"C={options.answer_tokens}, {dtype}"
    bars = {"stock TRL": TRL_BAR, "vLLM": VLLM_BAR}
    made = []
    for against in (name for name in bars if name in sides):
        bar = None if options.quick else bars[against]
        for side, kind in (("flexrec", "constrained"), ("flexrec, free", "free answers")):
            ratio = measured.ratio(against, side)
            name = f"{work}, {kind}"
            peaks = {side: peak for side, peak in measured.peak_mib.items() if side != "vLLM"}
            made.append(Row(name, against, ratio, "x", bar, False, measured.seconds, peaks, settings))
    return made


class VllmSide:
    """vLLM in a process of its own that samples one batch whenever it is told to (`vllm_side.py`).

    Attributes:
        runs: Whether an environment with vllm was given.
        facts: Its version and settings.
        lengths: Tokens that it sampled.
    """

    def __init__(self, options: argparse.Namespace, dtype: str, prompts: list[list[int]]) -> None:
        self.runs = options.vllm_python is not None
        self.facts: dict[str, Any] = {}
        self.lengths: dict[str, int] = {}
        self._python = options.vllm_python
        self._threads = options.threads
        self._job = {
            "model": str(model_folder(options).resolve()),
            "dtype": dtype,
            "prompts": prompts,
            "rollouts": options.rollouts,
            "tokens": options.answer_tokens,
            "seed": options.seed,
        }

    def __enter__(self) -> "VllmSide":
        if self.runs:
            with NamedTemporaryFile("w", suffix=".json", delete=False) as file:
                json.dump(self._job, file)
            self._file = Path(file.name)
            # all cores for the computation; vLLM keeps one back otherwise
            binding = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{self._threads - 1}", "VLLM_CPU_KVCACHE_SPACE": "4"}
            self._process = subprocess.Popen(
                [str(self._python), "-m", "benchmarks.vllm_side", str(self._file)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=binding | {name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            )
            self.facts = {"vLLM": self._answer()}
        return self

    def _answer(self) -> dict[str, Any]:
        from benchmarks.vllm_side import MARK

        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit("the vLLM process ended: its messages are above")

    def sample(self) -> float:
        """One batch; vLLM's own seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("sample\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.lengths["vLLM"] = answer["tokens"]
        return float(answer["seconds"])

    def __exit__(self, *_: object) -> None:
        if self.runs:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=60)
            self._file.unlink()


if __name__ == "__main__":
    main()
