import pytest
import torch

from flexrec.policy import speed
from flexrec.policy.speed import float32_speed, hint_about_types


def test_the_speed_is_the_ratio_of_both_types(monkeypatch):
    clock, last = [0.0], {}
    multiply = torch.Tensor.__matmul__

    def slow(first, second):
        # the first product of each type takes longer
        clock[0] += {torch.float32: 2.0, torch.bfloat16: 6.0}[first.dtype] + 50.0 * (first.dtype not in last)
        last[first.dtype] = multiply(first, second)
        return last[first.dtype]

    monkeypatch.setattr(torch.Tensor, "__matmul__", slow)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    assert float32_speed() == pytest.approx(3.0)


def test_a_real_one_is_found():
    # from AMX to processors without any bfloat16
    assert 0.01 < float32_speed() < 1000


@pytest.mark.parametrize(
    ("dtype", "gpu", "times", "said"),
    [
        ("bfloat16", False, 1.86, "1.9 times as fast in float32"),
        ("bfloat16", False, 1.2, None),
        ("bfloat16", True, 9.0, None),
        ("float32", False, 9.0, None),
        ("auto", False, 9.0, None),
    ],
)
def test_who_is_told(monkeypatch, dtype, gpu, times, said):
    monkeypatch.setattr(speed, "float32_speed", lambda: times)
    hint = hint_about_types(dtype, gpu=gpu)
    assert said in hint if said else hint is None
