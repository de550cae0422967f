"""Points whose images several workers make: in chunks, of which whoever is free takes the next, until one of them runs
the point with all that were made.

So a point is split that is begun when fewer points than workers are left: dense, for which everything else waits, and
the last ones. A chunk is no record: where its worker dies, another makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engine import OpenWorkload
from harness.workload import Point

LEAST = 2
"""Batches of a chunk: a method is put on for each."""
_PER_WORKER = 3  # chunks of a point, so that nobody waits long for the last one


def count(opened: OpenWorkload, point: Point, workers: int) -> int:
    """In how many chunks so many workers make a point's images; 1: one of them makes all."""
    method = opened.method(point)
    if workers < 2 or method.slow_to_attach:
        return 1
    batches = len(opened.cases) if method.adaptive else -(-len(opened.cases) // opened.batch)
    return max(1, min(batches // LEAST, _PER_WORKER * workers))


def room(work: Sequence[tuple[OpenWorkload, Sequence[Point]]]) -> int:
    """How many workers can have something to do at once, about."""
    return sum(len(points) * max(1, -(-len(opened.cases) // opened.batch) // LEAST) for opened, points in work)


@dataclass
class Split:
    """A point in chunks. left: how many are still to come. made: those that have, put where workers reach them.
    images: how many these hold. ran: seconds that they took."""

    left: int
    made: list[Any] = field(default_factory=list)
    images: int = 0
    ran: float = 0.0
