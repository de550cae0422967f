"""Ranks of points that were measured on the same cases: which share the first place, and how sure each one's rank is.

Letters: P points, n cases, C clusters, R resamples.
"""

from __future__ import annotations

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
    values: ArrayLike, better: Better, clusters: Sequence[int] | ArrayLike | None = None, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """The share (P,) of resamples of the cases in which each point has the best mean, from values (P, n); ties share.

    Cases are drawn alike for all points; whole clusters where there are some. Raises ValueError for NaN or no case.
    """
    each = np.asarray(values, dtype=np.float64)  # (P, n)
    if each.ndim != 2 or not each.shape[1] or not np.isfinite(each).all():
        raise ValueError(f"finite values (P, n) are needed, not {each.shape}")
    members = np.arange(each.shape[1]) if clusters is None else cluster_index(clusters, each.shape[1])
    sums = np.zeros((members.max() + 1, len(each)))  # (C, P)
    np.add.at(sums, members, each.T)
    sizes = np.bincount(members)
    sign = -1 if better == "lower" else 1
    first = np.zeros(len(each))
    for counts in resample_counts(len(sums), resamples):
        means = sign * (counts @ sums) / (counts @ sizes)[:, None]  # (r, P)
        best = means >= means.max(1, keepdims=True) - 1e-12 * np.abs(means).max()
        first += (best / best.sum(1, keepdims=True)).sum(0)
    return first / resamples
