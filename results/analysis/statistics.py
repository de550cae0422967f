"""Bootstrap intervals (Efron & Tibshirani 1993, chapters 13 and 23); numpy only.

Letters: n cases, R replicates. All randomness comes from private generators: the global state is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

REPLICATES = 200
LEVEL = (2.5, 97.5)  # percentiles that bound a 95 % interval
_STRIP = 1_000_000  # draws of a case in memory at once


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


def resample_counts(n: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """How often each case is drawn in each of `resamples(n, replicates, seed)`, in strips of rows, (r, n) each.

    Weighted sums over the cases are then matrix products, and memory does not grow with the number of replicates.
    Raises ValueError as `resamples` does.
    """
    if n < 1 or replicates < 1:
        raise ValueError(f"a bootstrap needs at least one case and one replicate, got {n} and {replicates}")
    rng, rows = np.random.default_rng(seed), max(1, _STRIP // n)
    for start in range(0, replicates, rows):
        drawn = rng.integers(n, size=(min(rows, replicates - start), n))  # (r, n)
        drawn += n * np.arange(len(drawn))[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


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


def paired_ratio(a: ArrayLike, b: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> Bootstrapped:
    """The median of the ratios a_i / b_i, with its 95 % bootstrap interval; `a` and `b` have the shape (n,).

    For latencies measured in turn (A B A B ...): a slow drift of the machine hits both of a pair and cancels.
    Raises ValueError where the lengths differ, a value is NaN or infinite, or some b_i is not positive.
    """
    above, below = _finite(a, "a"), _finite(b, "b")
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"pairs need two sequences of one length, got shapes {above.shape} and {below.shape}")
    if (below <= 0).any():
        raise ValueError("b must be positive: it is divided by")
    return bootstrap(above / below, np.median, replicates, seed)


def percentile_interval(replicates: ArrayLike) -> tuple[float, float]:
    """The bounds between which 95 % of the replicates (R,) lie. Raises ValueError where one is NaN or infinite."""
    low, high = np.percentile(_finite(replicates, "replicates"), LEVEL)
    return float(low), float(high)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite, of which no interval can be drawn")
    return array
