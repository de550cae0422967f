"""Do the intervals and tests of paired comparisons keep what they promise? Simulated, with the truth known.

    python benchmarks/paired_statistics.py [--full] [--only null power ...]

intervals: share of samples whose 95 % interval misses the true mean, for four kinds of interval, and share that the
sign-flip test calls (the table in `results.analysis.paired`). null: share of pairs of equal arms that are called
different at 5 %, by the interval and by the test; at most 7 % is wanted. power: share called where the true difference
is the detectable one that equal arms print in the mean; 80 % is aimed at. seeds: misses of the t-interval over training
seeds. distances: the null for FID and KID differences, misses where arms differ, and the printed standard error over
the true one. speed: seconds of one core, and by the clock. Four minutes of one core, with --full fifteen.

Letters: P simulated pairs, n cases, R resamples, D feature width.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from results.analysis.distribution import fid_difference, kid_difference
from results.analysis.frechet import moments
from results.analysis.paired import Difference, paired_many, sign_flip
from results.analysis.seeds import over_seeds
from results.analysis.statistics import expanded_tail, resample_counts
from results.tables.markdown import rows

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

SIZES = (16, 32, 64, 256)


def thirds(lost: float, won: float) -> Draw:
    """Differences of a score in thirds, less their mean: -1/3 with the one probability, +1/3 with the other, else 0."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Array:
        uniform = rng.random(size)
        return ((uniform > 1 - won).astype(float) - (uniform < lost)) / 3 - (won - lost) / 3

    return draw


SYMMETRIC: dict[str, Draw] = {  # what equal arms can give
    "normal": lambda rng, size: rng.normal(size=size),
    "Laplace (both arms exponential)": lambda rng, size: rng.exponential(size=size) - rng.exponential(size=size),
    "t with 3 degrees of freedom": lambda rng, size: rng.standard_t(3, size=size),
    "80 % zero, else +-1/3": thirds(0.1, 0.1),
    "90 % zero, else +-1/3": thirds(0.05, 0.05),
}
SKEWED: dict[str, Draw] = {
    "80 % zero, 15 % -1/3, 5 % +1/3": thirds(0.15, 0.05),
    "70 % zero, 30 % -1/3": thirds(0.3, 0.0),
    "exponential less its mean": lambda rng, size: rng.exponential(size=size) - 1,
    "lognormal less its mean": lambda rng, size: rng.lognormal(size=size) - np.exp(0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"intervals": intervals, "null": null, "power": power, "seeds": seeds, "distances": distances}
    parser.add_argument("--full", action="store_true", help="enough pairs for a sampling error of a few tenths")
    parser.add_argument("--only", nargs="+", choices=(*parts, "speed"), help="these parts")
    args = parser.parse_args()
    for name in args.only or (*parts, "speed"):
        print(f"\n## {name}\n", flush=True)
        print(speed() if name == "speed" else parts[name](args.full), flush=True)


def intervals(full: bool) -> str:
    """Misses in 100 by kind of interval, and calls by the sign-flip test; one number for each of SIZES."""
    pairs, resamples = (4000, 2000) if full else (500, 1000)
    table = []
    for index, (name, draw) in enumerate((SYMMETRIC | SKEWED).items()):
        missed: dict[str, list[float]] = {}
        for n in SIZES:
            sample = draw(np.random.default_rng([index, n]), (pairs, n))
            for kind, (low, high) in _kinds(sample, resamples).items():
                missed.setdefault(kind, []).append(_outside(low, high))
            missed.setdefault("sign flips", []).append(float((sign_flip(sample, resamples) <= 0.05).mean()))
        table.append((name, *(" ".join(f"{100 * share:.1f}" for share in shares) for shares in missed.values())))
    return rows(("differences", *missed), table)


def _kinds(sample: Array, resamples: int) -> dict[str, tuple[Array, Array]]:
    """Bounds (P,) of four kinds of interval for the means of (P, n)."""
    n = sample.shape[1]
    mean, error = sample.mean(1), sample.std(1, ddof=1) / n**0.5
    excess = sample - mean[:, None]
    parts = [(excess @ w.T / n, excess**2 @ w.T / n) for w in resample_counts(n, resamples)]
    drawn, squares = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))  # (P, R) each
    tail, t = expanded_tail(n), -stdtrit(n - 1, 0.025)
    plain, expanded = (mean + np.quantile(drawn, [cut, 1 - cut], axis=1) for cut in (0.025, tail))
    own = np.sqrt(np.maximum(squares - drawn**2, 0) / (n - 1))  # (P, R), each resample's standard error
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without spread: infinitely far, or nowhere
        studentized = np.where(own > 1e-9, drawn / own, np.where(np.abs(drawn) < 1e-9, 0, np.sign(drawn) * np.inf))
    high, low = np.quantile(studentized, [0.025, 0.975], axis=1, method="nearest")
    with np.errstate(invalid="ignore"):
        boot_t = [np.where(error > 0, mean - cut * error, mean) for cut in (low, high)]
    return {
        "percentile": (plain[0], plain[1]),
        "expanded (used)": (expanded[0], expanded[1]),
        "Student's t": (mean - t * error, mean + t * error),
        "bootstrap-t": (boot_t[0], boot_t[1]),
    }


