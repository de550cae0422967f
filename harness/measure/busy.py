"""The share of a run in which a GPU works: what is left is the host's, launching one kernel after another."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile, schedule

_CALLS = 20


def busy(run: Callable[[], object], device: torch.device) -> float | None:
    """Time in kernels over wall time, 0 to 1, of a run; None where kernels cannot be timed. The profiler slows the host
    down a little, so that a value near 1 is no lower than shown."""
    if device.type != "cuda":
        return None
    if _teardown_is_safe():  # else every launch of the process is slower ever after
        os.environ.setdefault("TEARDOWN_CUPTI", "1")
    share = _seen(run, device)
    return _seen(run, device) if share is None else share  # the end of an earlier profile can swallow a whole one


def _seen(run: Callable[[], object], device: torch.device) -> float | None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Profiler clears events")  # one cycle is all there is
        # The first run warms up the device and the profiler, which loses what comes right behind its start.
        with profile(activities=[ProfilerActivity.CUDA], schedule=schedule(wait=0, warmup=1, active=1)) as seen:
            run()
            torch.cuda.synchronize(device)
            seen.step()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize(device)
            wall = time.perf_counter() - start
    for _ in range(_CALLS):  # the profiler is taken down at the next calls, not in what is measured next
        torch.cuda.synchronize(device)
        time.sleep(0.01)
    kernels = sum(
        one.self_device_time_total
        for one in seen.key_averages()
        if one.device_type == DeviceType.CUDA and not one.key.startswith("ProfilerStep")
    )
    return min(1.0, kernels / 1e6 / wall) if kernels else None


def _teardown_is_safe() -> bool:
    """With CUDA graphs in the process, by torch's own rule: from CUDA 12.6 on."""
    return tuple(int(part) for part in str(torch.version.cuda or "0").split(".")[:2]) >= (12, 6)
