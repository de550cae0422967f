"""Weights of the bundled models, the adapters beside them, and caches."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from harness.doctor.line import Line, first_line, size

ZOO = Path(__file__).resolve().parents[1] / "zoo"
_POINTER = b"version https://git-lfs"
_RESTORE = "git restore harness/zoo in the checkout, or install the package anew"


def models() -> Iterator[Line]:
    """Every file of the bundled models can be opened."""
    for zoo in sorted(path.parent for path in ZOO.glob("*/make.py")):
        name = zoo.name.replace("_", "-")
        index = zoo / "weights" / "pipeline" / "model_index.json"
        if not index.is_file():
            yield Line(f"model {name}", "bad", f"no weights: {index} is missing", _RESTORE)
            continue
        files = sorted([*zoo.glob("weights/**/*.safetensors"), *zoo.glob("adapters/*.safetensors")])
        problems = [problem for path in files if (problem := _problem(path))]
        try:
            parts = json.loads(index.read_text(encoding="utf-8"))
            kept = {part for part in ("transformer", "vae", "text_encoder") if isinstance(parts.get(part), list)}
            problems += [
                f"{part} has no weights"
                for part in sorted(kept)
                if not any((index.parent / part).glob("*.safetensors"))
            ]
        except (OSError, ValueError) as error:
            problems.append(f"{index.name}: {first_line(error)}")
        adapters = sum(path.parent.name == "adapters" for path in files)
        total = size(sum(path.stat().st_size for path in files))
        if problems:
            yield Line(f"model {name}", "bad", "; ".join(problems[:3]), _RESTORE)
        else:
            yield Line(f"model {name}", "ok", f"weights and {adapters} adapters, {total}")


def caches() -> Iterator[Line]:
    """What is kept outside of run folders."""
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    hub = hub.expanduser()
    if hub.is_dir():
        kept = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
        yield Line("hub cache", "ok", f"{hub}: {', '.join(kept) or 'no models'}")
    else:
        remedy = "models by hub id need it: HF_HUB_OFFLINE=0 lets them be fetched; set HF_HOME for another place"
        yield Line("hub cache", "note", f"{hub} is not there", remedy)
    clock = Path("results") / "runs" / "clock.json"
    if clock.is_file():
        yield Line("noise floor", "ok", f"{clock}: latencies near 1 are judged by it")
    else:
        remedy = "python -m harness calibrate-clock, while the machine does nothing else, before latencies are reported"
        yield Line("noise floor", "note", "not measured on this machine", remedy)


def _problem(path: Path) -> str:
    """Why a file of weights cannot be read, "" where it can."""
    try:
        with open(path, "rb") as handle:
            if handle.read(len(_POINTER)) == _POINTER:
                return f"{path.name} is a Git LFS pointer, not the file (git lfs pull)"
        with importlib.import_module("safetensors").safe_open(path, framework="np") as file:
            return "" if list(file.keys()) else f"{path.name} holds no tensors"
    except Exception as error:
        return f"{path.name}: {first_line(error)}"
