"""Paired differences of per-image metrics: two arms that were measured on the same cases.

Letters: P points, n cases, C clusters (n of them where every case is its own), R resamples, r of them in a strip.

Interval. The bootstrap's percentile interval is too narrow at small n, because a resample's variance is the sample's
with n in the denominator, and because its quantiles are nearly those of the normal law. Hesterberg (2015, The American
Statistician 69) expands it: percentiles are taken at the level Phi(sqrt(n / (n - 1)) t), t the 2.5 % quantile of
Student's t with n - 1 degrees of freedom, which gives back the t-interval for normal data and leaves it to the
resamples how skewed the interval is. Misses of the true mean in 100, at n = 16, 32, 64, 256 (4,000 samples, 2,000
resamples, `benchmarks/paired_statistics.py --full --only intervals`; 5 is right, its sampling error 0.3); "skewed" is
15 % -1/3 and 5 % +1/3, and all have their mean taken off:

| differences    | percentile        | expanded (used)   | Student's t       | bootstrap-t      | sign flips         |
|----------------|-------------------|-------------------|-------------------|------------------|--------------------|
| normal         | 8.3 7.0 6.1 5.5   | 5.7 5.3 5.3 5.3   | 5.1 5.4 5.2 5.0   | 5.6 5.5 5.5 5.2  | 5.0 5.2 5.3 4.9    |
| Laplace        | 9.4 7.3 5.9 5.5   | 6.4 6.1 5.3 5.3   | 4.7 5.2 4.7 4.9   | 7.9 7.1 6.2 5.5  | 5.2 5.4 4.9 5.0    |
| t, df = 3      | 9.9 7.9 5.9 5.2   | 6.4 6.3 5.2 5.1   | 4.6 5.0 4.3 4.4   | 8.7 8.1 6.7 6.1  | 5.2 5.3 4.5 4.5    |
| 80 % 0, +-1/3  | 3.0 4.8 4.9 5.1   | 2.9 4.6 4.5 5.1   | 2.9 4.6 4.7 5.7   | 9.3 8.3 6.8 6.3  | 0.2 1.4 2.5 4.0    |
| 90 % 0, +-1/3  | 0.8 2.9 4.6 4.2   | 0.8 2.9 4.6 4.2   | 0.8 2.9 4.6 5.1   | 4.3 9.6 10.9 6.0 | 0.0 0.2 1.4 3.1    |
| 80 % 0, skewed | 10.7 8.0 5.9 5.9  | 8.2 6.3 5.3 5.8   | 8.1 5.7 5.5 5.6   | 8.3 6.5 5.6 6.0  | 8.1 5.7 4.5 5.3    |
| 70 % 0, -1/3   | 5.6 7.7 7.1 4.6   | 5.1 4.8 5.9 4.5   | 3.5 6.7 5.2 5.0   | 0.7 2.3 2.9 4.0  | 5.9 6.7 5.3 4.4    |
| exponential    | 10.2 8.4 6.9 5.2  | 7.8 6.9 6.2 5.1   | 8.5 7.6 6.2 5.3   | 5.3 5.1 5.3 5.0  | 8.3 7.5 6.0 5.2    |
| lognormal      | 16.6 12.7 9.5 6.5 | 13.8 11.5 8.6 6.1 | 14.8 12.0 9.7 6.6 | 9.1 8.2 6.9 5.4  | 14.5 12.3 10.0 6.6 |

The first five rows are what two arms without a difference can give: exchangeable arms differ symmetrically. The
bootstrap-t is better where differences are skewed, but fails where most are zero (many a resample has no spread), which
is how alignment differs. Below 8 clusters no percentile of the resamples is far enough out: read the seeds, not these.

Test. Under exchangeable arms the sign of each difference is a coin: p is the share of sign assignments whose mean is at
least as far from zero as the one observed (Fisher's randomisation test). Where differences are skewed about a mean of
zero (the last four rows) it calls as often as the interval misses: such arms are not exchangeable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.analysis.saddlepoint import LEAST, ROUNDING, sign_flip_tail
from results.analysis.statistics import KEPT, STRIP, expanded_tail, resample_counts

RESAMPLES = 10_000
_RARE = 0.1
_ENUMERATED = 20
FEWEST = 8  # clusters, below which a sign-flip test cannot come below p = 0.01


class Difference(NamedTuple):
    """Method less comparator: the mean of the paired differences and how sure it is.

    value: in the metric's unit, as are low, high, sd and detectable.
    low, high: bounds of the 95 % interval; None for a single cluster.
    p: two-sided, of "no difference"; None below 8 clusters.
    n, clusters: cases, and groups of cases that are independent of each other.
    sd: standard deviation of the differences, of the clusters' means where a cluster has several cases; None for one.
    detectable: the smallest true difference that is found 8 times in 10 at level 0.05, with no correction for several
        tests: `standard_errors(clusters)` sd / sqrt(clusters).
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    clusters: int
    sd: float | None
    detectable: float | None


