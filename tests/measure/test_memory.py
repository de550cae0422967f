"""Known allocations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.measure.memory import peak, weights_bytes

CPU, MEGABYTE = torch.device("cpu"), 2**20


def block() -> torch.Tensor:
    return torch.empty(8 * MEGABYTE, dtype=torch.uint8)


def two_at_once() -> None:
    a = block()
    b = block()
    del a
    c = block()
    del b, c


def three_at_once() -> list[torch.Tensor]:
    return [block() for _ in range(3)]


def test_the_peak_is_what_is_alive_at_once() -> None:
    assert peak(two_at_once, CPU).bytes == 16 * MEGABYTE
    assert peak(three_at_once, CPU).bytes == 24 * MEGABYTE
    assert "CPU allocator" in peak(two_at_once, CPU).convention


def test_it_is_repeatable_with_a_model() -> None:
    model, x = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), torch.randn(100, 64)

    def run() -> None:
        with torch.no_grad():
            model(x)

    run()
    peaks = {peak(run, CPU).bytes for _ in range(3)}
    assert len(peaks) == 1
    assert peaks.pop() == pytest.approx(2 * 100 * 256 * 4, rel=0.01)  # before and after the activation


def test_what_is_held_before_is_not_the_runs() -> None:
    held = [block()]
    assert peak(held.clear, CPU).bytes == 0
    assert peak(lambda: None, CPU).bytes == 0


def test_other_devices_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="meta"):
        peak(two_at_once, torch.device("meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda() -> None:
    device = torch.device("cuda")
    held = torch.empty(MEGABYTE, dtype=torch.uint8, device=device)
    result = peak(lambda: torch.empty(8 * MEGABYTE, dtype=torch.uint8, device=device), device)
    assert result.bytes == 8 * MEGABYTE
    del held


def test_weights_count_once() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    assert weights_bytes([first, second, first]) == 8 * 8 * 4
    norm = nn.BatchNorm1d(8)
    assert weights_bytes([norm]) == 4 * 8 * 4 + 8  # weight, bias, mean, variance; one counter of 8 bytes
    assert weights_bytes([nn.Linear(8, 8, bias=False, device="meta")]) == 8 * 8 * 4
