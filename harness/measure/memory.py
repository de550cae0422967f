"""Bytes: the peak that a run adds, and the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import psutil
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_ADDED = "peak of bytes held in tensors during the run, less those held before it"
_CUDA = f"{_ADDED} (torch.cuda.max_memory_allocated)"
_CPU = f"{_ADDED} (torch's CPU allocator, by the profiler)"


@dataclass(frozen=True)
class Peak:
    """The most bytes that tensors held at once during a run, beyond what was held when it began."""

    bytes: int
    convention: str


def peak(run: Callable[[], object], device: torch.device) -> Peak:
    """The peak of `run()`. Weights are not in it (see `weights_bytes`) unless the run itself loads them.

    On the CPU the run goes through torch's profiler and is slower: never time it meanwhile. Raises what the run
    raises, and NotImplementedError on other devices than CPU and CUDA.
    """
    if device.type == "cuda":
        return Peak(_cuda(run, device), _CUDA)
    if device.type == "cpu":
        return Peak(_cpu(run), _CPU)
    raise NotImplementedError(f"peak memory is measured on cpu and cuda, not on {device.type}")


def resident(run: Callable[[], object], every: float = 0.005) -> int:
    """The most bytes of main memory that this process holds while `run()` runs, looked at every 5 ms from another
    thread. Raises what the run raises."""
    process, done = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(every):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return max(most[0], process.memory_info().rss)


def weights_bytes(modules: Iterable[nn.Module], without: Iterable[nn.Module] = ()) -> int:
    """Bytes of all parameters and buffers but those of the modules `without`; storage that several of them share counts
    once."""
    storages = {}
    left_out = {id(tensor) for module in without for tensor in (*module.parameters(), *module.buffers())}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) in left_out:
                continue
            storage = tensor.untyped_storage()
            # Storage on the meta device has no address: there every tensor stands for itself.
            storages[storage.data_ptr() or id(tensor), tensor.device] = storage.nbytes()
    return sum(storages.values())


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def idle(modules: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """Filled on leaving: those of the modules no part of which ran inside this context. What torch.compile has made has
    to run eagerly meanwhile."""
    ran: set[int] = set()
    found: list[nn.Module] = []
    with ExitStack() as stack:
        for module in modules:
            for part in module.modules():
                if next(part.children(), None) is None:
                    mark = partial(_mark, ran, id(module))
                    stack.callback(part.register_forward_pre_hook(mark).remove)
        yield found
    found += [module for module in modules if id(module) not in ran]


def _mark(ran: set[int], which: int, _module: nn.Module, _inputs: object) -> None:
    ran.add(which)


def _cuda(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    changes.sort(key=lambda change: change[0])  # stable: events of one nanosecond keep their order
    return max(accumulate((size for _, size in changes), initial=0))
