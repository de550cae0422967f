"""How long it takes to open a run and to look at it: 200 points x 256 cases, made up here.

    python benchmarks/run_folder.py [--points 200] [--cases 256]

Prints seconds for opening and the table, for all Pareto fronts, and for a plan of 10,000 points of `shapes`.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

from results import CaseFacts, Estimate, Record, RunFolder, open_run


def record(index: int, cases: tuple[CaseFacts, ...], rng: np.random.Generator) -> Record:
    def metric(name: str) -> Estimate:
        values = rng.random(len(cases))
        return Estimate(
            value=float(values.mean()), low=0.4, high=0.6, n=len(cases), unit="share", convention=name,
            role="quality", better="higher", values=tuple(values.tolist()), replicates=tuple(rng.random(200).tolist()),
        )  # fmt: skip

    cost = Estimate(value=1 - index / 400, n=1, unit="GMACs", convention="counted", role="cost", better="lower")
    estimates = {f"metric-{i}": metric(f"metric-{i}") for i in range(8)} | {"gmacs": cost}
    return Record(
        key=f"{index:064d}", method="tome", settings={"ratio": index / 400}, ratio=index / 400, task="text-to-image",
        model="shapes", device="cpu", dtype="float32", steps=20, n_cases=len(cases), cases=cases, outcome="ok",
        estimates=estimates, started="2026-01-01T00:00:00Z",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--cases", type=int, default=256)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    cases = tuple(CaseFacts(prompt=f"a large red circle, number {i}", seed=i) for i in range(args.cases))
    with tempfile.TemporaryDirectory() as place:
        with RunFolder.grow(place, {}) as folder:
            for index in range(args.points):
                folder.store.put(record(index, cases, rng))
        began = time.perf_counter()
        run = open_run(place)
        rows = len(run.frame)
        opened = time.perf_counter() - began
        began = time.perf_counter()
        fronts = sum(1 for _ in run.fronts())
        drawn = time.perf_counter() - began
    print(f"open a run of {rows} points x {args.cases} cases and its table: {opened:.2f} s")
    print(f"its {fronts} Pareto fronts with shares of resamples: {drawn:.2f} s")

    from harness import config, plan

    ratios = tuple(i / 40_000 for i in range(1, 10_001))
    sweep = config.build({"methods": "tome", "ratios": ratios, "cases": 64})
    began = time.perf_counter()
    (planned,) = plan.make(sweep)
    print(f"a plan of {len(planned.points)} points: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
