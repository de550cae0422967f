"""Where a number was measured: commit, versions and machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness.measure import noise_floor

_PACKAGES = (
    "dit-efficiency-harness", "torch", "diffusers", "transformers", "tomesd", "fvcore", "clean-fid", "numpy", "pandas",
)  # fmt: skip

_LIBRARIES = ("commit", "python", *_PACKAGES, "cuda", "cudnn")


def other_libraries(planned: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """In which versions two environments differ, a line for each. A commit that one of them does not know is none."""
    return [
        f"{name}: {planned.get(name, 'absent')} planned, {here.get(name, 'absent')} here"
        for name in _LIBRARIES
        if planned.get(name) != here.get(name) and not (name == "commit" and "" in (planned.get(name), here.get(name)))
    ]


def describe(device: torch.device) -> dict[str, str]:
    """Commit, versions of Python and the libraries ("absent" where one is missing), machine and device, as flat
    text."""
    facts = {
        "commit": commit(),
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
    return facts | noise_floor.known(facts)


@cache
def commit() -> str:
    """The git commit of the program, "+" behind it where files differ from it; "" where it is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=20)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True,
            timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else ""


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
