"""CMMD (Jayasumana et al., 2024): squared MMD between CLIP embeddings, Gaussian kernel, times 1000.

As the authors' code has it: unit embeddings of CLIP ViT-L/14 at 336 pixels, the middle square of each image, sigma 10,
and the estimator that keeps the pairs of an image with itself, so it is never negative.

Letters: N images, M reference images, D embedding width, R resamples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from harness.errors import UserError
from harness.metric import Column, Metric, Sample
from results.analysis.statistics import Bootstrapped, centred_interval, drawn_cases
from results.record import Estimate
from tasks.metrics import clip, references
from tasks.metrics.clip_score import ClipSettings

SIGMA = 10.0
SCALE = 1000.0
_ROWS = 512  # rows of the kernel matrix at a time


class CmmdSettings(ClipSettings):
    reference: Path | None = Field(None, description="folder of real images; none: the images of `--data`")


class CMMD(Metric):
    """Squared maximum mean discrepancy, with a Gaussian kernel, between the CLIP embeddings of the images and of a
    reference folder."""

    name = "cmmd"
    version = 2
    about = "squared MMD (Gaussian kernel) to a reference folder, in CLIP embeddings; lower is better"
    Settings = CmmdSettings
    settings: CmmdSettings
    columns = (
        Column("cmmd[<model>]", "squared MMD x 1000", "lower", "sigma 10, pairs of an image with itself included"),
    )
    source = "Jayasumana et al., 2024"
    weights = f"{clip.WEIGHTS} The publication uses openai/clip-vit-large-patch14-336: only with that model is it CMMD."
    remark = (
        "The estimator keeps the pairs of an image with itself, as the authors' code does, which biases it upwards by "
        "at most 20 / N + 20 / M (N images, M references): compare at equal N and M, and take 1000 images or more. The "
        "interval is centred on the figure."
    )

    @property
    def _reference(self) -> Path | None:
        return self.settings.reference or self.data

    def check(self) -> None:
        if self.settings.model is None:
            raise UserError(
                f"no CLIP model; give --metric-set {self.name}.model=FOLDER, or a hub id such as "
                "openai/clip-vit-large-patch14-336 that is in the local cache"
            )
        if self._reference is None:
            raise UserError(f"no reference set; give --metric-set {self.name}.reference=FOLDER")
        references.check(self._reference, statistics=False)
        clip.open_(self.settings.model)

    @property
    def _at_hand(self) -> tuple[clip.Clip, Path, str]:
        """The model, the reference folder and its digest."""
        assert self.settings.model is not None and self._reference is not None  # checked
        return clip.open_(self.settings.model), self._reference, references.digest(self._reference)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        (model, folder, digest), device = self._at_hand, self.model.device
        x = sample.once(f"clip {model.folder}", lambda: model.images(sample.images, device))  # (N, D)
        y = clip.of_folder(model, folder, digest, device)  # (M, D)
        extractor = f"clip[{model.name}]"
        sample.features[extractor], sample.references[extractor] = x, y
        found = distance(x, y, sample.clusters)
        return {
            f"cmmd[{model.name}]": Estimate(
                **found._asdict(), n=len(x), unit="squared MMD x 1000", role="quality", better="lower",
                convention=f"squared MMD with a Gaussian kernel (sigma {SIGMA:g}) x {SCALE:g} on unit embeddings of "
                f"{model.name}, pairs of an image with itself included, against {len(y)} images of {folder.name}",
            )
        }  # fmt: skip

    def fingerprint(self) -> dict[str, str]:
        model, _, digest = self._at_hand
        return {f"cmmd[{model.name}]": f"{clip.print_of(model)}, reference {digest[:12]}"}


def distance(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> Bootstrapped:
    """Between embeddings x (N, D) and y (M, D). clusters: (N,), see `Sample`.

    The kernel matrices are gone through in strips, once for all resamples: a resample only weighs the pairs anew.
    """
    drawn = [np.arange(len(x)), *drawn_cases(len(x), clusters=clusters)]  # the sample itself, then resamples
    weights = np.stack([np.bincount(rows, minlength=len(x)) / len(rows) for rows in drawn])  # (1 + R, N)
    own = sum(
        np.einsum("rn,rn->r", weights[:, start : start + _ROWS] @ _kernel(x[start : start + _ROWS], x), weights)
        for start in range(0, len(x), _ROWS)
    )
    cross = sum(_kernel(y[start : start + _ROWS], x).sum(0) for start in range(0, len(y), _ROWS)) / len(y)  # (N,)
    theirs = sum(_kernel(y[start : start + _ROWS], y).sum() for start in range(0, len(y), _ROWS)) / len(y) ** 2
    found = SCALE * (own + theirs - 2 * weights @ cross)  # (1 + R,)
    return centred_interval(float(found[0]), found[1:])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) from a (A, D) and b (B, D)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-squares.clip(0) / (2 * SIGMA**2))
