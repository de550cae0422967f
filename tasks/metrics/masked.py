"""What only inpainting has: does the filled part meet the kept part, and does the masked object come out right?"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.metric import Column, Metric, Sample, images_to_uint8, per_image
from harness.models import Model
from harness.models.inpainting.regions import MARGIN, square
from harness.zoo.shapes import scene
from results.record import Estimate
from tasks import inpainting_cases
from tasks.metrics import features, fid, kid
from tasks.metrics.references import Reference

BAND = 2  # pixels inside the mask's border


class Seam(Metric):
    """seam_error[true] and seam_error[dense]: how far the pixels just inside the mask's border are off."""

    name = "seam"
    about = "error in a band inside the mask's border, to the true image and to dense; lower is better"
    columns = (
        Column("seam_error[true]", "8-bit levels", "lower", f"mean absolute RGB difference in {BAND} pixels"),
        Column("seam_error[dense]", "8-bit levels", "lower", f"the same to dense's image, in {BAND} pixels"),
    )
    source = "ours"
    weights = "None."
    remark = "Means over images with a masked border, so N does not bias them."

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if not all("mask" in case.data for case in sample.cases):
            return {}
        bands = [band(case.data["mask"]).numpy() for case in sample.cases]
        if not any(each.any() for each in bands):
            return {}
        true = [(case.data["image"] * 255).round().permute(1, 2, 0).numpy() for case in sample.cases]
        against = {"true": true} | ({} if dense is None else {"dense": list(dense.images)})
        return {
            f"seam_error[{name}]": per_image(
                [_error(*one) for one in zip(sample.images, other, bands, strict=True)], unit="8-bit levels",
                better="lower",
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
    """NaN for a mask without a border."""
    if not where.any():
        return float("nan")
    return float(np.abs(image[where].astype(float) - other[where].astype(float)).mean())


class MaskedAlignment(Metric):
    """alignment_masked: does the object under the mask come out as the caption says?"""

    name = "masked-alignment"
    about = "share of caption attributes that the judge finds in the masked object; higher is better"
    columns = (Column("alignment_masked", "share", "higher", "mean over presence and the attributes"),)
    source = "ours"
    weights = "The shapes judge comes with the repository."
    remark = "A mean over images, so N does not bias it. Only for the model's own scenes."

    @classmethod
    def applies(cls, model: Model) -> bool:
        return features.has_judge(model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if not all("quadrant" in case.data for case in sample.cases):
            return {}
        scenes = features.scenes(sample.cases)
        quadrant = torch.tensor([case.data["quadrant"] for case in sample.cases])
        right = _right(features.logits(sample), scenes, quadrant)  # (N, attributes)
        return {
            "alignment_masked": per_image(
                right.mean(1), unit="share", better="higher",
                convention=f"mean over presence, {', '.join(scene.ATTRIBUTES)} of the masked object, read off by "
                f"{features.EXTRACTOR}; resampled by image",
            )
        }  # fmt: skip


class Square(Metric):
    """fid_square[...] and kid_square[...]: on the square around the mask alone, resized to the judge's size."""

    name = "square"
    version = 2
    about = "FID and KID on the square around the mask, in judge features; lower is better"
    columns = (
        Column("fid_square[shapes-judge]", "squared feature distance", "lower", "as fid, resized to the judge's size"),
        Column("kid_square[shapes-judge]", "squared MMD", "lower", "as kid, resized to the judge's size"),
    )
    source = "ours, from Heusel et al., 2017, and Binkowski et al., 2018"
    weights = "The shapes judge comes with the repository."
    remark = "As for `fid` and `kid`: the first is biased upwards at small N, the second is not."

    @classmethod
    def applies(cls, model: Model) -> bool:
        return features.has_judge(model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if not all("quadrant" in case.data for case in sample.cases):
            return {}
        masks = torch.stack([case.data["mask"] for case in sample.cases])
        x = features.read(cut(sample.images, masks))[1]
        y = _squares(round(float(masks.float().mean()), 2))
        extractor = f"square {features.EXTRACTOR}"
        sample.features[extractor], sample.references[extractor] = x, y
        reference = Reference.of(y, "squares around masks of held-out renders, resized")
        found = {}
        for name, kind, one in (("fid", "frechet", fid), ("kid", "kernel", kid)):
            estimate = one.estimate(x, reference, features.EXTRACTOR, sample.clusters)
            kept = {"set_distance": f"{kind} {extractor}"}  # what is kept is of the squares
            found[f"{name}_square[{features.EXTRACTOR}]"] = estimate.model_copy(update=kept)
        return found


@cache
def _squares(area: float) -> np.ndarray:
    """Features of the squares around masks of this area, in the reference renders."""
    cases = inpainting_cases.from_scenes("reference", range(features.REFERENCES), area)
    images = images_to_uint8(torch.stack([case.data["image"] for case in cases]))
    return features.read(cut(images, torch.stack([case.data["mask"] for case in cases])))[1]


def cut(images: np.ndarray, masks: Tensor) -> np.ndarray:
    """The squares around masks (N, S, S), resized to S: (N, S, S, 3) uint8."""
    out = []
    for image, mask in zip(torch.tensor(images).permute(0, 3, 1, 2), masks, strict=True):
        part = square(mask, MARGIN, 1).of(image)[None].float()
        resized = F.interpolate(part, mask.shape, mode="bilinear", antialias=True, align_corners=False)
        out.append(images_to_uint8(resized / 255)[0])
    return np.stack(out)


def _right(logits: dict[str, Tensor], scenes: scene.Scenes, quadrant: Tensor) -> np.ndarray:
    """(N, attributes) in {0, 1}: presence, then each attribute of the object in this quadrant of each scene."""
    rows = torch.arange(len(quadrant))
    answers = [logits["presence"].argmax(-1)[rows, quadrant] == 1]
    for column, name in enumerate(scene.ATTRIBUTES):
        answers.append(logits[name].argmax(-1)[rows, quadrant] == scenes.objects[rows, quadrant, column])
    return torch.stack(answers, 1).double().numpy()
