"""Frechet distance between features (Heusel et al., 2017): the figure of clean-fid's function, by eigenvalues.

The trace of the square root of S1 S2 is the sum of the square roots of the eigenvalues of Z^T Z / (N - 1), where Z are
the centred features times the root of S2. Where N < D those of Z Z^T are fewer and the same, and no matrix of rank
below its size has a root taken, which costs scipy's general square root its accuracy and, at D = 2048, minutes.

Letters: N images, D feature width.
"""

from __future__ import annotations

import numpy as np

from harness.metric import Column
from results.analysis.statistics import centred_interval, resamples
from results.record import Estimate
from tasks.metrics.distances import WEIGHTS, SetDistance
from tasks.metrics.references import Reference

_LARGE = 512  # eigenvalues; beyond it a replicate takes seconds
_UNIT = "squared feature distance"


class FID(SetDistance):
    """Frechet distance between Gaussians fitted to the features of the images and of a reference set: held-out renders
    in the features of the shapes judge, a folder of the user's in those of Inception."""

    name = "fid"
    about = "Frechet distance to a reference set, in judge or Inception features; lower is better"
    columns = (
        Column("fid[shapes-judge]", _UNIT, "lower", "64 judge features, against 2048 held-out renders, no resizing"),
        Column("fid[inception]", _UNIT, "lower", "2048 Inception features, clean-fid's resizing to 299 x 299"),
    )
    source = "Heusel et al., 2017; extractor and resizing of clean-fid, Parmar et al., 2022"
    weights = WEIGHTS
    remark = (
        "Biased upwards at small N, the more so the wider the features: compare only at equal N, and take 10 000 "
        "images or more for figures to stand beside published ones. The interval resamples images 100 times, 40 times "
        "where both N and D are above 512, and is centred on the figure, since resampling itself is biased upwards."
    )

    def distance(self, x: np.ndarray, reference: Reference, extractor: str) -> Estimate:
        return estimate(x, reference, extractor)


def estimate(x: np.ndarray, reference: Reference, extractor: str) -> Estimate:
    """Between features x (N, D) and those of a reference set, by this extractor."""
    drawn = resamples(len(x), replicates=100 if min(x.shape) <= _LARGE else 40)
    every = np.arange(len(x))
    shifted = x - reference.mean  # (N, D)
    turned = shifted @ reference.root  # (N, D)
    trace = float(np.trace(reference.covariance))

    def distance(rows: np.ndarray) -> float:
        return _frechet(shifted, turned, trace, np.bincount(rows, minlength=len(x)))

    spread = centred_interval(distance(every), np.array([distance(rows) for rows in drawn]))
    return Estimate(
        **spread._asdict(), n=len(x), unit=_UNIT, role="quality", better="lower", set_distance=f"frechet {extractor}",
        convention=f"Frechet distance (as clean-fid's, by eigenvalues) on {extractor} features (D = {x.shape[1]}) "
        f"against {reference.what}; biased upwards at small N; {len(drawn)} resamples",
    )  # fmt: skip


def _frechet(x: np.ndarray, turned: np.ndarray, trace: float, counts: np.ndarray) -> float:
    """Of the images, each taken `counts` times (N,). x: features less the reference's mean; turned: those times the
    root of the reference's covariance, whose trace is given."""
    kept = counts > 0
    n, weights = counts.sum(), counts[kept][:, None]
    mean = (weights * x[kept]).sum(0) / n
    spread = float((weights * (x[kept] - mean) ** 2).sum() / (n - 1))
    z = np.sqrt(weights / (n - 1)) * (turned[kept] - (weights * turned[kept]).sum(0) / n)  # (K, D)
    values = np.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z)
    return float(mean @ mean + spread + trace - 2 * np.sqrt(values.clip(0)).sum())
