"""Kill a command at random, run it again, and compare what it leaves with what an undisturbed one leaves.

`tests/test_kills.py` kills each command once, `benchmarks/kills.py` twenty times.
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import checkpoints
from results.record import Record
from results.store import Store

ROOT = Path(__file__).resolve().parent.parent
_RUN = ["run", "--methods", "tome,uniform", "--ratios", "0.2", "--cases", "2", "--steps", "3", "--rounds", "2",
        "--metrics", "alignment,paired", "--out", "out", "--fresh"]  # fmt: skip
_FIT = ["fit", "uniform", "--ratio", "0.2", "--set", "steps=24", "--set", "batch=2", "--set", "scenes=64",
        "--set", "save_seconds=0", "--out", "out"]  # fmt: skip
COMMANDS = {"run": _RUN, "run --isolate": [*_RUN, "--methods", "tome", "--isolate"], "fit": _FIT}
_COUNTED = ("gmacs", "gmacs_paper")  # the costs that are no timings


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves. paths: in the order in which they appeared. seconds: how long after each the next came."""

    folder: Path
    paths: tuple[str, ...]
    seconds: tuple[float, ...]


def undisturbed(command: list[str], folder: Path) -> Undisturbed:
    """Run a command to its end in a new folder, and note when each file came."""
    process = _start(command, folder)
    seen: dict[str, float] = {}
    while process.poll() is None:
        for name in _files(folder):
            seen.setdefault(name, time.monotonic())
        time.sleep(0.05)
    assert process.returncode == 0, _said(folder)
    for name in _files(folder):
        seen.setdefault(name, time.monotonic())
    times = [*seen.values(), time.monotonic()]
    return Undisturbed(folder, tuple(seen), tuple(b - a for a, b in zip(times, times[1:], strict=False)))


def killed(command: list[str], folder: Path, at: Undisturbed, draw: random.Random) -> str:
    """Start the command, and kill it some time after as many files are there as a draw says. Returns when that was, ""
    where the command was faster."""
    process = _start(command, folder)
    place = draw.randrange(len(at.paths))
    while process.poll() is None and sum(1 for _ in _files(folder)) <= place:
        time.sleep(0.05)
    time.sleep(draw.random() * at.seconds[place])
    process.send_signal(signal.SIGKILL)
    process.wait()
    return f"after {at.paths[place]}" if process.returncode == -signal.SIGKILL else ""


def finished(command: list[str], folder: Path) -> None:
    """Run the command again, to its end."""
    assert _start(command, folder).wait() == 0, _said(folder)


def differences(one: Path, other: Path) -> list[str]:
    """What two folders hold that is not the same, timings apart; a line for each."""
    names = [set(_files(folder)) for folder in (one, other)]
    found = [f"{name}: only in one of them" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if _content(one / name) != _content(other / name):
            found.append(f"{name}: another content")
    return found


def _content(path: Path) -> Any:
    """What of a file has to be the same."""
    if path.name == "store.sqlite":
        with Store(path, read_only=True) as store:
            return [_timeless(record) for record in store.records()]
    if path.suffix == ".safetensors":
        tensors, facts = checkpoints.load(path)
        return {name: tensor.tolist() for name, tensor in tensors.items()}, facts
    if path.name == "results.csv" or (path.suffix == ".csv" and path.parent.name != "tables"):
        with open(path, newline="", encoding="utf-8") as handle:
            return [(row.get("step"), row.get("method"), row.get("gmacs")) for row in csv.DictReader(handle)]
    if path.name == "log.jsonl":
        return len(path.read_text(encoding="utf-8").splitlines())
    if "/tables/" in path.as_posix() or "/plots/" in path.as_posix():
        return path.stat().st_size > 0  # they show timings
    return path.read_bytes()


def _timeless(record: Record) -> dict[str, Any]:
    """What of a record does not depend on how fast the machine was."""
    fields = record.model_dump(exclude={"samples", "seconds", "started", "estimates"})
    same = {n: e for n, e in record.estimates.items() if e.role != "cost" or n in _COUNTED}
    return fields | {name: (e.value, e.low, e.high, e.values) for name, e in same.items() if e.role != "info"}


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder.with_suffix(".said"), "w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *command], cwd=folder, env=os.environ | own, stdout=said, stderr=said
        )


def _said(folder: Path) -> str:
    return folder.with_suffix(".said").read_text(encoding="utf-8", errors="replace")[-2000:]


def _files(folder: Path) -> Iterator[str]:
    """Files below a folder, but for those that a database or a writer makes for a moment."""
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(("-wal", "-shm", "-journal", ".part")) and not place.endswith("/running"):
                yield os.path.relpath(os.path.join(place, name), folder)


def trial(command: list[str], reference: Undisturbed, folder: Path, draw: random.Random, kills: int) -> tuple[str, Any]:
    """Kill a command so often, let it end, and compare. Returns when it was killed, and the differences."""
    when = [killed(command, folder, reference, draw) for _ in range(kills)]
    finished(command, folder)
    found = differences(reference.folder, folder)
    leftover = [str(path) for path in folder.rglob("*") if path.name.endswith(".part") or path.name == "running"]
    shutil.rmtree(folder) if not (found or leftover) else None
    return ", ".join(filter(None, when)) or "never", found + leftover
