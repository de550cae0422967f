"""Joules that an NVIDIA device spends, from its own counter through NVML."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_SECONDS = 2.0
_TICK = 1.0  # seconds within which a counter that works has moved; it does about every 100 ms


def absent(device: torch.device) -> str:
    """Why there is no energy figure on this device; "" where there is one."""
    if device.type != "cuda":
        return "energy is measured on NVIDIA devices alone"
    try:
        _counter(device)()
    except ImportError:
        return "NVML is not installed, so energy stays empty; pip install nvidia-ml-py"
    except Exception as error:  # NVML's own errors; its class exists only where the library does
        return f"NVML gives no energy on this device, so it stays empty ({type(error).__name__}: {error})"
    return ""


def joules(run: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Joules of one `run()`: the whole device's, idle power included, mean over two seconds of runs or
    more; and how many runs these were. The counter moves by leaps, so both ends are at one of them, found while runs go
    on, and so exact to one run."""
    read, count = _counter(device), 0
    run()
    torch.cuda.synchronize(device)

    def leap() -> tuple[float, int]:
        """What the counter has leapt to, and how many runs that took."""
        before, start, runs = read(), time.perf_counter(), 0
        while (now := read()) == before and time.perf_counter() - start < _TICK:
            run()
            torch.cuda.synchronize(device)
            runs += 1
        return now, runs

    before, _ = leap()
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS or count < 2:
        run()
        torch.cuda.synchronize(device)
        count += 1
    after, more = leap()
    return (after - before) / (count + more), count + more


def _counter(device: torch.device) -> Callable[[], float]:
    import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]

    pynvml.nvmlInit()
    # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's.
    handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
