"""How a denoiser step is executed: what Python costs, and what the device does, told apart.

eager: one operator after another, as diffusers runs it. compile: each block through torch.compile, once for every shape
and not once per layer. graph: the step captured into CUDA graphs, one for every timestep region, and replayed, so that
no launch waits for Python. compile+graph: both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from harness.backbones.base import Backbone
from harness.errors import UserError, first_line
from harness.sweep import Mode


def check(mode: Mode, device: torch.device) -> None:
    """Raises UserError for a mode that a device has not."""
    if mode != "eager" and device.type == "meta":
        raise UserError(f"device meta executes nothing, and has no mode {mode!r}: leave --mode out")
    if "graph" in mode and device.type != "cuda":
        raise UserError(f"mode {mode!r} captures CUDA graphs, and the device is {device.type!r}: there, the modes are "
                        f"eager and compile")  # fmt: skip


@contextmanager
def compiling(mode: Mode, backbones: Collection[Backbone]) -> Iterator[None]:
    """Within the context the blocks of these backbones run compiled, where the mode says so."""
    with ExitStack() as stack:
        if "compile" in mode:
            for backbone in backbones:
                stack.enter_context(backbone.compiled_blocks())
        yield


class CapturedError(RuntimeError):
    """A step that cannot be captured into a CUDA graph, and why."""


def captured(
    steps: Sequence[Callable[[], object]], put_on: Callable[[], AbstractContextManager[object]]
) -> Callable[[], None]:
    """What replays these steps, each from a CUDA graph of its own, in one pool of memory. put_on: what has to be on
    while they are captured. Raises CapturedError."""
    graphs: list[torch.cuda.CUDAGraph] = []
    try:
        with put_on():
            for step in steps:
                beside = torch.cuda.Stream()
                beside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(beside):  # the first runs allocate, compile and draw
                    for _ in range(3):
                        step()
                torch.cuda.current_stream().wait_stream(beside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None):
                    step()
                graphs.append(graph)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CapturedError(f"cannot be captured into a CUDA graph: {first_line(error)}") from error

    def replay() -> None:
        for graph in graphs:
            graph.replay()

    return replay
