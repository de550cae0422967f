"""Kernel distance between features (KID; Binkowski et al., 2018), by clean-fid's own function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from harness.metric import Column
from results.analysis.statistics import centred_interval, drawn_cases
from results.record import Estimate
from tasks.metrics.distances import WEIGHTS, SetDistance
from tasks.metrics.references import Reference


class KID(SetDistance):
    """Squared maximum mean discrepancy, with a cubic kernel, between the features of the images and of a reference set;
    in the same feature spaces as `fid`."""

    name = "kid"
    version = 2
    about = (
        "squared MMD (cubic kernel) to a reference set, in judge, Inception or EfficientNet features; lower is better"
    )
    columns = (
        Column("kid[shapes-judge]", "squared MMD", "lower", "as fid[shapes-judge]; not multiplied by 1000"),
        Column("kid[inception]", "squared MMD", "lower", "as fid[inception]; not multiplied by 1000"),
        Column("kid[efficientnet-lite0]", "squared MMD", "lower", "as its fid; not multiplied by 1000"),
    )
    source = "Binkowski et al., 2018; extractor, resizing and kernel distance of clean-fid, Parmar et al., 2022"
    weights = WEIGHTS
    remark = (
        "Unbiased: it may fall below zero, and figures of different N compare. A statistics file must hold the "
        "features themselves (clean-fid's NAME_kid.npz, also found beside NAME.npz)."
    )
    needs_features = True

    def distance(
        self, x: np.ndarray, reference: Reference, extractor: str, clusters: np.ndarray | None = None
    ) -> Estimate:
        return estimate(x, reference, extractor, clusters)


def estimate(x: np.ndarray, reference: Reference, extractor: str, clusters: np.ndarray | None = None) -> Estimate:
    """Between features x (N, D) and those of a reference set, by this extractor. clusters: (N,), see `Sample`."""
    y = reference.features
    assert y is not None  # `needs_features`
    value = _distance(x, y, subsets=200)
    replicates = np.array([_distance(x[rows], y, subsets=10) for rows in drawn_cases(len(x), 100, clusters)])
    return Estimate(
        **centred_interval(value, replicates)._asdict(), n=len(x), unit="squared MMD", role="quality", better="lower",
        set_distance=f"kernel {extractor}",
        convention=f"clean-fid kernel_distance on {extractor} features (D = {x.shape[1]}), 200 subsets of at most "
        f"1000, against {reference.what}; unbiased",
    )  # fmt: skip


def _distance(x: np.ndarray, y: np.ndarray, subsets: int) -> float:
    from cleanfid import fid  # slow to import

    with _seeded():
        return float(fid.kernel_distance(x, y, num_subsets=subsets))


@contextmanager
def _seeded() -> Iterator[None]:
    """clean-fid draws its subsets from numpy's global generator: give it a fixed one and put the old one back."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
