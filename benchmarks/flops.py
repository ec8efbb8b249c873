"""Floating-point operations that a shared-prompt update needs, and the rate that the machine multiplies matrices at.

Counted are the operations that the result needs, not those that a program makes: a pass that is computed again
counts once. With P prompt tokens, G answers of C tokens, T = P + G (C - 1) tokens through the layers (nobody reads
what comes after an answer's last token), N the weights of one layer's matrices and N_kv those of its keys and values:

    linear, forward     2 T N per layer; in the last layer prompts need keys and values alone: less 2 (P - 1)(N - N_kv)
    attention, forward  4 H h pairs per layer, pairs = P (P + 1) / 2 + G sum_{t=1}^{C-1} (P + t); in the last layer the
                        prompt's last token alone: P instead of P (P + 1) / 2
    output matrix       2 d columns G C: the identifiers' columns, or the whole vocabulary
    backward, all weights    twice the forward pass (gradients of inputs and of weights)
    backward, LoRA           the layers from the lowest adapted one up: once the linear part (inputs only), twice the
                             attention, and 6 T r (in + out) for each adapted matrix, forward and backward together
"""

import time
from typing import Any

SIZES = {"cuda": 8192, "cpu": 2048}

LONGEST_PRODUCT = 2.0
"""Seconds. CPUs without bfloat16 products need a minute for one of the usual size."""


def matrix_rate(device: str, dtype: str, *, size: int | None = None, repetitions: int = 10) -> float:
    """Best measured rate of a square matrix product, in FLOP/s; a smaller one where that takes longer than seconds."""
    goal = size or SIZES[device]
    n = max(1, goal // 8)
    seconds = _product_seconds(device, dtype, n, 2)
    while n < goal and 8 * seconds < LONGEST_PRODUCT:
        n = min(2 * n, goal)
        seconds = _product_seconds(device, dtype, n, 2)
    return 2 * n**3 / _product_seconds(device, dtype, n, repetitions)


def _product_seconds(device: str, dtype: str, n: int, repetitions: int) -> float:
    import torch

    from benchmarks.common import synchronise

    left = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    right = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(repetitions):
        synchronise(device)
        start = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best


def update_flops(
    config: Any, *, prompt: int, rollouts: int, answer: int, columns: int, adapter: Any | None = None
) -> float:
    """Operations of one update of one group (module docstring).

    Args:
        config: The model's configuration.
        prompt: P.
        rollouts: G.
        answer: C.
        columns: Columns of the output matrix that are needed.
        adapter: `AdapterSettings` of a LoRA adapter; None where all weights are trained.
    """
    linear, attention, head = _forward(config, prompt, rollouts, answer, columns)
    forward = sum(linear) + sum(attention) + head
    if adapter is None:
        return 3.0 * forward
    trained = _trained(config, adapter)
    shapes = _shapes(config)
    adapted = sum(sum(shapes[name]) for name in adapter.targets if name in shapes)
    tokens = prompt + rollouts * (answer - 1)
    low_rank = 6.0 * tokens * adapter.rank * adapted * len(linear[trained])
    return forward + sum(linear[trained]) + 2.0 * sum(attention[trained]) + head + low_rank


def step_flops(
    config: Any, *, prompt: int, rollouts: int, answer: int, columns: int, adapter: Any | None = None
) -> float:
    """Operations of one whole on-policy step of one group: the update, and the reference's forward pass.

    What is sampled needs no other operations than the update's forward pass. The reference shares the layers below the
    lowest adapted one, where there is an adapter.

    Args:
        config: As of `update_flops`, as are the others.
        prompt: P.
        rollouts: G.
        answer: C.
        columns: Columns of the output matrix that are needed.
        adapter: As there.
    """
    linear, attention, head = _forward(config, prompt, rollouts, answer, columns)
    own = slice(0, None) if adapter is None else _trained(config, adapter)
    update = update_flops(config, prompt=prompt, rollouts=rollouts, answer=answer, columns=columns, adapter=adapter)
    return update + sum(linear[own]) + sum(attention[own]) + head


def _shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the matrices of one layer."""
    d, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or d // heads
    inner, query, kv = config.intermediate_size, heads * head_dim, (config.num_key_value_heads or heads) * head_dim
    return {
        "q_proj": (d, query),
        "k_proj": (d, kv),
        "v_proj": (d, kv),
        "o_proj": (query, d),
        "gate_proj": (d, inner),
        "up_proj": (d, inner),
        "down_proj": (inner, d),
    }


def _trained(config: Any, adapter: Any) -> slice:
    layers = config.num_hidden_layers
    return slice(max(0, layers - (adapter.upper_layers or layers)), layers)


def _forward(
    config: Any, prompt: int, rollouts: int, answer: int, columns: int
) -> tuple[list[float], list[float], float]:
    """The forward pass: linear parts and attention by layer, and the output matrix."""
    shapes, layers = _shapes(config), config.num_hidden_layers
    weights = sum(inputs * outputs for inputs, outputs in shapes.values())
    keys_and_values = sum(inputs * outputs for inputs, outputs in (shapes["k_proj"], shapes["v_proj"]))
    query = shapes["q_proj"][1]
    tokens = prompt + rollouts * (answer - 1)
    answer_pairs = rollouts * sum(prompt + t for t in range(1, answer))
    linear = [2.0 * tokens * weights] * layers
    linear[-1] -= 2.0 * (prompt - 1) * (weights - keys_and_values)
    attention = [4.0 * query * (prompt * (prompt + 1) / 2 + answer_pairs)] * layers
    attention[-1] = 4.0 * query * (prompt + answer_pairs)
    return linear, attention, 2.0 * config.hidden_size * columns * rollouts * answer
