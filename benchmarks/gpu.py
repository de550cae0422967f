"""Everything that only a GPU can show, in order of importance, within a time limit; whatever has ended is kept.

    python benchmarks/gpu.py --minutes 6 [--out results/runs/gpu]     # on a machine with a CUDA device
    python benchmarks/gpu.py --minutes 3 --trial                      # the same steps on a CPU, at small size

Each step is a command of the harness in a process of its own, stopped when the time is up. Points are saved one by one
(the run folders resume: start it again to go on; tests that have passed on the same code are not repeated), and
`gpu.csv` is written every 15 seconds. A latency ratio compares points of one mode; overhead is a method's latency over
that of dense on as many tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

import harness
from harness.errors import UserError
from results.store import StoreError
from results.tables import step_costs

SHOWN = (
    "model", "batch", "mode", "method", "ratio", "outcome", "latency_s", "latency_ratio", "latency_limit_ratio",
    "latency_overhead", "peak_memory_mb", "energy_j",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where it runs, and how large."""

    device: str
    dtype: str
    models: dict[str, str]
    batches: tuple[str, ...]
    rounds: int


GPU = Place(
    "cuda", "bfloat16",
    {"pixart": "random:pixart-sigma-512", "flux": "random:flux-dev", "sd3": "random:sd3-medium",
     "large": "random:pixart-sigma-1024"},
    ("16", "1"), 12,
)  # fmt: skip
TRIAL = Place("cpu", "float32", dict.fromkeys(("pixart", "flux", "sd3", "large"), "shapes"), ("2", "1"), 2)
METHODS = "uniform,diffcr,tome"
TESTS, DONE = "tests", "done"
EVERY = 15.0  # seconds between two looks at what there is so far
LONGEST = {TESTS: 90.0}
"""Seconds that a step may take beside the limit of all."""


def steps(at: Place, out: Path) -> list[tuple[str, list[str]]]:
    """Names and commands, the most telling first."""
    graphs = "compile+graph,eager" if at.device == "cuda" else "compile,eager"
    tests = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]

    def profile(name: str, model: str, *more: str, batch: str = "1", methods: str = METHODS) -> tuple[str, list[str]]:
        return name, [
            "harness", "profile", "--model", at.models[model], "--device", at.device, "--dtype", at.dtype, "--methods",
            methods, "--ratios", "0.2,0.3", "--batch", batch, "--rounds", str(at.rounds), "--out", str(out / name),
            *more,
        ]  # fmt: skip

    def run(task: str) -> tuple[str, list[str]]:
        return f"run-{task}", [
            "harness", "run", "--task", task, "--device", at.device, "--methods", "diffcr,tome", "--quick", "--cases",
            "16" if at is GPU else "2", "--out", str(out / f"run-{task}"), *(["--mode", graphs] if at is GPU else []),
        ]  # fmt: skip

    return [
        (TESTS, ["pytest", "-q", "-m", "gpu", *tests]),
        *(profile("pixart", "pixart", "--mode", graphs, batch=batch) for batch in at.batches),
        run("text-to-image"),
        run("inpainting"),
        profile("rivals", "pixart", "--mode", graphs, batch=at.batches[0], methods="at-edm,random-keep"),
        profile("flux", "flux", methods="uniform,tome"),
        ("published", ["harness", "published", "table1", "--measured", str(out / "pixart" / "tables" / "profile.csv")]),
        *([profile("modes", "pixart", "--mode", "graph,compile", batch=",".join(at.batches))] if at is GPU else []),
        profile("sd3", "sd3", methods="uniform,tome"),
        profile("pixart-1024", "large"),
    ]


def collected(out: Path) -> pd.DataFrame:
    """Every profile's points so far."""
    found = []
    for folder in sorted(path.parent for path in out.glob("*/store.sqlite")):
        try:
            run = harness.open_run(folder)
        except (UserError, StoreError):  # one that has only begun
            continue
        if any(record.task == step_costs.TASK for record in run.records):
            found.append(step_costs.frame(run))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(SHOWN))


def show(frame: pd.DataFrame, console: Console) -> None:
    columns = [name for name in SHOWN if name in frame and frame[name].notna().any()]
    table = Table(*columns)
    for row in frame[columns].itertuples(index=False):
        table.add_row(*("" if pd.isna(x) else f"{x:.4g}" if isinstance(x, float) else str(x) for x in row))
    console.print(table)


def carried_out(command: Sequence[str], seconds: float, out: Path, log: Path) -> str:
    """How a command has ended. It is interrupted, not killed, when its time is up, so that it closes its files."""
    end = time.monotonic() + seconds
    with log.open("a") as kept:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=kept, stderr=subprocess.STDOUT)
        ended = ""
        while not ended:
            try:
                code = process.wait(min(EVERY, max(0.0, end - time.monotonic())))
                ended = DONE if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                if time.monotonic() >= end:
                    ended = "stopped: the time was up"
                    stop(process)
            except BaseException:
                stop(process)
                raise
            collected(out).to_csv(out / "gpu.csv", index=False)
    return ended


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sources() -> str:
    """Digest of the code that the tests are of."""
    root = Path(__file__).resolve().parent.parent
    files = sorted(
        path for part in ("harness", "methods", "results", "tasks", "tests") for path in root.glob(f"{part}/**/*.py")
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("results") / "runs" / "gpu")
    parser.add_argument("--trial", action="store_true", help="on the CPU, at small size")
    parser.add_argument("--only", help="names of steps, comma-separated")
    given = parser.parse_args(argv)
    at, console, end = TRIAL if given.trial else GPU, Console(width=160), time.monotonic() + 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    for name, command in steps(at, given.out):
        if given.only and name not in given.only.split(","):
            continue
        left = min(end - time.monotonic(), LONGEST.get(name, math.inf))
        passed = given.out / f"{name}.passed"
        before = name == TESTS and passed.exists() and passed.read_text() == sources()
        if left < 5 or before:
            console.print(f"{name}: {'passed before' if before else 'no time left'}")
            continue
        began = time.monotonic()
        ended = carried_out(command, left, given.out, given.out / f"{name}.log")
        if name == TESTS and ended == DONE and at is GPU:
            passed.write_text(sources())
        console.print(f"{name}: {ended}, {time.monotonic() - began:.0f} s, {given.out / name}.log")
    show(collected(given.out), console)


if __name__ == "__main__":
    main()
