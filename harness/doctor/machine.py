"""The device, what compiles for it, memory and disk."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.doctor.line import Line, first_line, size

_RUNS = Path("results") / "runs"
_LEAST_MEMORY, _LEAST_DISK = 2 * 2**30, 2**30


def device() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = importlib.import_module("torch")
    yield Line("CPU", "ok", f"{cores} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            product = torch.ones(8, 8, device=f"cuda:{number}") @ torch.ones(8, 8, device=f"cuda:{number}")
            works = bool((product == 8).all())
            remedy = "" if works else "install a torch that is built for this GPU and driver"
            name = torch.cuda.get_device_name(number)
            found = f"{name}, {size(free)} of {size(total)} free" + ("" if works else "; a matrix product is wrong")
            yield Line(f"cuda:{number}", "ok" if works else "bad", found, remedy)
    elif torch.version.cuda is not None and Path("/dev/nvidia0").exists():
        found = f"there is a GPU, and torch (built for CUDA {torch.version.cuda}) cannot use it"
        yield Line("CUDA", "bad", found, "nvidia-smi shows the driver; update it, or install a torch for an older CUDA")
    else:
        yield Line("CUDA", "note", "no GPU here", "the bundled models need none; larger ones want --device cuda")


def compilers() -> Iterator[Line]:
    """What torch.compile, the method `compile`, generates code with."""
    torch = importlib.import_module("torch")
    on_gpu = torch.cuda.is_available()
    try:
        triton = importlib.import_module("triton").__version__
    except Exception as error:
        remedy = "pip install triton" if on_gpu else "without a GPU it is not needed"
        yield Line(
            "Triton", "bad" if on_gpu and not isinstance(error, ImportError) else "note", first_line(error), remedy
        )
    else:
        yield Line("Triton", "ok", str(triton) + ("" if on_gpu else ", not used without a GPU"))
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if compiler is None:
        yield Line(
            "C++ compiler", "note", "none", "install g++ if you want the method `compile`; nothing else needs it"
        )
    else:
        yield Line("C++ compiler", "ok", compiler)


def memory() -> Iterator[Line]:
    psutil = importlib.import_module("psutil")
    free = psutil.virtual_memory().available
    short = free < _LEAST_MEMORY
    remedy = "end other programs, or take a smaller --batch" if short else ""
    yield Line("memory", "note" if short else "ok", f"{size(free)} free", remedy)


def disk() -> Iterator[Line]:
    """Where runs are written: the nearest folder that is there already."""
    place = _RUNS.resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        remedy = "start in a folder of your own, or give --out"
        yield Line("run folders", "bad", f"{place} cannot be written", remedy)
        return
    free = shutil.disk_usage(place).free
    short = free < _LEAST_DISK
    yield Line("run folders", "bad" if short else "ok", f"{_RUNS} here, {size(free)} free on the disk",
               "free some space, or give --out on another disk" if short else "")  # fmt: skip
