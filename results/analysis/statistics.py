"""Bootstrap intervals (Efron & Tibshirani 1993, chapters 13 and 23); numpy only.

Letters: n cases, R replicates. All randomness comes from private generators: the global state is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

REPLICATES = 200
LEVEL = (2.5, 97.5)  # percentiles that bound a 95 % interval
BLOCKS = 6  # of a latency measurement: the fewest of which an interval needs no distribution
STRIP = 1_000_000  # draws of a case in memory at once
KEPT = 5 * STRIP  # draws that are kept for the next comparison of as many cases; a verdict makes hundreds


class Bootstrapped(NamedTuple):
    """A point estimate, the bounds of its 95 % interval (None for a single case), and the replicates behind them."""

    value: float
    low: float | None
    high: float | None
    replicates: tuple[float, ...]


def resamples(n: int, replicates: int = REPLICATES, seed: int = 0) -> NDArray[np.int64]:
    """Bootstrap indices below n, of shape (replicates, n).

    The same n and seed give the same indices, so that all points of a sweep resample the same cases together and
    their replicates are paired; fewer replicates are the first rows of more. Raises ValueError for n < 1.
    """
    if n < 1 or replicates < 1:
        raise ValueError(f"a bootstrap needs at least one case and one replicate, got {n} and {replicates}")
    return np.random.default_rng(seed).integers(n, size=(replicates, n))  # (R, n)


def drawn_cases(
    n: int, replicates: int = REPLICATES, clusters: NDArray[np.int64] | None = None, seed: int = 0
) -> list[NDArray[np.int64]]:
    """The cases of each resample, as `resamples(n)` has them; where cases belong together, by their labels (n,), whole
    clusters are drawn, so that resamples may differ in size."""
    if clusters is None:
        return list(resamples(n, replicates, seed))
    members = np.unique(clusters, return_inverse=True)[1]
    cases = [np.flatnonzero(members == one) for one in range(members.max() + 1)]
    return [np.concatenate([cases[one] for one in rows]) for rows in resamples(len(cases), replicates, seed)]


def resample_counts(n: int, replicates: int, seed: int = 0) -> Iterable[NDArray[np.float64]]:
    """How often each case is drawn in each of `resamples(n, replicates, seed)`, in strips of rows, (r, n) each, which
    are read-only.

    Weighted sums over the cases are then matrix products, and memory does not grow with the number of replicates.
    Raises ValueError as `resamples` does.
    """
    if n < 1 or replicates < 1:
        raise ValueError(f"a bootstrap needs at least one case and one replicate, got {n} and {replicates}")
    return _kept_counts(n, replicates, seed) if n * replicates <= KEPT else _counts(n, replicates, seed)


@lru_cache(maxsize=2)
def _kept_counts(n: int, replicates: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(_counts(n, replicates, seed))


def _counts(n: int, replicates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    rng, rows = np.random.default_rng(seed), max(1, STRIP // n)
    for start in range(0, replicates, rows):
        drawn = rng.integers(n, size=(min(rows, replicates - start), n))  # (r, n)
        drawn += n * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        counts.flags.writeable = False
        yield counts


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Bootstrapped:
    """`statistic` of `values` (n,) with its 95 % percentile interval over resampled cases.

    A single case has no interval. Raises ValueError where a value or a replicate is NaN or infinite.
    """
    sample = _finite(values, "values")  # (n,)
    if sample.size == 0:
        raise ValueError("no values")
    value = float(_finite(statistic(sample), "the statistic"))
    if len(sample) == 1:
        return Bootstrapped(value, None, None, ())
    drawn = [statistic(sample[index]) for index in resamples(len(sample), replicates, seed)]
    low, high = percentile_interval(drawn)
    return Bootstrapped(value, low, high, tuple(map(float, drawn)))


def mean_interval(
    values: ArrayLike, replicates: int = REPLICATES, seed: int = 0, *, share: bool = False
) -> Bootstrapped:
    """The mean of `values` (n,) with a 95 % interval that holds for few of them, too: the bootstrap's percentiles at
    `expanded_tail`, and of a share, whose values are all 0 or 1, Wilson's interval, which has a width where all are
    alike (Brown, Cai & DasGupta 2001). The replicates are the bootstrap's. Raises ValueError as `bootstrap`."""
    found = bootstrap(values, np.mean, replicates, seed)
    sample = np.asarray(values, dtype=np.float64)
    if (n := len(sample)) < 2:
        return found
    if share and np.isin(sample, (0, 1)).all():
        z2, rate = 1.959964**2, found.value
        centre, half = rate + z2 / (2 * n), np.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * n)) / n)
        low, high = np.clip(np.array([centre - half, centre + half]) / (1 + z2 / n), 0, 1)
    else:
        tail = expanded_tail(n)
        low, high = np.quantile(found.replicates, [tail, 1 - tail])
    return found._replace(low=float(low), high=float(high))


