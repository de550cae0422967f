"""Paired differences of distances between sets of features: FID and KID of two arms, resampled together.

Both arms made the same cases, so a resample draws cases, and the images of both arms with them: what the cases share
cancels. The reference set stays as it is. Distances depend on pairs of images, which bootstrapping must respect:

Interval. A resample holds many cases twice. FID sees a set of lower rank and comes out higher, which
`statistics.centred_interval` explains; the replicates are therefore centred on the point difference, and bounded at
the percentiles of `statistics.expanded_tail`. KID here leaves out the pair of a case with its own copy, as it leaves
out the pair of an image with itself: k(x, x) - k(y, y) is large beside a difference of KID, and would enter each
replicate as often as it happens to draw copies.

Test. Such replicates spread too widely for a test: with counts w they are a linear part, sum_i (w_i - 1) l_i, where l
is the derivative of the difference by each case's weight, and a rest from pairs of cases. Where the difference rests on
pairs alone (equal arms, as close to the reference as a fresh sample would be) they have three times the true variance:
once the rest, and twice the linear part, whose l is then noise from the pairs. Twice the linear variance less the whole
is the true one there, and also where the linear part is all (Hoeffding's decomposition; for FID, which is no
U-statistic, roughly). So the centred replicates are shrunk to that variance, at most to a third of their own, and p is
the share of them, times sqrt(n / (n - 1)), that lie as far from zero as the point difference, itself counted in. sd and
detectable rest on the same standard error. The interval keeps the whole spread: the shrunk one would do for equal arms,
but misses too often where arms differ. So zero may lie just inside the interval and p be small: then the arms differ,
and by how much is open.

`benchmarks/paired_statistics.py --full --only distances` measures what both keep.

Letters: n cases, C clusters, M reference images, D feature width, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.analysis.frechet import Moments, distance_to, influence, moments
from results.analysis.paired import FEWEST, Difference, cluster_index, standard_errors
from results.analysis.statistics import expanded_tail, resample_counts

RESAMPLES = 1000

Array = NDArray[np.float64]


def fid_difference(
    x: ArrayLike,
    y: ArrayLike,
    reference: ArrayLike | Moments,
    clusters: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """FID of x less FID of y, features (n, D) of the same cases in the same order, to reference features (M, D), or to
    their moments. clusters: a label for each case (n,); cases of one are drawn together.

    sd and detectable are those of a mean over as many cases as there are clusters, with the same standard error. Raises
    ValueError for NaN or infinite features, unequal shapes, or fewer than two cases.
    """
    ours, theirs = _arms(x, y)
    target = reference if isinstance(reference, Moments) else moments(_features(reference, "reference"))
    if target.mean.shape != ours.shape[1:]:
        raise ValueError(f"features of width {ours.shape[1]} against a reference of width {target.mean.size}")
    a, b = distance_to(target, ours), distance_to(target, theirs)
    linear = influence(target, ours) - influence(target, theirs)  # (n,)
    return _difference(lambda counts: np.array([a(w) - b(w) for w in counts]), linear, clusters, resamples, seed)


def kid_difference(
    x: ArrayLike,
    y: ArrayLike,
    reference: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """KID of x less KID of y, features (n, D) of the same cases in the same order, to reference features (M, D).

    Squared MMD with the cubic kernel (a b / D + 1)^3, unbiased, on all images at once: what clean-fid's average over
    subsets estimates. The reference's pairs with itself cancel. Memory: three matrices (n, n) and one (n, M). Returns
    and raises as `fid_difference` does.
    """
    ours, theirs = _arms(x, y)
    target = _features(reference, "reference")
    if target.shape[1] != ours.shape[1]:
        raise ValueError(f"features of width {ours.shape[1]} against a reference of width {target.shape[1]}")
    n = len(ours)
    within = _cubic(ours, ours) - _cubic(theirs, theirs)  # (n, n)
    np.fill_diagonal(within, 0)
    across = _cubic(ours, target).mean(1) - _cubic(theirs, target).mean(1)  # (n,)

    def statistic(counts: Array) -> Array:
        drawn = counts.sum(1)  # (r,)
        pairs = drawn**2 - (counts**2).sum(1)  # of two different cases
        with np.errstate(invalid="ignore"):  # none where one case is all that was drawn, which a few cases can be
            return ((counts @ within) * counts).sum(1) / pairs - 2 * (counts @ across) / drawn

    linear = 2 / n * (within.sum(1) / (n - 1) - across)  # (n,)
    return _difference(statistic, linear, clusters, resamples, seed)


def _difference(
    statistic: Callable[[Array], Array], linear: Array, clusters: ArrayLike | None, resamples: int, seed: int
) -> Difference:
    """From a statistic of counts (r, n) -> (r,) and its derivative by each count at one each (n,), up to a constant."""
    n = len(linear)
    value = float(statistic(np.ones((1, n)))[0])
    members = np.arange(n) if clusters is None else cluster_index(clusters, n)  # (n,)
    of_cluster = np.bincount(members, linear - linear.mean())  # (C,)
    count = len(of_cluster)
    if count == 1:
        return Difference(value, None, None, None, n, 1, None, None)
    drawn = np.concatenate([statistic(times[:, members]) for times in resample_counts(count, resamples, seed)])  # (R,)
    drawn = drawn[np.isfinite(drawn)]
    around = drawn - drawn.mean()  # (R,)
    tail = expanded_tail(count)
    alike = count < 3 and np.ptp(drawn) <= 1e-9 * abs(value)  # of two cases but one pair is left
    low, high = (None if alike else value + float(np.quantile(around, cut)) for cut in (tail, 1 - tail))
    factor = _shrinkage(drawn.var(), (of_cluster**2).sum()) * (count / (count - 1)) ** 0.5
    reached = abs(value) * (1 - 1e-9)
    p = float((1 + (np.abs(around) * factor >= reached).sum()) / (1 + resamples)) if count >= FEWEST else None
    error = float(drawn.std()) * factor
    return Difference(value, low, high, p, n, count, error * count**0.5, standard_errors(count) * error)


def _shrinkage(whole: float, linear: float) -> float:
    """The factor on replicates with the variance `whole`, whose linear part alone has `linear`."""
    return float(np.sqrt(np.clip(2 * linear / whole - 1, 1 / 3, 1))) if whole > 0 else 1.0


def _cubic(a: Array, b: Array) -> Array:
    """Kernel matrix (A, B) of features (A, D) and (B, D). A product of three: powers are slow in numpy."""
    inner: Array = a @ b.T / a.shape[1] + 1
    return inner * inner * inner


def _arms(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    ours, theirs = _features(x, "x"), _features(y, "y")
    if ours.shape != theirs.shape:
        raise ValueError(f"both arms need features of the same cases, not {ours.shape} and {theirs.shape}")
    return ours, theirs


def _features(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{name}: features (n, D) of two images at least are needed, not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {(~np.isfinite(array)).sum()} features are NaN or infinite")
    return array
