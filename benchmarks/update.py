"""The update: forward and backward pass of one group of rollouts, against TRL's `GRPOTrainer` on the same rollouts.

Sides of every case, on the same model object, the same prompt, answers and advantages, under the same clipped loss:

- `stock TRL`: the trainer's own `compute_loss` and the backward pass;
- `replicated`: this project's engine with the prompt encoded for every rollout, the plain way. On a CPU, TRL 1.16
  scores the vocabulary at every token of the prompt; this side shows what the ratio is without that;
- `flexrec`: answers constrained to a permutation, the project's default: only the identifiers' columns are computed;
- `flexrec, free`: unconstrained answers, whole vocabulary: the very numbers that TRL computes.

Before it measures, the program checks in float32 that both sides agree: log-probabilities, loss and gradients.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.common import (
    Measured,
    Row,
    adapter_settings,
    alternate,
    fitting,
    load_model,
    load_tokenizer,
    make_grammar,
    make_prompts,
    model_folder,
    name_tokens,
    parser,
    prepare,
    scratch,
    write_result,
)
from benchmarks.flops import matrix_rate, update_flops


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison, and the bars for it by dtype."""

    name: str
    rollouts: int
    prompt: int
    answer: int
    bars: dict[str, float]


# On a GPU one bar holds, for the long prompt: 8.
CASES = {
    "a": Case("a", 8, 800, 64, {"float32": 5.3, "bfloat16": 4.6}),
    "b": Case("b", 16, 1500, 30, {"float32": 12.0, "bfloat16": 12.0}),
}
QUICK = Case("quick", 3, 90, 8, {})
GPU_BARS = {"b": 8.0}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run the cases that were asked for."""
    made = parser(__doc__.partition("\n")[0])
    made.add_argument("--cases", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    made.add_argument("--weights", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    made.add_argument(
        "--micro-batch", type=int, help="rollouts that stock TRL takes at once; the most that fit unless given"
    )
    made.add_argument("--without-replicated", action="store_true", help="leave the replicated side out")
    options = made.parse_args(arguments)
    prepare(options)
    cases = [QUICK] if options.quick else [CASES[name] for name in options.cases]
    rows: list[Row] = []
    checks: dict[str, Any] = {}
    for weights in options.weights:
        checks[weights] = agreement(options, weights, cases[0])
        for case in cases:
            for dtype in dtypes(options, case):
                rows += measure(options, case, weights, dtype)
    extra: dict[str, Any] = {"agreement in float32, relative": checks}
    write_result("update", options, rows, extra)
    return rows


def dtypes(options: argparse.Namespace, case: Case) -> list[str]:
    """The case's dtypes: both for the short prompt, bfloat16 for the long one, unless one is given."""
    if options.dtype:
        return [options.dtype]
    if options.quick:
        return ["float32"]
    return ["bfloat16"] if case.name == "b" or options.device == "cuda" else ["float32", "bfloat16"]


def agreement(options: argparse.Namespace, weights: str, case: Case) -> dict[str, float]:
    """Relative differences of the two sides in float32, on free answers: log-probabilities, loss, gradients."""
    import torch

    from benchmarks.sides import (
        gradients,
        make_batch,
        our_scores,
        our_update,
        relative_difference,
        stock_config,
        stock_trainer,
        stock_update,
    )

    tokenizer = load_tokenizer(model_folder(options))
    model = load_model(options, "float32", adapter=weights == "lora")
    rollouts, length = 2, min(case.answer, 16)
    prompt = make_prompts(tokenizer, 1, min(case.prompt, 200), options.seed)[0]
    batch = make_batch(
        prompt.tokens, name_tokens(tokenizer, length), rollouts, device=options.device, seed=options.seed
    )
    grammar = make_grammar(tokenizer, length, constrained=False)
    with scratch() as folder:
        config = stock_config(folder, device=options.device, rollouts=rollouts, length=length, micro_batch=rollouts)
        trainer = stock_trainer(model, tokenizer, config)
        inputs = batch.inputs()
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        with torch.no_grad():
            theirs, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), length)
            ours, _ = our_scores(model, batch, grammar)
        # moved off the policy, so that ratio and clipping take part
        noise = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(options.seed)).to(theirs)
        old = theirs + 0.1 * noise
        their_loss = stock_update(trainer, model, batch, rollouts, old)
        expected = gradients(model)
        our_loss = our_update(model, batch, grammar, old=old)
        found = gradients(model)
    differences = {
        "log-probabilities": relative_difference(ours, theirs),
        "loss": abs(our_loss - their_loss) / abs(their_loss),
        "gradients": relative_difference(found, expected),
    }
    print(f"agreement with stock TRL, {weights}, float32: " + ", ".join(f"{k} {v:.1e}" for k, v in differences.items()))
    if max(differences.values()) > 1e-3:
        raise SystemExit("the two sides do not compute the same: nothing is measured")
    return differences


