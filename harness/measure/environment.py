"""Where a number was measured: versions, machine, and a digest of the code."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("torch", "diffusers", "transformers", "tomesd", "fvcore", "clean-fid", "numpy", "pandas")


def describe(device: torch.device) -> dict[str, str]:
    """Versions of Python and the libraries ("absent" where one is missing), machine and device, as flat text."""
    facts = {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "threads": str(torch.get_num_threads()),
        "device": _cpu_model(),
        "attention": _attention(device),
    }
    if device.type == "cuda":
        facts |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "driver": _driver(),
        }
    elif device.type != "cpu":
        facts["device"] = device.type
    return facts


def code_digest(packages: Sequence[Path]) -> str:
    """sha256 over the relative names and contents of all .py files below the folders, whatever their order or place.

    Computed once per process and set of folders: it stands for the code that this process runs. Raises
    FileNotFoundError for a folder that does not exist.
    """
    return _digest(tuple(sorted({package.resolve() for package in packages})))


@cache
def _digest(packages: tuple[Path, ...]) -> str:
    entries = []
    for package in packages:
        if not package.is_dir():
            raise FileNotFoundError(f"no package folder at {package}")
        for file in package.rglob("*.py"):
            name = (Path(package.name) / file.relative_to(package)).as_posix()
            entries.append(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(entries)).encode()).hexdigest()


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@cache
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _attention(device: torch.device) -> str:
    """The backends that fused attention may choose from at each call."""
    allowed = {"flash": torch.backends.cuda.flash_sdp_enabled(), "math": torch.backends.cuda.math_sdp_enabled()}
    if device.type == "cuda":
        allowed["memory-efficient"] = torch.backends.cuda.mem_efficient_sdp_enabled()
        allowed["cudnn"] = torch.backends.cuda.cudnn_sdp_enabled()
    return "SDPA: " + ", ".join(name for name, on in allowed.items() if on)


@cache
def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return "unknown"
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    return answer.stdout.partition("\n")[0].strip() or "unknown"
