"""How far a latency ratio can be trusted on this machine: dense against dense, many times over (A/A test)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from harness import cost
from harness.method import Method
from results.analysis.statistics import block_size, paired_ratio


class Calibration(NamedTuple):
    """sessions: measurements of a ratio whose truth is 1. inside: the share whose interval holds 1. floor: the relative
    distance from 1 that 95 % of them stay within. width: the median width of the intervals."""

    sessions: int
    inside: float
    floor: float
    width: float


def calibrate(
    on: cost.Subject, dense: Method, sessions: int, rounds: int, progress: Callable[[], None] = lambda: None
) -> Calibration:
    """Measure dense's latency ratio to itself `sessions` times, just as a sweep measures a method's, with the image's
    text encoded between blocks."""
    size, found = block_size(rounds), []
    case = (on.typical[0],)
    for _ in range(sessions):
        with cost.pairs(on, dense, None, dense, rounds) as clock:
            while clock.block():
                on.task.encode(case)
        dense_s, own_s = clock.seconds
        found.append(paired_ratio(np.array(own_s), np.array(dense_s), block=size))
        progress()
    values = np.array([one.value for one in found])
    bounds = np.array([[one.low, one.high] for one in found], dtype=np.float64)  # (sessions, 2)
    return Calibration(
        sessions=sessions,
        inside=float(((bounds[:, 0] <= 1) & (bounds[:, 1] >= 1)).mean()),
        floor=float(np.quantile(np.abs(values - 1), 0.95)),
        width=float(np.median(bounds[:, 1] - bounds[:, 0])),
    )
