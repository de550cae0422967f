"""CLIP score (Hessel et al., 2021): does the image show what its caption says?"""

from __future__ import annotations

from pydantic import Field

from harness.errors import UserError
from harness.metric import Column, Metric, MetricSettings, Sample, per_image
from results.record import Estimate
from tasks.metrics import clip


class ClipSettings(MetricSettings):
    model: str | None = Field(None, description="CLIP model: a local folder, or a hub id in the local cache")


class ClipScore(Metric):
    """Mean cosine similarity between the CLIP embeddings of each image and of its caption."""

    name = "clip-score"
    about = "cosine similarity of image and caption in CLIP; higher is better"
    Settings = ClipSettings
    settings: ClipSettings
    columns = (
        Column(
            "clip_score[<model>]", "cosine", "higher", "mean over images; neither multiplied by 100 or 2.5 nor cut at 0"
        ),
    )
    source = "Hessel et al., 2021; CLIP by Radford et al., 2021"
    weights = f"{clip.WEIGHTS} Published figures often use openai's clip-vit-base-patch32 or -large-patch14."
    remark = (
        "A mean over images, so N does not bias it. Figures of different CLIP models do not compare. Images are "
        "resized and cut by the model's own processor; captions are cut at its text length (77 tokens)."
    )

    def check(self) -> None:
        if self.settings.model is None:
            raise UserError(
                f"no CLIP model; give --metric-set {self.name}.model=FOLDER, or a hub id such as "
                "openai/clip-vit-base-patch32 that is in the local cache"
            )
        clip.open_(self.settings.model)

    @property
    def _clip(self) -> clip.Clip:
        assert self.settings.model is not None  # checked
        return clip.open_(self.settings.model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        model, device = self._clip, self.model.device
        images = sample.once(f"clip {model.folder}", lambda: model.images(sample.images, device))  # (N, D)
        sample.features[f"clip[{model.name}]"] = images
        texts = model.texts([case.prompt for case in sample.cases], device)  # (N, D)
        return {
            f"clip_score[{model.name}]": per_image(
                (images * texts).sum(1), unit="cosine", better="higher",
                convention=f"mean over images of the cosine of image and caption in {model.name}, not multiplied by "
                "100; resampled by image",
            )
        }  # fmt: skip

    def fingerprint(self) -> dict[str, str]:
        return {f"clip_score[{self._clip.name}]": clip.print_of(self._clip)}
