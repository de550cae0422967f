"""Are verdicts true? Simulated sweeps, with what each method really loses known.

    python benchmarks/verdicts.py [--sweeps 200] [--families]

Each sweep has dense and three methods at three strengths; images share what their captions bring, and each point adds a
loss, the same in the mean for all images, and noise. In half of the sweeps no point loses anything, which is where a
verdict can be wrong most often; in the others a third of the points lose nothing, a third 0.5 to 5 %, and a third gain
as much. Sample sizes and kinds of noise go round. Printed: the share of sweeps with a wrong "better" or "worse" in the
family (each point against dense), against rivals, and with a wrong "no worse than margin"; at most 5 % is wanted of the
first. Beside it, what the same p-values would give with one family per strength, and without any correction. One to two
minutes of a core for 200 sweeps. --families: instead, wrong calls by kind of test and noise, as
`results.analysis.skewness` has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from results.analysis.multiplicity import holm
from results.analysis.paired import sign_flip
from results.analysis.skewness import skew_adjusted_p
from results.analysis.verdict import judge
from results.analysis.verdict_types import Compared, Verdict
from results.record import CaseFacts, Estimate, Record
from results.tables.markdown import rows

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Array]

METRIC = "truth[simulated]"
MEAN = 6.0
MARGIN = 0.01
SIZES = (16, 64, 256)
METHODS = ("a", "b", "c")
RATIOS = (0.1, 0.2, 0.3)
NOISE: dict[str, Noise] = {  # of mean 0
    "normal": lambda rng, n: rng.normal(0, 0.3, n),
    "heavy tails": lambda rng, n: 0.2 * rng.standard_t(3, n),
    "skewed": lambda rng, n: rng.gamma(2, 0.2, n) - 0.4,
    "few images change": lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(0, 0.6, n), 0.0),
}


def sweep(seed: int) -> tuple[list[Record], dict[str, float], int]:
    """Records, what each point truly loses (relative to dense's mean), and the number of images."""
    rng = np.random.default_rng(seed)
    n = SIZES[seed % len(SIZES)]
    noise = list(NOISE.values())[seed // len(SIZES) % len(NOISE)]
    nothing = seed % 2 == 0
    dense = rng.gamma(9, MEAN / 9, n)
    records = [record("dense", None, dense)]
    losses = {}
    for method in METHODS:
        for ratio in RATIOS:
            sign = 0 if nothing else rng.choice([-1, 0, 1])
            loss = float(sign * rng.uniform(0.005, 0.05))
            losses[f"{method} {100 * ratio:g} %"] = loss
            records.append(record(method, ratio, dense + loss * MEAN + noise(rng, n)))
    return records, losses, n


def record(method: str, ratio: float | None, values: Array) -> Record:
    cases = tuple(CaseFacts(prompt=f"caption {row}", seed=row) for row in range(len(values)))
    estimate = Estimate(
        value=float(values.mean()), n=len(values), unit="feature distance", convention="simulated", role="quality",
        better="lower", values=tuple(values.tolist()),
    )  # fmt: skip
    return Record(
        key=f"{method}-{ratio}".ljust(8, "."), method=method, ratio=ratio, settings={"ratio": ratio} if ratio else {},
        task="text-to-image", model="simulated", device="cpu", dtype="float32", steps=20, n_cases=len(values),
        cases=cases, outcome="ok", estimates={METRIC: estimate}, fingerprint={"weights": "simulated"},
        started="2026-01-01T00:00:00Z",
    )  # fmt: skip


def wrong(one: Compared, losses: dict[str, float], p: float | None) -> bool:
    """Whether this p-value would call a difference on the wrong side, or where there is none."""
    true = losses[one.method] - losses.get(one.comparator, 0.0)
    return p is not None and p <= 0.05 and one.difference * true <= 0


def errors(verdict: Verdict, losses: dict[str, float]) -> Iterator[tuple[str, bool]]:
    """Which kinds of error stand in a verdict."""
    blocks = verdict.sections[0].blocks
    family = [one for block in blocks for one in block.to_dense]
    rivals = [one for block in blocks for one in block.to_rival]
    for kind, some in (("better or worse, against dense", family), ("better or worse, against rivals", rivals)):
        yield kind, any(one.word in ("better", "worse") and wrong(one, losses, 0.0) for one in some)
    yield (
        "no worse than margin",
        any(one.word == "no worse than margin" and losses[one.method] >= MARGIN for one in family),
    )
    by_strength = [(one, p) for block in blocks for one, p in
                   zip(block.to_dense, holm([one.p for one in block.to_dense]), strict=True)]  # fmt: skip
    yield "with a family per strength instead", any(wrong(one, losses, p) for one, p in by_strength)
    yield "without correction instead", any(wrong(one, losses, one.p) for one in family)


def families(count: int = 400, points: int = 9) -> str:
    """Families of points without a difference in which one is called, in 100; one number for each of SIZES."""
    rng, table = np.random.default_rng(6), []
    for name, noise in NOISE.items():
        called: dict[str, list[str]] = {}
        for n in SIZES:
            drawn = noise(rng, count * points * n).reshape(count * points, n)
            flips = np.concatenate([sign_flip(some, 4000) for some in np.array_split(drawn, points)])
            skew = np.array([skew_adjusted_p(one) for one in drawn])
            for kind, p in (("sign flips", flips), ("Hall's t", skew), ("the larger p", np.maximum(flips, skew))):
                share = np.mean([min(q or 0.0 for q in holm(row)) <= 0.05 for row in p.reshape(count, points).tolist()])
                called.setdefault(kind, []).append(f"{100 * share:.1f}")
        table.append((name, *(" ".join(shares) for shares in called.values())))
    return rows(("differences", *called), table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--families", action="store_true")
    args = parser.parse_args()
    if args.families:
        print(families())
        return
    counted: dict[str, list[tuple[int, bool, bool]]] = {}
    words: dict[str, int] = {}
    for seed in range(args.sweeps):
        records, losses, n = sweep(seed)
        verdict = judge(records, margin=MARGIN)
        for kind, bad in errors(verdict, losses):
            counted.setdefault(kind, []).append((n, seed % 2 == 0, bad))
        for block in verdict.sections[0].blocks:
            for one in block.to_dense:
                words[one.word] = words.get(one.word, 0) + 1
    columns = ("all", "no point differs", *(f"n = {n}" for n in SIZES))
    lines = [
        (kind, *(_share([bad for n, null, bad in some if _in(column, n, null)]) for column in columns))
        for kind, some in counted.items()
    ]
    print(f"{args.sweeps} sweeps of {len(METHODS) * len(RATIOS)} points; sweeps with a wrong ..., in 100\n")
    print(rows(("wrong", *columns), lines))
    print(f"\nwords: {', '.join(f'{word} {count}' for word, count in sorted(words.items()))}")


def _in(column: str, n: int, null: bool) -> bool:
    return column == "all" or (column == "no point differs" and null) or column == f"n = {n}"


def _share(bad: list[bool]) -> str:
    return f"{100 * np.mean(bad):.1f} ({sum(bad)} of {len(bad)})"


if __name__ == "__main__":
    main()