def paired(
    method: ArrayLike,
    comparator: ArrayLike,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference between the values (n,) of two arms on the same cases, in the same order.

    clusters: a label for each case (n,), say the prompt's index where a prompt has several seeds; whole clusters are
    resampled and have their sign flipped. Raises ValueError as `paired_many` does.
    """
    return paired_many(np.asarray(method)[None], comparator, clusters, resamples, seed)[0]


def paired_many(
    methods: ArrayLike,
    comparator: ArrayLike,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """`paired` for P points at once: values (P, n) against one comparator (n,), or one for each point (P, n).

    All points share the resamples and the signs, which follow from the number of clusters and the seed alone. Raises
    ValueError where a value is NaN or infinite (which points are named), shapes differ, or there is no case.
    """
    differences = _differences(methods, comparator)  # (P, n)
    n = differences.shape[1]
    members = np.arange(n) if clusters is None else cluster_index(clusters, n)  # (n,)
    sizes = np.bincount(members).astype(float)  # (C,)
    sums = np.zeros((len(sizes), len(differences)))  # (C, P)
    np.add.at(sums, members, differences.T)
    sums = sums.T
    values = differences.mean(1)  # (P,)
    excess = sums - values[:, None] * sizes  # (P, C), sums to zero
    count = len(sizes)
    p = sign_flip(sums, resamples, seed).tolist() if count >= FEWEST else [None] * len(values)
    if count == 1:
        return tuple(Difference(float(v), None, None, None, n, 1, None, None) for v in values)
    sd = np.sqrt((excess**2).sum(1) / (count - 1)) * count / n  # (P,), of the means where clusters are of one size
    bounds = values + _bounds(excess, sizes, resamples, seed)  # (2, P)
    rounding = 1e-12 * np.abs(differences).max(1)  # by which no bound shall miss zero
    low, high = np.where(np.abs(bounds) > rounding, bounds, 0)
    detectable = standard_errors(count) * sd / np.sqrt(count)
    bounded = zip(values.tolist(), low.tolist(), high.tolist(), p, strict=True)
    spread = zip(sd.tolist(), detectable.tolist(), strict=True)
    return tuple(Difference(*one, n, count, *other) for one, other in zip(bounded, spread, strict=True))


def sign_flip(sums: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p (P,) of the differences' sums by cluster (P, C), whose signs are flipped at random.

    All 2^C assignments are enumerated where they are no more than `resamples`; else that many are drawn, and the
    observed one counts as one more. Where few of them come as far, draws say little, and nothing below 1 in their
    number, which a family of hundreds has to: those p are enumerated up to 20 clusters, and else those of
    `saddlepoint.sign_flip_tail`, so that draws decide between p on both sides of 0.1 alone.
    """
    observed = np.abs(sums.sum(1))  # (P,)
    reached = observed - ROUNDING * np.abs(sums).sum(1)  # equal sums differ in rounding
    exact = sums.shape[1] < 60 and 2 ** sums.shape[1] <= resamples
    as_far = np.zeros(len(sums), dtype=np.int64)
    for flipped in _every_sign(sums.shape[1]) if exact else _signs(sums.shape[1], resamples, seed):
        drawn = 2 * (sums @ flipped.T) - sums.sum(1)[:, None]  # (P, r)
        as_far += (np.abs(drawn) >= reached[:, None]).sum(1)
    if exact:
        return as_far / 2 ** sums.shape[1]
    p: NDArray[np.float64] = (1 + as_far) / (1 + resamples)
    for row in np.flatnonzero(p <= _RARE):
        p[row] = _rare(sums[row], float(reached[row]))
    return p


def _rare(sums: NDArray[np.float64], reached: float) -> float:
    sizes = np.abs(sums)
    signed = sums[sizes > ROUNDING * sizes.sum()]  # the others' signs change nothing
    if len(signed) > _ENUMERATED:
        return sign_flip_tail(signed)
    as_far = sum(int((np.abs(2 * (flipped @ signed) - signed.sum()) >= reached).sum()) for flipped in
                 _every_sign(len(signed)))  # fmt: skip
    return max(as_far / 2 ** len(signed), LEAST)


def standard_errors(n: int, level: float = 0.05) -> float:
    """How many standard errors a true difference has to be for a two-sided test at this level over n to find it 8 times
    in 10: Student's quantiles of 1 - level / 2 and of 0.8 with n - 1 degrees of freedom; at 0.05 it is 2.80 for large
    n and 3.00 at 16."""
    from scipy.special import stdtrit  # slow to import, and tables are drawn without

    return float(stdtrit(n - 1, 1 - level / 2) + stdtrit(n - 1, 0.8))


def cluster_index(labels: ArrayLike, n: int) -> NDArray[np.int64]:
    """The clusters of n cases as numbers from 0, by sorted label (n,). Raises ValueError for another shape."""
    found = np.asarray(labels)
    if found.shape != (n,):
        raise ValueError(f"clusters: one label per case is needed, {n} cases and shape {found.shape}")
    return np.unique(found, return_inverse=True)[1]


def _bounds(excess: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """The interval about the values, (2, P), from what clusters have in excess of the mean (P, C)."""
    strips = [excess @ w.T / (w @ sizes) for w in resample_counts(len(sizes), resamples, seed)]  # (P, r) each
    tail = expanded_tail(len(sizes))
    bounds: NDArray[np.float64] = np.quantile(np.concatenate(strips, axis=1), [tail, 1 - tail], axis=1)
    return bounds


def _differences(methods: ArrayLike, comparator: ArrayLike) -> NDArray[np.float64]:
    arms = {"method": np.asarray(methods, dtype=np.float64), "comparator": np.asarray(comparator, dtype=np.float64)}
    shape = arms["method"].shape
    if len(shape) != 2 or arms["comparator"].shape not in (shape, shape[1:]):
        raise ValueError(
            f"arms must hold the same cases, (P, n) against (n,) or (P, n), not {shape} and {arms['comparator'].shape}"
        )
    if shape[1] == 0:
        raise ValueError("no cases: nothing to compare")
    for name, values in arms.items():
        bad = ~np.isfinite(values)
        if bad.any():
            where = f" of points {np.flatnonzero(bad.any(1)).tolist()}" if bad.ndim == 2 and len(bad) > 1 else ""
            raise ValueError(f"{name}: {bad.sum()} values{where} NaN or infinite; leave those cases out of both arms")
    return arms["method"] - arms["comparator"]


def _every_sign(count: int) -> Iterator[NDArray[np.float64]]:
    rows = max(1, STRIP // count)
    for start in range(0, 2**count, rows):
        number = np.arange(start, min(start + rows, 2**count))
        yield ((number[:, None] >> np.arange(count)) & 1).astype(np.float64)


def _signs(count: int, resamples: int, seed: int) -> Iterable[NDArray[np.float64]]:
    """Which signs are positive: strips (r, C) of 0 and 1, `resamples` rows in all, read-only."""
    small = count * resamples <= KEPT
    return _kept_signs(count, resamples, seed) if small else _drawn_signs(count, resamples, seed)


@lru_cache(maxsize=2)
def _kept_signs(count: int, resamples: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(_drawn_signs(count, resamples, seed))


def _drawn_signs(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng([seed, 1])  # another stream than the resamples'
    rows = max(1, STRIP // count)
    for start in range(0, resamples, rows):
        signs = rng.integers(2, size=(min(rows, resamples - start), count), dtype=np.int8).astype(np.float64)
        signs.flags.writeable = False
        yield signs
