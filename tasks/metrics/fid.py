"""Frechet distance between features (FID; Heusel et al., 2017); computed in `results.analysis.frechet`.

Letters: N images, D feature width.
"""

from __future__ import annotations

import numpy as np

from harness.metric import Column
from results.analysis.frechet import distance_to
from results.analysis.statistics import centred_interval, drawn_cases
from results.record import Estimate
from tasks.metrics.distances import WEIGHTS, SetDistance
from tasks.metrics.references import Reference

_LARGE = 512  # eigenvalues; beyond it a replicate takes seconds
_UNIT = "squared feature distance"


class FID(SetDistance):
    """Frechet distance between Gaussians fitted to the features of the images and of a reference set: held-out renders
    in the features of the shapes judge, held-out pictures of `emoji` in those of EfficientNet-Lite0, a folder of the
    user's in those of Inception or EfficientNet-Lite0."""

    name = "fid"
    version = 2
    about = "Frechet distance to a reference set, in judge, Inception or EfficientNet features; lower is better"
    columns = (
        Column("fid[shapes-judge]", _UNIT, "lower", "64 judge features, against 2048 held-out renders, no resizing"),
        Column("fid[inception]", _UNIT, "lower", "2048 Inception features, clean-fid's resizing to 299 x 299"),
        Column("fid[efficientnet-lite0]", _UNIT, "lower", "1280 EfficientNet-Lite0 features, bicubic to 224 x 224"),
    )
    source = "Heusel et al., 2017; extractor and resizing of clean-fid, Parmar et al., 2022"
    weights = WEIGHTS
    remark = (
        "Biased upwards at small N, the more so the wider the features: compare only at equal N, and take 10 000 "
        "images or more for figures to stand beside published ones. The interval resamples images 100 times, 40 times "
        "where both N and D are above 512, and is centred on the figure, since resampling itself is biased upwards."
    )

    def distance(
        self, x: np.ndarray, reference: Reference, extractor: str, clusters: np.ndarray | None = None
    ) -> Estimate:
        return estimate(x, reference, extractor, clusters)


def estimate(x: np.ndarray, reference: Reference, extractor: str, clusters: np.ndarray | None = None) -> Estimate:
    """Between features x (N, D) and those of a reference set, by this extractor. clusters: (N,), see `Sample`."""
    drawn = drawn_cases(len(x), 100 if min(x.shape) <= _LARGE else 40, clusters)
    distance = distance_to(reference, x)
    replicates = [distance(np.bincount(rows, minlength=len(x))) for rows in drawn]
    spread = centred_interval(distance(np.ones(len(x), dtype=np.int64)), replicates)
    return Estimate(
        **spread._asdict(), n=len(x), unit=_UNIT, role="quality", better="lower", set_distance=f"frechet {extractor}",
        convention=f"Frechet distance (as clean-fid's, by eigenvalues) on {extractor} features (D = {x.shape[1]}) "
        f"against {reference.what}; biased upwards at small N; {len(drawn)} resamples",
    )  # fmt: skip
