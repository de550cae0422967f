"""Frechet distance between features (Heusel et al., 2017), by clean-fid's own function."""

from __future__ import annotations

import warnings

import numpy as np

from harness.metric import Metric, Sample
from harness.models import Model
from results.record import Estimate
from results.statistics import centred_interval, resamples
from tasks.metrics import features


class FID(Metric):
    """fid[shapes-judge]: biased at small samples, so compare only at equal N."""

    name = "fid"
    about = "Frechet distance to held-out renders, in judge features; lower is better"

    @classmethod
    def applies(cls, model: Model) -> bool:
        return features.has_judge(model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        return {
            f"fid[{features.EXTRACTOR}]": estimate(features.features(sample), features.reference(), "held-out renders")
        }

    def fingerprint(self) -> dict[str, str]:
        return features.fingerprint()


def estimate(x: np.ndarray, y: np.ndarray, what: str) -> Estimate:
    """Between features x (N, D) and those of a reference set y (M, D); what: the reference set in words."""
    from cleanfid import fid  # slow to import

    mean, covariance = y.mean(0), np.cov(y, rowvar=False)

    def distance(rows: np.ndarray) -> float:
        with warnings.catch_warnings():
            # fewer images than features: the covariance is singular, and clean-fid deals with that
            warnings.simplefilter("ignore")
            return float(fid.frechet_distance(rows.mean(0), np.cov(rows, rowvar=False), mean, covariance))

    value = distance(x)
    spread = centred_interval(value, np.array([distance(x[rows]) for rows in resamples(len(x), replicates=100)]))
    return Estimate(
        **spread._asdict(), n=len(x), unit="squared feature distance", role="quality", better="lower",
        convention=f"clean-fid frechet_distance on {features.EXTRACTOR} features (D = {x.shape[1]}) against {len(y)} "
        f"{what}; biased upwards at small N",
    )  # fmt: skip
