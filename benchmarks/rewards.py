"""Swap reward and its variance for a million lists of 30, on one core."""

import time

from benchmarks.common import Row, parser, prepare, write_result

LISTS, K = 1_000_000, 30
BAR = 1.0


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure both formulas together, in float32 and in float64, which the trainer uses."""
    made = parser(__doc__, repetitions=5)
    made.add_argument("--lists", type=int, default=LISTS)
    made.add_argument("--items", type=int, default=K, help="K")
    options = made.parse_args(arguments)
    options.threads = 1
    if options.quick:
        options.lists = 1000
    prepare(options)
    rows = [measure(options, dtype) for dtype in ([options.dtype] if options.dtype else ["float32", "float64"])]
    write_result("rewards", options, rows)
    return rows


def measure(options, dtype: str) -> Row:
    """Seconds for the rewards and the variances of all lists."""
    import statistics

    import torch

    from benchmarks.common import peak_mib, reset_peak
    from flexrec.ranking.gains import discounts
    from flexrec.rl.rewards import swap_rewards
    from flexrec.rl.uncertainty import swap_reward_variances

    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(options.seed)
    gains = torch.rand(options.lists, options.items, generator=generator, dtype=kind)
    variances = torch.rand(options.lists, options.items, generator=generator, dtype=kind)
    ideal = gains.sort(dim=-1, descending=True).values @ torch.from_numpy(discounts(options.items)).to(kind)
    gains, variances, ideal = (tensor.to(options.device) for tensor in (gains, variances, ideal))
    parts: dict[str, list[float]] = {"rewards": [], "variances": [], "both": []}
    reset_peak(options.device)
    for turn in range(-1, options.repetitions):
        start = time.perf_counter()
        swap_rewards(gains, ideal)
        _wait(options)
        middle = time.perf_counter()
        swap_reward_variances(variances, ideal)
        _wait(options)
        end = time.perf_counter()
        if turn >= 0:
            for name, seconds in (("rewards", middle - start), ("variances", end - middle), ("both", end - start)):
                parts[name].append(seconds)
    return Row(
        work=f"swap reward and its variance, {options.lists:,} lists of {options.items}, {dtype}",
        against="",
        figure=statistics.median(parts["both"]),
        unit="s",
        bar=None if options.quick else BAR,
        at_most=True,
        seconds=parts,
        peak_mib={"both": peak_mib(options.device)},
        settings={"cores": 1, "dtype": dtype},
    )


def _wait(options) -> None:
    from benchmarks.common import synchronise

    synchronise(options.device)


if __name__ == "__main__":
    main()
