"""Joules from a counter that moves by leaps, as NVML's does."""

from __future__ import annotations

import pytest
import torch

from harness.measure import energy


@pytest.mark.parametrize(
    ("seconds", "watts", "within"), [(0.007, 300.0, 0.01), (0.013, 60.0, 0.01), (0.4, 700.0, 0.07)]
)
def test_leaps_of_the_counter_do_not_count(
    monkeypatch: pytest.MonkeyPatch, seconds: float, watts: float, within: float
) -> None:
    now = [0.03]

    def run() -> None:
        now[0] += seconds

    monkeypatch.setattr(energy, "_counter", lambda _device: lambda: watts * 0.13 * (now[0] // 0.13))
    monkeypatch.setattr(energy.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    joules, runs = energy.joules(run, torch.device("cuda", 0))
    assert runs > 1 and joules == pytest.approx(watts * seconds, rel=within)
