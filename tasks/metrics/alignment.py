"""Caption alignment by attribute: does the judge read off the image what the caption says?"""

from __future__ import annotations

import numpy as np

from harness.metric import Column, Metric, Sample, per_image
from harness.models import Model
from harness.zoo.shapes import judge as judging
from results.analysis.statistics import resamples
from results.record import Estimate
from tasks.metrics import features


class Alignment(Metric):
    """Share of right answers, whose mean over the attributes is `alignment`, and how probable the right answers are."""

    name = "alignment"
    version = 2
    counts = "questions"
    about = "share of caption attributes that the judge finds in the image; higher is better"
    columns = (
        Column("alignment", "share", "higher", "mean over the attributes, each of which counts alike"),
        Column("alignment_<attribute>", "share", None, "right answers over questions on this attribute"),
        Column("log_likelihood", "nats", "higher", "mean over images of the log-probability of all right answers"),
    )
    source = "ours"
    weights = "The shapes judge comes with the repository."
    remark = (
        "Means over images, so N does not bias them. The share saturates near 1, where the log-probability still tells "
        "images apart. Only for the model's own scenes: free prompts have no columns."
    )

    @classmethod
    def applies(cls, model: Model) -> bool:
        return features.has_judge(model)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        known = [row for row, case in enumerate(sample.cases) if "scene" in case.data]
        if len(known) < len(sample.cases):
            return {}  # free prompts describe no scene that the judge could look for
        scenes = features.scenes(sample.cases)
        answers = judging.agreement(features.logits(sample), scenes)
        drawn = resamples(len(sample.cases))  # (R, N)
        values, replicates, each = {}, {}, {}
        for name, (right, asked) in answers.items():
            r, a = right.numpy().astype(float), asked.numpy().astype(float)
            values[name], replicates[name] = r.sum() / a.sum(), r[drawn].sum(1) / a[drawn].sum(1)
            each[name] = r / a.mean()  # the mean over the images is the share, whatever each was asked
        whole = float(np.mean(list(values.values())))
        out = {
            "alignment": _estimate(whole, np.mean(list(replicates.values()), axis=0), len(sample.cases), "all", True)
        }
        shares = np.mean(list(each.values()), axis=0)  # (N,)
        out["alignment"] = out["alignment"].model_copy(update={"values": tuple(shares.tolist())})
        for name in answers:
            asked_in_all = int(answers[name][1].sum())
            out[f"alignment_{name}"] = _estimate(values[name], replicates[name], asked_in_all, name, False)
        likelihood = judging.log_likelihood(features.logits(sample), scenes).double().numpy()  # (N,)
        out["log_likelihood"] = per_image(
            likelihood, unit="nats", better="higher", convention="mean over images of the log-probability of all right "
            f"answers together, taken as independent, by {features.EXTRACTOR}",
        )  # fmt: skip
        return out

    def fingerprint(self) -> dict[str, str]:
        return features.fingerprint()


def _estimate(value: float, replicates: np.ndarray, n: int, what: str, headline: bool) -> Estimate:
    low, high = np.quantile(replicates, [0.025, 0.975])
    about = "mean over attributes" if headline else f"{what}: right answers over questions"
    return Estimate(
        value=value,
        low=float(low),
        high=float(high),
        n=n,
        unit="share",
        convention=f"{about}, read off by {features.EXTRACTOR}; resampled by image",
        role="quality",
        better="higher" if headline else None,
        replicates=tuple(replicates.tolist()) if headline else (),
    )