def null(full: bool) -> str:
    """Without and with clusters: prompts of four seeds, whose differences have half their variance in common."""
    pairs = 4000 if full else 1000
    table = []
    for index, (name, draw) in enumerate(SYMMETRIC.items()):
        for n in (16, 64, 256):
            found = _compare(draw(np.random.default_rng([1, index, n]), (pairs, n)), full)
            table.append((name, str(n), "", *_called(found)))
    for index, (name, draw) in enumerate(SYMMETRIC.items()):
        for prompts in (16, 64):
            clusters = np.repeat(np.arange(prompts), 4)
            rng = np.random.default_rng([2, index, prompts])
            shared = np.repeat(draw(rng, (pairs, prompts)), 4, axis=1)
            found = _compare(shared + draw(rng, (pairs, 4 * prompts)), full, clusters)
            table.append((name, str(4 * prompts), str(prompts), *_called(found)))
    return rows(("differences", "cases", "prompts", "called by interval, %", "by sign flips, %"), table)


def power(full: bool) -> str:
    """The true difference is what pairs of equal arms print as detectable, in the mean."""
    pairs = 4000 if full else 1000
    table = []
    for index, (name, draw) in enumerate(SYMMETRIC.items()):
        for n in (16, 64, 256):
            sample = draw(np.random.default_rng([3, index, n]), (pairs, n))
            printed = float(np.mean([one.detectable or 0.0 for one in _compare(sample, full)]))
            table.append((name, str(n), f"{printed:.3f}", *_called(_compare(sample + printed, full))))
    return rows(("differences", "n", "detectable", "called by interval, %", "by sign flips, %"), table)


def _compare(differences: Array, full: bool, clusters: NDArray[np.int64] | None = None) -> list[Difference]:
    """Arms that share what the cases bring, and differ by these (P, n); 250 at a time, for the replicates' memory."""
    cases = np.random.default_rng(0).integers(4, size=differences.shape[1]) / 1.0
    resamples = 10_000 if full else 2000
    strips = np.split(differences, range(250, len(differences), 250))
    return [one for strip in strips for one in paired_many(cases + strip, cases, clusters, resamples)]


def _called(found: Sequence[Difference]) -> tuple[str, str]:
    low, high = (np.array([getattr(one, name) for one in found], dtype=float) for name in ("low", "high"))
    p = np.array([one.p for one in found], dtype=float)
    return f"{100 * _outside(low, high):.1f}", f"{100 * (p <= 0.05).mean():.1f}"


def _outside(low: Array, high: Array, truth: float = 0.0) -> float:
    return float(((low > truth + 1e-9) | (high < truth - 1e-9)).mean())


