"""Seconds: two or more runs interleaved in one process, the share of a pipeline's parts, throughput by batch size."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from harness.patching import wrapped

Part: TypeAlias = nn.Module | tuple[object, str]
"""A module (its forward is timed), or an object and the name of one of its methods."""


def interleave(
    runs: Sequence[Callable[[], object]],
    *,
    device: torch.device,
    warmup: int = 2,
    repeats: int = 10,
    first: int = 0,
    inside: Sequence[Callable[[], AbstractContextManager[object]]] = (),
) -> list[list[float]]:
    """Seconds of every repetition of every run: `result[i][j]` is run i in round j.

    Every run is warmed up `warmup` times, or the one that goes first once; then rounds go A B, B A, B A, A B, ... (see
    `_order`), so that a drift of the machine's speed hits all runs alike and `result[a][j] / result[b][j]` are paired
    ratios; `first` is the number of the first round, 0 for A B. Garbage collection is off meanwhile.
    `inside[i]()` is a context that run i needs; entering and leaving it is not timed. Raises what a run raises.
    """
    contexts = inside or [nullcontext] * len(runs)
    found: list[list[float]] = [[] for _ in runs]
    with _no_garbage_collection():  # collecting empties caches, so that what warms up comes after it
        for index in range(len(runs)) if warmup else _order(first, len(runs))[:1]:
            with contexts[index]():
                for _ in range(max(1, warmup)):
                    runs[index]()
        for repeat in range(first, first + repeats):
            for index in _order(repeat, len(runs)):
                with contexts[index]():
                    found[index].append(seconds(runs[index], device))
    return found


def _order(number: int, runs: int) -> Sequence[int]:
    """In which order the runs of a round go: forwards or backwards by the Thue-Morse sequence, so that neither a drift
    nor a place in a block of 1, 2, 4, ... rounds favours one of them."""
    return range(runs)[:: -1 if number.bit_count() % 2 else 1]


class Blocks:
    """Interleaved rounds of several runs in blocks, between which the caller does other work: what slows a machine down
    for some seconds then hits some blocks and not the others, and shows as their spread. The first run after other work
    finds cold caches (measured: 5 % of a run of 20 ms); each block starts with one that is not timed.

    rounds: in all; size: of each block. seconds: as `interleave` returns them, filled block by block.
    """

    def __init__(
        self,
        runs: Sequence[Callable[[], object]],
        rounds: int,
        size: int,
        device: torch.device,
        inside: Sequence[Callable[[], AbstractContextManager[object]]] = (),
    ) -> None:
        self.seconds: list[list[float]] = [[] for _ in runs]
        self._runs, self._rounds, self._size, self._device, self._inside = runs, rounds, size, device, inside

    def block(self) -> int:
        """The next block, unless all rounds are done; returns how many rounds it ran."""
        done = len(self.seconds[0])
        repeats = min(self._size, self._rounds - done)
        if repeats:
            found = interleave(
                self._runs, device=self._device, warmup=0 if done else 1, repeats=repeats, first=done,
                inside=self._inside,
            )  # fmt: skip
            for row, more in zip(self.seconds, found, strict=True):
                row += more
        return repeats

    def rest(self) -> None:
        """All blocks that are left, one after another."""
        while self.block():
            pass


def throughput(
    run_batch: Callable[[int], object],
    batch_sizes: Iterable[int],
    device: torch.device,
    *,
    warmup: int = 1,
    repeats: int = 3,
) -> dict[int, float]:
    """Images per second by batch size, from the median of `repeats`; `run_batch(n)` makes n images, its errors pass."""
    result = {}
    for size in batch_sizes:
        (seconds,) = interleave([partial(run_batch, size)], device=device, warmup=warmup, repeats=repeats)
        result[size] = size / statistics.median(seconds)
    return result


class PartTimer:
    """Within the context, the seconds spent inside parts of a pipeline.

        with PartTimer({"denoiser": pipe.transformer, "vae": (pipe.vae, "decode")}, device) as timer:
            pipe(...)
        timer.seconds["denoiser"]

    The device is synchronised around every call, so the parts are true but a run timed this way is a little slower.
    A part's call inside a call of the same part is not counted twice. On exit the objects are exactly as before.
    """

    def __init__(self, parts: Mapping[str, Part], device: torch.device) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(parts, 0.0)
        self.calls: dict[str, int] = dict.fromkeys(parts, 0)
        self._parts = dict(parts)
        self._device = device
        self._inside: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> PartTimer:
        with ExitStack() as stack:  # takes back what was wrapped if a later part is no part
            for name, part in self._parts.items():
                owner, method = part if isinstance(part, tuple) else (part, "forward")
                stack.enter_context(wrapped(owner, method, partial(self._timed, name)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _timed(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name in self._inside:
            return original(*args, **kwargs)
        self._inside.add(name)
        synchronize(self._device)
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            synchronize(self._device)
            self.seconds[name] += time.perf_counter() - start
            self.calls[name] += 1
            self._inside.remove(name)


def clock(device: torch.device) -> str:
    """What `interleave` reads on this device."""
    return "device events" if device.type == "cuda" else "wall clock"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one run."""
    synchronize(device)
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        synchronize(device)
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    stream = torch.cuda.current_stream(device)
    begin.record(stream)
    run()
    end.record(stream)
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
