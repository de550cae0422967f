"""What runs on a cluster gain and cost, on this machine: `OMP_NUM_THREADS=1 python -m benchmarks.cluster`, about ten
minutes on two quiet cores.

- two workers of one thread each against one: how much faster passes for quality are. What is timed runs alone, one
  worker at a time, and is left out: (wall time less time alone of one worker) / (the same of two). Aim: 1.8 or more.
- a plan of 100,000 points: seconds, and memory beyond what the program takes anyway. Aim: 10 s and 500 MB.
- the driver, which writes down what workers send: records a minute. Aim: 1,000.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import harness
from harness import config, plan
from harness.executors import ray_pool
from harness.executors.cluster import Cluster
from harness.executors.execute import Listener
from results.parcel import packed, unpacked
from results.run_folder import RunFolder

PLANNED, STORED = 100_000, 300
_SWEEP = {"methods": "tome,random", "metrics": "alignment,paired", "rounds": 2}


def passes(workers: int, cases: int, ratios: int) -> tuple[float, float]:
    """Seconds that all points but dense took, and those of them in which a worker was alone."""
    sweep = config.build({**_SWEEP, "cases": cases, "ratios": [0.1 + 0.05 * row for row in range(ratios)]})
    (plan_,) = plan.make(sweep)
    opened, (dense, *others) = plan_.opened, plan_.points
    with (
        tempfile.TemporaryDirectory() as place,
        ray_pool.started(Cluster(workers=workers), [opened], sweep.shared(), len(others), None, Listener()) as pool,
        RunFolder.grow(Path(place) / "run", sweep.shared()) as folder,
    ):
        pool.open(workers)
        pool.run([(opened, [dense])], folder)
        alone, began = pool.exclusive_s, time.monotonic()
        pool.run([(opened, others)], folder)
        seconds = time.monotonic() - began
        assert len(folder.store.keys("ok")) == len(plan_.points)
        return seconds, pool.exclusive_s - alone


def planned() -> tuple[float, float]:
    """Seconds and MB that a large plan takes."""
    sweep = config.build({**_SWEEP, "methods": "random", "ratios": [0.1]})
    model = plan.load_model(sweep)
    plan.make(sweep, model)  # what is computed once
    large = sweep.model_copy(update={"ratios": tuple(0.8 * (row + 1) / PLANNED for row in range(PLANNED - 1))})
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (plan_,) = plan.make(large, model)
    assert len({point.key for point in plan_.points}) == PLANNED
    return time.monotonic() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def stored(cases: int) -> float:
    """Records a minute."""
    with tempfile.TemporaryDirectory() as place:
        run = harness.run("random", ratios=[0.2], metrics="alignment,paired", rounds=2, cases=cases, out=f"{place}/run")
        with RunFolder.open(f"{place}/run") as source, RunFolder.grow(f"{place}/all", {}) as folder:
            parcel = packed(source, run.records[-1])
            began = time.monotonic()
            for row in range(STORED):
                record = parcel.record.model_copy(update={"key": f"{row:064}", "sample_key": f"{row:064}"})
                old = parcel.record.sample_key
                paths = {name: name.replace(old, record.sample_key) for name in parcel.files}
                record = record.model_copy(update={"images": [paths[name] for name in record.images]})
                files = {paths[name]: data for name, data in parcel.files.items() if name in parcel.record.images}
                record = record.model_copy(update={"features": {}, "references": {}, "token_maps": ""})
                unpacked(replace(parcel, record=record, files=files), folder)
            return STORED / (time.monotonic() - began) * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=64, help="images per point")
    parser.add_argument("--ratios", type=int, default=8, help="of two methods")
    asked = parser.parse_args()
    seconds, megabytes = planned()
    print(f"plan of {PLANNED:,} points: {seconds:.1f} s, {megabytes:.0f} MB", flush=True)
    print(f"driver: {stored(asked.cases):,.0f} records of {asked.cases} images a minute", flush=True)
    found: dict[int, list[float]] = {}
    for workers in (1, 2, 1, 2):  # twice, so that a drift of the machine shows
        wall, alone = passes(workers, asked.cases, asked.ratios)
        found.setdefault(workers, []).append(wall - alone)
        print(f"{workers} workers: {wall:.1f} s, {alone:.1f} s of them alone", flush=True)
    gains = [one / two for one, two in zip(found[1], found[2], strict=True)]
    print(f"passes for quality, two workers against one: {', '.join(f'{gain:.2f}' for gain in gains)} times as fast")


if __name__ == "__main__":
    main()