def seeds(full: bool) -> str:
    """Means over training seeds are drawn around 0."""
    pairs = 20_000 if full else 4000
    table = []
    for name in ("normal", "exponential less its mean"):
        for count in (2, 3, 5):
            drawn = (SYMMETRIC | SKEWED)[name](np.random.default_rng([4, count]), (pairs, count))
            bounds = np.array([over_seeds(row)[1:3] for row in drawn], dtype=float)
            table.append((name, str(count), f"{100 * _outside(*bounds.T):.1f}"))
    return rows(("seeds' means", "seeds", "interval misses, %"), table)


def distances(full: bool) -> str:
    """Features are nonlinear in 12 hidden traits of a case; an arm adds noise of its own, or shrinks towards zero."""
    pairs, resamples = (200, 400) if full else (60, 250)
    n, width, rng = 64, 64, np.random.default_rng(5)
    mix = rng.normal(size=(12, width)) / 3

    def features(count: int) -> Array:
        hidden = rng.normal(size=(count, 12)) @ mix + 0.3 * rng.normal(size=(count, width))
        return 2 * np.maximum(hidden, -0.2)

    reference = features(2048)
    fitted = moments(reference)
    table = []
    for name, noise, shrunk in (
        ("equal arms, noise 0.1", 0.1, 0.0), ("equal arms, noise 0.5", 0.5, 0.0),
        ("equal arms, nothing shared", None, 0.0), ("one arm shrunk by 30 %, noise 0.5", 0.5, 0.3),
    ):  # fmt: skip
        found: dict[str, list[Difference]] = {"FID": [], "KID": []}
        for _ in range(pairs):
            shared = features(n)
            x, y = (features(n) if noise is None else shared + noise * rng.normal(size=shared.shape) for _ in range(2))
            x = x * (1 - shrunk)
            found["FID"].append(fid_difference(x, y, fitted, resamples=resamples))
            found["KID"].append(kid_difference(x, y, reference, resamples=resamples))
        for distance, differences in found.items():
            values = np.array([one.value for one in differences])
            truth = float(values.mean()) if shrunk else 0.0
            low, high = (np.array([getattr(one, end) for one in differences]) for end in ("low", "high"))
            printed = np.sqrt(np.mean([(one.sd or 0) ** 2 / n for one in differences]))
            p = np.mean([one.p <= 0.05 for one in differences if one.p is not None])
            table.append((
                name, distance, f"{truth / values.std():.1f}", f"{100 * _outside(low, high, truth):.1f}",
                f"{100 * p:.1f}", f"{printed / values.std(ddof=1):.2f}",
            ))  # fmt: skip
    head = ("arms", "distance", "difference / its sd", "interval misses, %", "p <= 0.05, %", "printed / true sd")
    return rows(head, table) + f"\n\n{pairs} pairs of n = {n} images, {resamples} resamples."


def speed() -> str:
    rng = np.random.default_rng(6)
    methods, comparator = rng.normal(size=(50, 1000)), rng.normal(size=1000)
    x, reference = rng.normal(size=(256, 64)), rng.normal(size=(2048, 64))
    y, fitted = x + 0.3 * rng.normal(size=x.shape), moments(reference)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = [_timed("50 points x 1,000 cases x 10,000 resamples", lambda: paired_many(methods, comparator))]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    table += [
        _timed("FID difference, n = 256, D = 64, 1,000 resamples", lambda: fid_difference(x, y, fitted)),
        _timed("KID difference, the same", lambda: kid_difference(x, y, reference)),
    ]
    return rows(("what", "processor, s", "clock, s"), table) + f"\n\nPeak memory of the first: {grown:.0f} MiB more."


def _timed(what: str, run: Callable[[], object]) -> tuple[str, str, str]:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return what, f"{time.process_time() - processor:.2f}", f"{time.perf_counter() - clock:.2f}"


if __name__ == "__main__":
    main()
