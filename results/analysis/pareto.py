"""Pareto fronts: the operating points that no other point beats on cost and quality at once.

Letters: P points, B bootstrap replicates. A lower cost is always better.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.record import Record

Better = Literal["higher", "lower"]


def front(costs: ArrayLike, qualities: ArrayLike, better: Better = "higher") -> NDArray[np.bool_]:
    """Mask (P,) of the points that no other one dominates; `costs` and `qualities` have the shape (P,).

    A point dominates another where it is no worse on both and better on one. Identical points do not dominate each
    other: both are on the front, or neither. Raises ValueError for NaN, unequal shapes or an unknown direction.
    """
    cost, quality = np.asarray(costs, dtype=float), np.asarray(qualities, dtype=float)  # (P,) each
    if cost.shape != quality.shape or cost.ndim != 1:
        raise ValueError(f"costs and qualities need one shape (P,), got {cost.shape} and {quality.shape}")
    if np.isnan(cost).any() or np.isnan(quality).any():
        raise ValueError("a point without a number has no place on a front: leave NaN out")
    loss = quality * _sign(better)  # (P,)
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)  # (P, P), row against column
    somewhere_better = (cost[:, None] < cost) | (loss[:, None] < loss)  # (P, P)
    dominated: NDArray[np.bool_] = np.any(no_worse & somewhere_better, axis=0)  # (P,)
    return np.logical_not(dominated)


def front_share(
    cost_replicates: ArrayLike, quality_replicates: ArrayLike, better: Better = "higher"
) -> NDArray[np.float64]:
    """The share (P,) of resamples in which each point is on the front, from replicates of the shape (P, B).

    Column b of both must come from the same resample of the cases. Without any replicate the share is NaN.
    Raises ValueError as `front` does.
    """
    cost, quality = np.asarray(cost_replicates, dtype=float), np.asarray(quality_replicates, dtype=float)  # (P, B)
    if cost.shape != quality.shape or cost.ndim != 2:
        raise ValueError(f"replicates need one shape (P, B), got {cost.shape} and {quality.shape}")
    if cost.shape[1] == 0:
        return np.full(cost.shape[0], np.nan)
    masks = np.array([front(c, q, better) for c, q in zip(cost.T, quality.T, strict=True)])  # (B, P)
    return np.asarray(masks.mean(axis=0), dtype=np.float64)


def comparable(records: Iterable[Record]) -> list[list[Record]]:
    """The records in groups that may share a front: equal in fingerprint, task, device, dtype, steps and cases, and in
    the model's name where the fingerprint holds no digest of its weights.

    Groups and their records come in the order of first appearance. Commit, library versions and the machine may differ
    within a group; latencies of several machines share no front, see `results.tables.table.Table`.
    """
    groups: dict[object, list[Record]] = {}
    for record in records:
        model = "" if record.fingerprint.get("weights") else record.model
        setting = (record.task, model, record.device.partition(":")[0], record.dtype, record.steps, record.n_cases)
        groups.setdefault((setting, frozenset(record.fingerprint.items())), []).append(record)
    return list(groups.values())


def _sign(better: Better) -> float:
    if better not in ("higher", "lower"):
        raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
    return -1.0 if better == "higher" else 1.0
