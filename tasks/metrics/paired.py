"""Distance to the dense model's image of the same case and seed: how much a method changes what is drawn."""

from __future__ import annotations

import numpy as np

from harness.metric import Column, Metric, Sample
from results.analysis.statistics import bootstrap
from results.record import Estimate
from tasks.metrics import features

_CEILING = 60.0  # dB, a root mean square error of a quarter of an 8-bit level: what identical images get


class Paired(Metric):
    """psnr_to_dense, and where the model has a judge the distance in its features."""

    name = "paired"
    about = "PSNR and feature distance to dense at the same seed"
    columns = (
        Column("psnr_to_dense", "dB", "higher", f"mean over images, on 8-bit RGB, at most {_CEILING:.0f} dB each"),
        Column("distance_to_dense[shapes-judge]", "feature distance", "lower", "mean over images, Euclidean"),
    )
    source = "ours"
    weights = "PSNR needs none; the shapes judge comes with the repository."
    remark = "Means over images, so N does not bias them. They tell how far from dense, not which is better."

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if dense is None:
            return {}
        error = ((sample.images.astype(float) - dense.images.astype(float)) / 255) ** 2
        mean = error.mean(axis=(1, 2, 3))
        psnr = np.minimum(-10 * np.log10(np.maximum(mean, 1e-12)), _CEILING)
        n = len(psnr)
        out = {
            "psnr_to_dense": Estimate(
                **bootstrap(psnr)._asdict(),
                n=n,
                unit="dB",
                convention=f"mean over images of PSNR on 8-bit RGB, at most {_CEILING:.0f} dB each",
                role="quality",
                better="higher",
            )
        }
        if features.has_judge(self.model):
            distance = np.linalg.norm(features.features(sample) - features.features(dense), axis=1)
            out[f"distance_to_dense[{features.EXTRACTOR}]"] = Estimate(
                **bootstrap(distance)._asdict(),
                n=n,
                unit="feature distance",
                convention=f"mean over images of the Euclidean distance in {features.EXTRACTOR} features",
                role="quality",
                better="lower",
            )
        return out