def measure(options: argparse.Namespace, case: Case, weights: str, dtype: str) -> list[Row]:
    """One case: the rows of the constrained and of the free answers."""
    from benchmarks.sides import STOCK_SETTINGS, make_batch, our_update, stock_config, stock_trainer, stock_update

    print(f"case {case.name}, {weights}, {dtype}: G {case.rollouts}, P {case.prompt}, C {case.answer}")
    tokenizer = load_tokenizer(model_folder(options))
    model = load_model(options, dtype, adapter=weights == "lora")
    prompt = make_prompts(tokenizer, 1, case.prompt, options.seed)[0]
    names = name_tokens(tokenizer, case.answer)
    batch = make_batch(prompt.tokens, names, case.rollouts, device=options.device, seed=options.seed)
    grammar = make_grammar(tokenizer, case.answer, constrained=True)
    free = make_grammar(tokenizer, case.answer, constrained=False)
    with scratch() as folder:
        config = stock_config(
            folder, device=options.device, rollouts=case.rollouts, length=case.answer, micro_batch=case.rollouts
        )
        trainer = stock_trainer(model, tokenizer, config)

        def stock(size: int) -> None:
            trainer.current_gradient_accumulation_steps = case.rollouts // size
            stock_update(trainer, model, batch, size)

        micro = options.micro_batch or fitting(stock, case.rollouts, options.device)
        sides = {
            "stock TRL": partial(_run, stock, micro),
            "replicated": partial(_run, our_update, model, batch, grammar, share=False),
            "flexrec": partial(_run, our_update, model, batch, grammar),
            "flexrec, free": partial(_run, our_update, model, batch, free),
        }
        if options.without_replicated:
            del sides["replicated"]
        measured = alternate(sides, repetitions=options.repetitions, device=options.device, warm_ups=options.warm_ups)
    trained = "all weights" if weights == "full" else "LoRA of the default configuration"
    rate = matrix_rate(options.device, dtype)
    adapter = adapter_settings() if weights == "lora" else None
    needed = update_flops(
        model.config,
        prompt=case.prompt,
        rollouts=case.rollouts,
        answer=case.answer,
        columns=len(grammar.choices),
        adapter=adapter,
    )
    settings = {
        "G": case.rollouts,
        "P": case.prompt,
        "C": case.answer,
        "dtype": dtype,
        "trained": trained,
        "stock micro-batch": f"{micro} of {case.rollouts}",
        "needed TFLOP, constrained": round(needed / 1e12, 3),
        "matrix rate of this machine, TFLOP/s": round(rate / 1e12, 3),
        "share of the matrix rate, constrained": round(needed / measured.median("flexrec") / rate, 3),
        **STOCK_SETTINGS,
    }
    bars = GPU_BARS if options.device == "cuda" else {case.name: case.bars.get(dtype)}
    work = f"update, G={case.rollouts}, P={case.prompt}, C={case.answer}, {dtype}, {trained}"
    made = [_row(measured, f"{work}, constrained", "flexrec", bars.get(case.name), settings)]
    made.append(_row(measured, f"{work}, free answers", "flexrec, free", bars.get(case.name), settings))
    if not options.without_replicated:
        row = _row(measured, f"{work}, constrained", "flexrec", None, settings)
        row.against, row.figure = "plain replication", measured.ratio("replicated", "flexrec")
        made.append(row)
    return made


def _run(work: Any, *arguments: Any, **named: Any) -> None:
    work(*arguments, **named)


def _row(measured: Measured, work: str, side: str, bar: float | None, settings: dict[str, Any]) -> Row:
    return Row(
        work=work,
        against="stock TRL",
        figure=measured.ratio("stock TRL", side),
        bar=bar,
        seconds=measured.seconds,
        peak_mib=measured.peak_mib,
        settings=settings,
    )


if __name__ == "__main__":
    main()
