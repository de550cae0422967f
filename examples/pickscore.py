"""A metric in one file: PickScore (Kirstain et al., 2023), a CLIP that was tuned on people's choices.

    python -m harness run --plugin examples/pickscore.py --metrics paired,pick-score \
        --metric-set pick-score.model=PickScore_v1 --metric-set pick-score.processor=CLIP-ViT-H-14-laion2B-s32B-b79K

Weights: hub id yuvalkirstain/PickScore_v1 (safetensors, 4 GB) with the processor of
laion/CLIP-ViT-H-14-laion2B-s32B-b79K; folders, or hub ids in the local cache. HPSv2 has the same form.
"""

from pydantic import Field

import harness
from harness.metric import Column, Metric, MetricSettings
from results.analysis.statistics import bootstrap
from results.record import Estimate
from tasks.metrics import clip


class PickScoreSettings(MetricSettings):
    model: str = Field("yuvalkirstain/PickScore_v1", description="folder, or hub id in the local cache")
    processor: str | None = Field(None, description="folder or hub id of tokenizer and image processor; none: `model`")


@harness.metrics.register("pick-score")
class PickScore(Metric):
    """How much people would like the image for its caption: scaled cosine in a CLIP tuned on their choices."""

    about = "preference score of image and caption; higher is better"
    Settings = PickScoreSettings
    columns = (Column("pick_score", "logit", "higher", "mean over images of exp(logit_scale) x cosine"),)
    source = "Kirstain et al., 2023"

    def check(self):
        clip.open_(self.settings.model, self.settings.processor)

    def estimates(self, sample, dense):
        model = clip.open_(self.settings.model, self.settings.processor)
        images = model.images(sample.images, self.model.device)
        texts = model.texts([case.prompt for case in sample.cases], self.model.device)
        scores = model.network.logit_scale.exp().item() * (images * texts).sum(1)
        convention = "mean over images of exp(logit_scale) x cosine"
        spread = bootstrap(scores)._asdict()
        return {"pick_score": Estimate(**spread, n=len(scores), unit="logit", convention=convention,
                                       role="quality", better="higher")}  # fmt: skip

    def fingerprint(self):
        return {"pick_score": clip.print_of(clip.open_(self.settings.model, self.settings.processor))}