def expanded_tail(n: int) -> float:
    """The tail that is cut off on either side for a 95 % percentile interval of a mean of n: 0.025 for large n.
    Hesterberg, 2015."""
    from scipy.special import ndtr, stdtrit  # slow to import, and tables are drawn without

    return float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025)))


def centred_interval(value: float, replicates: ArrayLike) -> Bootstrapped:
    """The 95 % percentile interval of replicates (R,) that were shifted so that their mean equals `value`.

    For statistics that resampling biases. A resample holds each case about 1/e of the time not at all and otherwise
    often twice or more; KID counts a pair of duplicates as two distinct but identical images, and FID sees a set of
    lower rank. Both therefore come out too high on every resample, and the plain percentile interval may even lie
    above the point estimate. The spread of the replicates is still right; only their place is not.
    Fewer than two replicates give no interval. Raises ValueError where anything is NaN or infinite.
    """
    centre = float(_finite(value, "the value"))
    drawn = _finite(replicates, "replicates")  # (R,)
    if drawn.size < 2:
        return Bootstrapped(centre, None, None, ())
    shifted = drawn - drawn.mean() + centre  # (R,)
    low, high = percentile_interval(shifted)
    return Bootstrapped(centre, low, high, tuple(shifted.tolist()))


def block_size(pairs: int) -> int:
    """How many pairs each of the `BLOCKS` blocks of a latency measurement holds, at most."""
    return -(-pairs // BLOCKS)


def paired_ratio(
    a: ArrayLike, b: ArrayLike, replicates: int = REPLICATES, seed: int = 0, *, block: int = 1
) -> Bootstrapped:
    """The median over blocks of the ratios a_i / b_i, with its 95 % interval; `a` and `b` have the shape (n,), and each
    block holds `block` pairs in a row, whose median stands for it.

    For latencies measured in turn (A B A B ...): a slow drift of the machine hits both of a pair and cancels. What
    stays for as long as a block does not, so that blocks are the unit: from six of them on the interval runs between
    two of their order statistics, which needs no distribution (Conover 1999, Sec. 3.2: the smallest and the largest of
    six hold the median 97 times in 100); below that it is Student's on the logarithms. The replicates resample blocks.
    Raises ValueError where the lengths differ, a value is NaN or infinite, or some b_i is not positive.
    """
    above, below = _finite(a, "a"), _finite(b, "b")
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"pairs need two sequences of one length, got shapes {above.shape} and {below.shape}")
    if (below <= 0).any():
        raise ValueError("b must be positive: it is divided by")
    each = _by_block(above / below, block)
    found = bootstrap(each, np.median, replicates, seed)
    if len(each) == 1:
        return found
    low, high = _between_order_statistics(each) or _students(each)
    return found._replace(low=low, high=high)


def _between_order_statistics(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The narrowest symmetric pair of order statistics that hold the median at least 95 times in 100; None for fewer
    than six values."""
    count, outside, rank = len(values), 0, 0  # outside: in how many of 2 ** count signs the median lies below rank
    while 2 * (outside + comb(count, rank)) <= 0.05 * 2**count:
        outside += comb(count, rank)
        rank += 1
    ordered = np.sort(values)
    return (float(ordered[rank - 1]), float(ordered[-rank])) if rank else None


def _students(ratios: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.special import stdtrit  # slow to import

    logs = np.log(ratios)
    half = -float(stdtrit(len(logs) - 1, 0.025)) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def block_medians(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """The ratios a_i / b_i of a latency measurement by its blocks, whose medians stand for them: what is independent of
    each other there, as `paired_ratio` has it."""
    ratios = np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64)
    return _by_block(ratios, block_size(len(ratios)))


def _by_block(ratios: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    return np.array([np.median(ratios[start : start + block]) for start in range(0, len(ratios), block)])


def percentile_interval(replicates: ArrayLike) -> tuple[float, float]:
    """The bounds between which 95 % of the replicates (R,) lie. Raises ValueError where one is NaN or infinite."""
    low, high = np.percentile(_finite(replicates, "replicates"), LEVEL)
    return float(low), float(high)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite, of which no interval can be drawn")
    return array
