"""Greedy rankings of 256 prompts, K = 30, against one prompt at a time through transformers' `generate`.

Both sides follow the same constraint: `generate` by a `prefix_allowed_tokens_fn` that leaves the names that have not
been used. The prompts are made-up films, at their natural lengths: in the project's default layout, and in a short one
of titles alone. What sharing saves is decoding, one token of every prompt at a time; reading a prompt costs both sides
the same, so that a long prompt bounds the ratio. The rankings are
compared; in bfloat16 two near-equal logits may change places with the shape of a batch, so the agreement is also
measured in float32 on a few prompts, where every ranking must be the same.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import Row, alternate, load_model, model_folder, parser, prepare, write_result
from benchmarks.tasks import make_queries, project_ranker

QUERIES, K = 256, 30
CHECKED = 8
BAR = 4.0
SHORT = {"line": "{title}: {id}", "signals": {}, "signals_of_need": {}}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure both sides and compare their rankings."""
    made = parser(__doc__.partition("\n")[0], repetitions=3)
    made.add_argument("--queries", type=int, default=QUERIES)
    made.add_argument("--candidates", type=int, default=K, help="K")
    made.add_argument("--layouts", nargs="+", choices=("default", "short"), default=["default"])
    options = made.parse_args(arguments)
    if options.quick:
        options.queries, options.candidates = 4, 5
    prepare(options)
    rows = [measure(options, layout) for layout in options.layouts]
    write_result("greedy", options, rows)
    return rows


def measure(options: argparse.Namespace, layout: str) -> Row:
    """Both sides in turns, and the share of equal rankings."""
    dtype = options.dtype or "bfloat16"
    queries = make_queries(options.queries, options.candidates, seed=options.seed)
    exact = agreement(options, layout, queries[:CHECKED])
    ranker = make_ranker(options, layout, dtype)
    found: dict[str, list[tuple[int, ...]]] = {}

    def batched() -> None:
        found["flexrec"] = [answer.order for answer in ranker.rank(queries)]

    def single() -> None:
        found["generate"] = one_at_a_time(ranker, queries, options.candidates)

    measured = alternate(
        {"flexrec": batched, "one at a time": single},
        repetitions=options.repetitions,
        device=options.device,
        warm_ups=options.warm_ups,
    )
    lengths = [len(ranker.prompt(query)) for query in queries]
    return Row(
        work=f"greedy ranking of {options.queries} prompts, K={options.candidates}, {dtype}, {layout} layout",
        against="one prompt at a time through generate",
        figure=measured.ratio("one at a time", "flexrec"),
        bar=BAR if layout == "default" and not options.quick else None,
        seconds=measured.seconds,
        peak_mib=measured.peak_mib,
        settings={
            "dtype": dtype,
            "prompt tokens": f"{min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}",
            "prompts per batch": ranker.decoding.prompts_per_batch,
            f"equal rankings, {dtype}": _equal(found["flexrec"], found["generate"]),
            f"Kendall's tau of both, {dtype}": round(agreement_in_order(found["flexrec"], found["generate"]), 3),
            "equal rankings, float32": exact,
        },
    )


def make_ranker(options: argparse.Namespace, layout: str, dtype: str) -> Any:
    """The project's ranker with the default or the short layout."""
    changes = SHORT if layout == "short" else {}
    return project_ranker(load_model(options, dtype, adapter=False), model_folder(options), prompt=changes)


def agreement(options: argparse.Namespace, layout: str, queries: Sequence[Any]) -> str:
    """How many rankings both sides agree on in float32: all, or nothing is measured."""
    ranker = make_ranker(options, layout, "float32")
    ours = [answer.order for answer in ranker.rank(queries)]
    theirs = one_at_a_time(ranker, queries, options.candidates)
    found = _equal(ours, theirs)
    print(f"{layout} layout, equal rankings in float32: {found}")
    if ours != theirs:
        raise SystemExit("the two sides rank differently in float32: nothing is measured")
    return found


def agreement_in_order(ours: Sequence[tuple[int, ...]], theirs: Sequence[tuple[int, ...]]) -> float:
    """Mean Kendall's tau of both sides' rankings."""
    import numpy as np

    from flexrec.ranking.metrics import kendall_tau

    return float(np.mean(kendall_tau(np.array(ours), np.array(theirs))))


def _equal(ours: Sequence[tuple[int, ...]], theirs: Sequence[tuple[int, ...]]) -> str:
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"


def one_at_a_time(ranker: Any, queries: Sequence[Any], count: int) -> list[tuple[int, ...]]:
    """Rankings by `generate`, a prompt at a time, under the constraint of the project's grammar."""
    import torch

    model, tokenizer = ranker.model, ranker.tokenizer
    names = {tokens[0]: index for index, tokens in enumerate(ranker.grammar(count).identifiers)}
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    rankings = []
    for query in queries:
        prompt = torch.tensor([ranker.prompt(query)], device=device)
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=tokenizer.pad_token_id,
            prefix_allowed_tokens_fn=_remaining(names, prompt.shape[1]),
        )
        rankings.append(tuple(names[token] for token in output[0, prompt.shape[1] :].tolist()))
    model.train(training)
    return rankings


def _remaining(names: dict[int, int], start: int) -> Callable[[int, Any], list[int]]:
    def allowed(_: int, tokens: Any) -> list[int]:
        used = set(tokens[start:].tolist())
        return [token for token in names if token not in used]

    return allowed


if __name__ == "__main__":
    main()
