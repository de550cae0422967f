"""Distance to the dense model's image of the same case and seed: how much a method changes what is drawn."""

from __future__ import annotations

import numpy as np

from harness.metric import Column, Metric, Sample, per_image
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
    remark = (
        "Means over images, so N does not bias them. They tell how far from dense, not which is better. They are of "
        "whole images: where a mask covers a share of it, the rest is alike and adds 10 log10(1 / share) dB, so that "
        "mask areas do not compare."
    )

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if dense is None:
            return {}
        pairs = zip(sample.images, dense.images, strict=True)  # one at a time: all as floats may not fit into memory
        mean = np.array([(((a.astype(float) - b.astype(float)) / 255) ** 2).mean() for a, b in pairs])
        psnr = np.minimum(-10 * np.log10(np.maximum(mean, 1e-12)), _CEILING)
        about = f"mean over images of PSNR on 8-bit RGB, at most {_CEILING:.0f} dB each"
        out = {"psnr_to_dense": per_image(psnr, unit="dB", better="higher", convention=about)}
        if features.has_judge(self.model):
            distance = np.linalg.norm(features.features(sample) - features.features(dense), axis=1)
            about = f"mean over images of the Euclidean distance in {features.EXTRACTOR} features"
            out[f"distance_to_dense[{features.EXTRACTOR}]"] = per_image(
                distance, unit="feature distance", better="lower", convention=about
            )
        return out
