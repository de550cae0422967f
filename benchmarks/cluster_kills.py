"""Random kills of workers of a local Ray cluster while a sweep runs: every point arrives once, or is a failed record
with a reason.

    python -m benchmarks.cluster_kills                # 50 kills of workers and 2 of the driver, 100 points, two workers
    python -m benchmarks.cluster_kills --kills 5 --drivers 0 --points 10 --seed 7

A tiny untrained model, five images a point, so that images of dense and of the last point are made in chunks. Each kill
(SIGKILL) comes a random while after a random number of points is done. A run whose driver was killed, or that ended
since no worker was left, is started again with the same command. At the end there are the planned keys and no others,
each finished once, and some points are compared with those of a run in one process: images, alignment and GMACs are the
same.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import save_tiny

import harness
from harness import config, plan
from results.store import Store, StoreError

ROOT = Path(__file__).resolve().parent.parent
_LOOK_S = 0.05


def main(
    kills: Annotated[int, typer.Option(help="Of workers.")] = 50,
    drivers: Annotated[int, typer.Option(help="Kills of the driver.")] = 2,
    points: Annotated[int, typer.Option(help="Of the sweep, dense among them.")] = 100,
    workers: Annotated[int, typer.Option(help="At once.")] = 2,
    compared: Annotated[int, typer.Option(help="Points that are compared with a run in one process.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Print a line per kill and what was found; exit with 1 where that is not as it should be."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    with TemporaryDirectory() as place:
        model, out = Path(place) / "model", Path(place) / "cluster" / "run"
        save_tiny(model)
        ratios = [round(0.8 * (row + 1) / points, 4) for row in range(points - 1)]
        asked: dict[str, Any] = {"model": str(model), "methods": "random", "cases": 5, "batch": 1, "steps": 3,
                                 "rounds": 2, "metrics": "alignment"}  # fmt: skip
        command = [sys.executable, "-m", "harness", "run", "--ratios", ",".join(map(str, ratios)), "--out", str(out),
                   "--executor", "ray", "--workers", str(workers), "--fresh"]  # fmt: skip
        command += [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        moments = draw.sample(["worker"] * kills + ["driver"] * drivers, kills + drivers)
        at = sorted(draw.randrange(points) for _ in moments)
        out.parent.mkdir()
        killed, codes = _killed(command, out, list(zip(at, moments, strict=True)), draw)
        (planned,) = plan.make(config.build(asked | {"ratios": ratios}))
        found = _wrong(out, {point.key for point in planned.points})
        some = draw.sample(ratios, min(compared, len(ratios)))
        found += _different(harness.run(**asked, ratios=some, out=Path(place) / "here" / "run"), harness.open_run(out))
        outcomes = Counter(record.outcome for record in harness.open_run(out).records)
        print(f"{killed} kills; {len(planned.points)} points, {dict(outcomes)}; exit codes {codes}")
    print("\n".join(found) or "nothing wrong")
    if found:
        raise typer.Exit(1)


def _killed(
    command: list[str], out: Path, moments: list[tuple[int, str]], draw: random.Random
) -> tuple[int, list[int]]:
    """Run the command to its end, killed at these moments: how many points are done, and what is killed then. Returns
    how many kills there were, and the exit codes of all starts."""
    began, codes, waiting = time.monotonic(), list[int](), list(moments)
    while not codes or codes[-1] not in (0, 1):
        if len(codes) > len(moments) + 3:
            raise SystemExit(f"started {len(codes)} times, and not done: {codes}")
        with open(out.parent.with_suffix(".said"), "a") as said:
            own = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
            driver = subprocess.Popen(command, env=own, stdout=said, stderr=said)
        while driver.poll() is None:
            time.sleep(_LOOK_S)
            if not waiting or (done := _done(out)) < waiting[0][0]:
                continue
            time.sleep(draw.random() * (time.monotonic() - began) / max(1, done))
            process = _victim(driver.pid, waiting[0][1], draw)
            if process is None:  # none is there at this moment
                continue
            print(f"{time.monotonic() - began:.0f} s, {done} done: {waiting.pop(0)[1]}, {_title(process)}", flush=True)
            process.send_signal(signal.SIGKILL)
        codes.append(driver.wait())
    return len(moments) - len(waiting), codes


def _victim(driver: int, kind: str, draw: random.Random) -> psutil.Process | None:
    try:
        process = psutil.Process(driver)
        if kind == "driver":
            return process
        found = [one for one in process.children(recursive=True) if "ray::Worker" in _title(one)]
    except psutil.NoSuchProcess:
        return None
    return draw.choice(found) if found else None


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def _done(out: Path) -> int:
    try:
        with Store(out / "store.sqlite", read_only=True) as store:
            return len(store.keys())
    except StoreError:
        return 0


def _wrong(out: Path, planned: set[str]) -> list[str]:
    """What is not as it should be with the records of a run; a line for each."""
    run = harness.open_run(out)
    keys = Counter(record.key for record in run.records)
    found = [f"{key[:12]}: planned, and there is no record" for key in planned - keys.keys()]
    found += [f"{key[:12]}: {number} records, planned {key in planned}" for key, number in keys.items()
              if number != 1 or key not in planned]  # fmt: skip
    found += [f"{record.key[:12]}: failed for no reason" for record in run.failed() if not record.reason]
    log = Counter(line for line in (out / "log.jsonl").read_text().splitlines() if '"outcome": "ok"' in line)
    finished = Counter(key for line in log.elements() for key in planned if key in line)
    found += [f"{key[:12]}: finished {number} times" for key, number in finished.items() if number != 1]
    for record in run.records:
        images = run.images(record)
        if record.outcome == "ok" and (images is None or len(images) != record.n_cases):
            found.append(f"{record.key[:12]}: images are gone")
    return found


def _different(here: Any, there: Any) -> list[str]:
    """In what the points of two runs differ that both have; a line for each."""
    found, others = [], {record.key: record for record in there.records}
    for one in here.records:
        other = others[one.key]
        if other.outcome != "ok":
            continue
        if not np.array_equal(here.images(one), there.images(other)):
            found.append(f"{one.key[:12]}: other images")
        found += [f"{one.key[:12]}: another {name}" for name in ("alignment", "gmacs")
                  if one.estimates[name] != other.estimates[name]]  # fmt: skip
    return found


if __name__ == "__main__":
    typer.run(main)
