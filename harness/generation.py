"""The quality pass of a point: its images, batch by batch, all in one process or in chunks that several make.

A chunk is a run of the batches that one process would make, each with the same cases, so that images do not depend on
who makes them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness import attach, cost, latency_estimates
from harness.errors import MethodFailure
from harness.method import Method
from harness.metric import images_to_uint8
from harness.spec import Case, Progress, State
from harness.task import Task
from results.record import Estimate


@dataclass(frozen=True)
class Chunk:
    """Some of a point's images. rows: of which cases, in the order in which they were made. images: (n, H, W, 3) uint8.
    seconds: of each batch. spent: for an adaptive method, GMACs of each image per sampling step. took: seconds in all.
    worker: who made it, where that is not the process that runs the point."""

    rows: tuple[int, ...]
    images: np.ndarray
    seconds: tuple[float, ...]
    spent: tuple[float, ...] = ()
    took: float = 0.0
    worker: str = ""


def batches(task: Task, cases: Sequence[Case], method: Method, size: int) -> list[list[int]]:
    """Which cases a method's images are made of together."""
    return [[row] for row in range(len(cases))] if method.adaptive else task.batches(cases, size)


def part(batches: Sequence[list[int]], number: int, of: int) -> Sequence[list[int]]:
    """Part `number`, from 0, of `of` nearly equal ones."""
    return batches[len(batches) * number // of : len(batches) * (number + 1) // of]


def missing(batches: Sequence[list[int]], made: Sequence[Chunk]) -> list[list[int]]:
    """The batches that are in no chunk as a whole."""
    there = {row for chunk in made for row in chunk.rows}
    return [rows for rows in batches if not there.issuperset(rows)]


def generate(
    on: cost.Subject, method: Method, state: State | None, batches: Sequence[list[int]], progress: Progress
) -> Chunk:
    """Make these batches. Raises MethodFailure for images that are none."""
    began, images, seconds, spent = time.monotonic(), [], [], []
    with attach.running(on.model, method, state, guided=on.task.guided):
        for rows in batches:
            cases = [on.cases[row] for row in rows]
            progress("images", 0)
            start = time.monotonic()
            if method.adaptive:
                some, gmacs = cost.with_products(on, cases[0])
                spent.append(gmacs)
            else:
                some = on.task.generate(cases)
            if some.ndim != 4 or len(some) != len(cases) or some.shape[1] != 3:
                raise MethodFailure(f"expected images of shape ({len(cases)}, 3, H, W), got {tuple(some.shape)}")
            if not torch.isfinite(some).all():
                raise MethodFailure("the images hold NaN or infinite values")
            images.append(images_to_uint8(some))  # waits for the device
            seconds.append(time.monotonic() - start)
            progress("images", len(cases))
    return Chunk(
        rows=tuple(row for rows in batches for row in rows),
        images=np.concatenate(images) if images else np.empty((0, 0, 0, 3), np.uint8),
        seconds=tuple(seconds),
        spent=tuple(spent),
        took=time.monotonic() - began,
    )


def joined(chunks: Sequence[Chunk], count: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """The images of all `count` cases, (N, H, W, 3) uint8, and what an adaptive method spent on each."""
    images = {row: image for chunk in chunks for row, image in zip(chunk.rows, chunk.images, strict=True)}
    spent = {row: gmacs for chunk in chunks if chunk.spent for row, gmacs in zip(chunk.rows, chunk.spent, strict=True)}
    return np.stack([images[row] for row in range(count)]), tuple(spent[row] for row in sorted(spent))


def throughput(chunks: Sequence[Chunk], batch: int) -> dict[str, Estimate]:
    """As `latency_estimates.throughput`, where the first batch of every chunk warms up; none of an adaptive method."""
    chunks = [chunk for chunk in chunks if chunk.rows and not chunk.spent]
    warm = [one for chunk in chunks for one in chunk.seconds[1 : len(chunk.rows) // batch]]
    found = latency_estimates.throughput([0.0, *warm], batch * (len(warm) + 1), batch)
    if len(chunks) < 2:
        return found
    about = f"in {len(chunks)} parts on several workers, the first batch of each left out"
    return {name: one.model_copy(update={"convention": f"{one.convention}; {about}"}) for name, one in found.items()}
