"""Which type a CPU multiplies fastest in."""

import time

import torch

SIZE, TAKES = 768, 5
WORTH_SAYING = 1.3
"""Times as fast, from which on another type is worth a hint."""


def float32_speed() -> float:
    """How many times as fast this CPU multiplies matrices in float32 as in bfloat16; takes a fraction of a second."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(SIZE, SIZE, dtype=dtype)
        takes = []
        # the first one sets up what later ones use
        for _ in range(1 + TAKES):
            started = time.perf_counter()
            matrix @ matrix
            takes.append(time.perf_counter() - started)
        seconds[dtype] = min(takes[1:])
    return seconds[torch.bfloat16] / seconds[torch.float32]


def hint_about_types(dtype: str, *, gpu: bool) -> str | None:
    """A sentence for users whose CPU is slow in bfloat16, if it is.

    Args:
        dtype: Of the model.
        gpu: Whether the model runs on one.
    """
    if gpu or dtype != "bfloat16" or (times := float32_speed()) < WORTH_SAYING:
        return None
    return (
        f"this CPU multiplies {times:.1f} times as fast in float32 as in bfloat16: an entry of conf/base/models.yml "
        "with `dtype: float32`, such as `--params model=smollm2-135m-float32`, trains faster here and needs twice the "
        "memory"
    )
