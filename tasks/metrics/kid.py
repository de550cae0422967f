"""Kernel distance between features (KID; Binkowski et al., 2018), by clean-fid's own function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from harness.metric import Metric, Sample
from harness.models import Model
from results.record import Estimate
from results.statistics import centred_interval, resamples
from tasks.metrics import features


class KID(Metric):
    """kid[shapes-judge]: unbiased, so it may fall below zero and compares across N."""

    name = "kid"
    about = "squared MMD (cubic kernel) to held-out renders, in judge features; lower is better"

    @classmethod
    def applies(cls, model: Model) -> bool:
        return features.has_judge(model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        return {
            f"kid[{features.EXTRACTOR}]": estimate(features.features(sample), features.reference(), "held-out renders")
        }

    def fingerprint(self) -> dict[str, str]:
        return features.fingerprint()


def estimate(x: np.ndarray, y: np.ndarray, what: str) -> Estimate:
    """Between features x (N, D) and those of a reference set y (M, D); what: the reference set in words."""
    value = _distance(x, y, subsets=200)
    replicates = np.array([_distance(x[rows], y, subsets=10) for rows in resamples(len(x), replicates=100)])
    return Estimate(
        **centred_interval(value, replicates)._asdict(), n=len(x), unit="squared MMD", role="quality", better="lower",
        convention=f"clean-fid kernel_distance on {features.EXTRACTOR} features (D = {x.shape[1]}), 200 subsets of at "
        f"most 1000, against {len(y)} {what}; unbiased",
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
