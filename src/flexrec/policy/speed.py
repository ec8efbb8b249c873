"""Which type a CPU multiplies fastest in."""

import time

import torch

SIZE, TAKES = 768, 5
WORTH_CHANGING = 1.3
"""Times as fast, from which on another type is worth twice the memory."""


def float32_speed() -> float:
    """How many times as fast this CPU multiplies matrices in float32 as in bfloat16.

    Takes a fraction of a second, and some seconds where bfloat16 is slowest.
    """
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


def prefers_float32(times: float) -> bool:
    """Whether a CPU that is `times` as fast in float32 as in bfloat16 should compute in float32."""
    return times >= WORTH_CHANGING


def hint_about_types(dtype: str, *, gpu: bool) -> str | None:
    """A sentence for users whose model is to compute in bfloat16 on a CPU that is slow in it.

    Args:
        dtype: Of the entry of `models.yml`; `auto` has chosen for itself.
        gpu: Whether the model runs on one.
    """
    if gpu or dtype != "bfloat16" or not prefers_float32(times := float32_speed()):
        return None
    return (
        f"this CPU multiplies {times:.1f} times as fast in float32 as in bfloat16: with `dtype: auto` or `float32` in "
        "conf/base/models.yml the model trains faster here and needs twice the memory"
    )
