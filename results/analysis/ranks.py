"""Ranks of points that were measured on the same cases: which share the first place, and how sure each one's rank is.

Letters: P points, S training seeds, n cases, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.analysis.paired import RESAMPLES, cluster_index
from results.analysis.pareto import Better
from results.analysis.statistics import resample_counts


class Ranked(NamedTuple):
    """low, high: the ranks that a point may have, 1 is best: one more than the points that are better than it, and the
    number of points less those that are worse. With p-values of all pairs adjusted together (Holm), all ranks lie in
    their intervals in at least 95 of 100 repetitions. Points with low = 1 share the first place."""

    low: int
    high: int


def rank_sets(wins: Mapping[tuple[int, int], bool], count: int) -> list[Ranked]:
    """wins: (a, b) -> whether a is better than b; pairs that cannot be told apart are absent or False."""
    better = np.zeros((count, count), dtype=bool)
    for pair, won in wins.items():
        better[pair] = won
    return [Ranked(1 + int(better[:, one].sum()), count - int(better[one].sum())) for one in range(count)]


def probability_best(
    values: Sequence[ArrayLike],
    better: Better,
    clusters: Sequence[int] | ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """The share (P,) of resamples in which each point has the best mean, from values of each, (n,), or (S, n) for a
    point of several training seeds; ties share.

    Cases are drawn alike for all points; whole clusters where there are some. So are training seeds where a point has
    several, alike for points of as many, since seeds are paired; for one seed nothing can be drawn, and the share is of
    images alone. Raises ValueError for NaN, no case, or points on different ones.
    """
    each = [np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in values]  # (S, n)
    n = each[0].shape[-1]
    if not n or any(one.ndim != 2 or one.shape[1] != n or not np.isfinite(one).all() for one in each):
        raise ValueError(f"finite values (n,) or (S, n) are needed, not {[one.shape for one in each]}")
    members = np.arange(n) if clusters is None else cluster_index(clusters, n)
    sizes = np.bincount(members)
    sums = [np.stack([np.bincount(members, row) for row in one], axis=1) for one in each]  # (C, S) for every point
    weights = {count: _seed_weights(count, resamples) for count in {len(one) for one in each}}  # (R, S)
    sign = -1 if better == "lower" else 1
    first, done = np.zeros(len(each)), 0
    for counts in resample_counts(len(sizes), resamples):
        rows = slice(done, done := done + len(counts))
        drawn = [((counts @ one) * weights[one.shape[1]][rows]).sum(1) for one in sums]  # (r,)
        means = sign * np.stack(drawn, axis=1) / (counts @ sizes)[:, None]  # (r, P)
        best = means >= means.max(1, keepdims=True) - 1e-12 * np.abs(means).max()
        first += (best / best.sum(1, keepdims=True)).sum(0)
    return first / resamples


def _seed_weights(count: int, resamples: int) -> NDArray[np.float64]:
    """What each training seed counts in each resample (R, S); rows sum to one. Deviations are widened by
    sqrt(S / (S - 1)), for a resample of so few varies much less than a sample does."""
    if count == 1:
        return np.ones((resamples, 1))
    drawn = np.concatenate(list(resample_counts(count, resamples, seed=count))) / count
    return 1 / count + math.sqrt(count / (count - 1)) * (drawn - 1 / count)
