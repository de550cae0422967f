"""Frechet distance between features (Heusel et al., 2017): the value of clean-fid's function, by eigenvalues.

The trace of the square root of S1 S2 is the sum of the square roots of the eigenvalues of Z^T Z / (N - 1), where Z are
the centred features times the root of S2. Where N < D those of Z Z^T are fewer and the same, and no matrix of rank
below its size has a root taken, which costs scipy's general square root its accuracy and, at D = 2048, minutes.

Letters: N images, K of them drawn at least once, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Moments:
    """The Gaussian fitted to a reference set: mean (D,) and covariance (D, D)."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance (D, D)."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def moments(features: np.ndarray) -> Moments:
    """Of features (M, D); the covariance is divided by M - 1, as clean-fid does."""
    return Moments(features.mean(0), np.cov(features, rowvar=False))


def distance_to(reference: Moments, x: np.ndarray) -> Callable[[np.ndarray], float]:
    """The Frechet distance of features x (N, D) to a reference as a function of how often each image is taken (N,).

    What all resamples share is computed once.
    """
    shifted = x - reference.mean  # (N, D)
    turned = shifted @ reference.root  # (N, D)
    trace = float(np.trace(reference.covariance))
    return lambda counts: frechet(shifted, turned, trace, counts)


def frechet(x: np.ndarray, turned: np.ndarray, trace: float, counts: np.ndarray) -> float:
    """Of the images, each taken `counts` times (N,). x: features less the reference's mean; turned: those times the
    root of the reference's covariance, whose trace is given."""
    kept = counts > 0
    n, weights = counts.sum(), counts[kept][:, None]
    mean = (weights * x[kept]).sum(0) / n
    spread = float((weights * (x[kept] - mean) ** 2).sum() / (n - 1))
    z = np.sqrt(weights / (n - 1)) * (turned[kept] - (weights * turned[kept]).sum(0) / n)  # (K, D)
    values = np.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z)
    return float(mean @ mean + spread + trace - 2 * np.sqrt(values.clip(0)).sum())
