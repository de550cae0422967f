"""How a denoiser step is executed: what Python costs, and what the device does, told apart.

eager: one operator after another, as diffusers runs it. compile: each block through torch.compile, once for every shape
and not once per layer. graph: the step captured into CUDA graphs, one for every timestep region, and replayed, so that
no launch waits for Python. compile+graph: both.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from harness.backbones import compiled_blocks
from harness.backbones.base import Backbone
from harness.errors import UserError, failure_reason, first_line
from harness.measure import memory
from harness.method import Method
from harness.sweep import Mode


def check(mode: Mode, device: str) -> None:
    """Raises UserError for a mode that a device has not. device: its type."""
    if mode != "eager" and device == "meta":
        raise UserError(f"device meta executes nothing, and has no mode {mode!r}: leave --mode out")
    if "graph" in mode and device != "cuda":
        raise UserError(f"mode {mode!r} captures CUDA graphs, and the device is {device!r}: there, the modes are "
                        f"eager and compile")  # fmt: skip


@contextmanager
def compiling(mode: Mode, backbones: Collection[Backbone]) -> Iterator[None]:
    """Within the context the blocks of these backbones run compiled, where the mode says so."""
    with ExitStack() as stack:
        if "compile" in mode:
            # else what has too many forms would run eagerly, and nobody would know
            stack.enter_context(torch._dynamo.config.patch(fail_on_recompile_limit_hit=True))
            for backbone in backbones:
                stack.enter_context(backbone.compiled_blocks())
        yield


class CapturedError(RuntimeError):
    """A step that cannot be captured into a CUDA graph, and why."""


def refusal(mode: Mode, method: Method) -> str:
    """Why a method cannot run in a mode whatever the device; "" where it may."""
    if "graph" in mode and any(one.reuses for one in method.members()):
        return "it keeps what one sampling step computes for another, and a graph that is replayed decides nothing anew"
    return ""


def why(error: Exception, mode: Mode, own: Collection[str] = ()) -> str:
    """Why a mode could not run, in one line. own: files of the method, see `failure_reason`."""
    if memory.ran_out(error):
        more = " and the tensors of every graph" if "graph" in mode else ""
        return (f"out of memory: beside the model, the mode holds a copy of the denoiser{more}; take --dtype bfloat16 "
                "or a smaller model, or leave the mode out")  # fmt: skip
    if isinstance(error, CapturedError):
        return str(error)
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        return (f"blocks take more than {compiled_blocks.FORMS} compiled forms, one for each number of tokens, and one "
                "for each layer where the method changes what is inside: round the numbers, for instance with "
                "--set diffcr.multiple=64, or leave the mode out")  # fmt: skip
    while isinstance(inner := getattr(error, "inner_exception", None), Exception):  # the compiler's own words
        error = inner
    return failure_reason(error, own)


def capture(run: Callable[[], Any], device: torch.device, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of a run on a device, and what the run returned, which each replay fills anew. pool: of an earlier
    graph, whose memory it shares. What the run reads has to keep its place as long as the graph is replayed. Raises
    CapturedError."""
    why: list[Exception] = []  # the run's own error, which the end of a capture covers with another
    first: Exception | None = None
    pool = pool or torch.cuda.graph_pool_handle()

    def watched() -> Any:
        try:
            return run()
        except Exception as error:
            why.append(error)
            raise

    with torch.cuda.device(device):  # streams and graphs are the current device's
        now, beside = torch.cuda.current_stream(), _beside(torch.cuda.current_device())
        try:
            beside.wait_stream(now)
            with torch.cuda.stream(beside):  # the first runs allocate, compile and draw
                for _ in range(3):
                    watched()
            now.wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # a thread may be drawing for the next step, into memory that a capture must not mind
            with torch.cuda.graph(graph, pool=pool, stream=beside, capture_error_mode="thread_local"):
                out = watched()
        except RuntimeError as error:
            _end_of_capture(pool, beside)
            first = why[0] if why else error
            if memory.ran_out(first):
                raise first from None
            raise CapturedError(f"cannot be captured into a CUDA graph: {first_line(first)}") from first
        finally:
            torch.cuda.set_stream(now)  # a capture that fails leaves its own as the current one
            why.clear()
            first = None  # an error holds this frame, and all that its callers hold
    return graph, out


@functools.cache
def _beside(_index: int) -> torch.cuda.Stream:
    """The stream on which a device's graphs are captured: they share a pool of memory on one stream alone."""
    return torch.cuda.Stream()


def _end_of_capture(pool: Any, beside: torch.cuda.Stream) -> None:
    """Behind a capture that failed. torch up to 2.11 goes on taking the process's memory for the graph's, and up to
    2.12 its generator refuses to draw until another capture ends well."""
    with contextlib.suppress(RuntimeError, AttributeError):  # later ones have ended it, and say so
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
    with contextlib.suppress(RuntimeError):
        one, graph = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            one.add_(1)


@contextmanager
def captured(
    steps: Sequence[Callable[[], object]],
    put_on: Callable[[], AbstractContextManager[object]],
    device: torch.device,
) -> Iterator[Callable[[], None]]:
    """What replays these steps, each from a CUDA graph of its own, in one pool of memory. put_on: what is on while they
    are captured and, since its tensors are those that graphs read, replayed. Raises CapturedError."""
    graphs: list[torch.cuda.CUDAGraph] = []
    with put_on():
        for step in steps:
            graphs.append(capture(step, device, graphs[0].pool() if graphs else None)[0])

        def replay() -> None:
            for graph in graphs:
                graph.replay()

        yield replay


class Graphs:
    """Advice around a denoiser's forward that replays its calls from CUDA graphs, in one pool of memory: one for each
    batch shape and timestep region. A call that has none yet is captured. region: of the call that is due; calls of one
    region do the same work.

    Raises CapturedError.
    """

    def __init__(self, region: Callable[[], Hashable]) -> None:
        self._region = region
        self._known: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Any], Any]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        leaves, form = tree_flatten((args, kwargs))
        key = self._region(), repr(form), tuple(map(_kind, leaves))
        if key not in self._known:
            given = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            own_args, own_kwargs = tree_unflatten(given, form)
            pool = next((graph.pool() for graph, *_ in self._known.values()), None)
            device = next(leaf.device for leaf in given if isinstance(leaf, Tensor))
            graph, out = capture(lambda: forward(*own_args, **own_kwargs), device, pool)
            self._known[key] = graph, given, out
        graph, given, out = self._known[key]
        for own, leaf in zip(given, leaves, strict=True):
            if isinstance(leaf, Tensor):
                own.copy_(leaf)
        graph.replay()
        return tree_map_only(Tensor, Tensor.clone, out)  # the next replay writes into the same place


def _kind(leaf: object) -> Hashable:
    """What of an argument a graph is bound to: of a tensor its form, of anything else its value."""
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf)
