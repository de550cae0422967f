"""What only inpainting has: does the filled part meet the kept part, and does the masked object come out right?"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from harness.metric import Metric, Sample
from results.record import Estimate
from results.statistics import bootstrap

BAND = 2  # pixels inside the mask's border


class Seam(Metric):
    """seam_error[true] and seam_error[dense]: how far the pixels just inside the mask's border are off."""

    name = "seam"
    about = "error in a band inside the mask's border, to the true image and to dense; lower is better"

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if not all("mask" in case.data for case in sample.cases):
            return {}
        bands = [band(case.data["mask"]).numpy() for case in sample.cases]
        rows = [row for row, each in enumerate(bands) if each.any()]
        if not rows:
            return {}
        true = [(case.data["image"] * 255).round().permute(1, 2, 0).numpy() for case in sample.cases]
        against = {"true": true} | ({} if dense is None else {"dense": list(dense.images)})
        return {
            f"seam_error[{name}]": Estimate(
                **bootstrap([_error(sample.images[row], other[row], bands[row]) for row in rows])._asdict(),
                n=len(rows), unit="8-bit levels", role="quality", better="lower",
                convention=f"mean over images of the mean absolute RGB difference to the {name} image, in the {BAND} "
                "pixels inside the mask's border",
            )
            for name, other in against.items()
        }  # fmt: skip


def band(mask: Tensor) -> Tensor:
    """The masked pixels (H, W) that lie within BAND pixels of a kept one; the image's edge is no border."""
    kept = F.pad((~mask).float()[None, None], (BAND,) * 4)
    return mask & (F.max_pool2d(kept, 2 * BAND + 1, 1)[0, 0] > 0)


def _error(image: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(image[where].astype(float) - other[where].astype(float)).mean())
