"""What a quality metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.spec import Case
from results.analysis.statistics import mean_interval
from results.record import Estimate

if TYPE_CHECKING:
    from harness.models import Model


@dataclass
class Sample:
    """The images of one operating point. images: (N, H, W, 3) uint8, read-only. Metrics share work through `once`.

    clusters: (N,) which cases belong together, for they share a prompt or a picture; None where all stand alone.
    features: (N, D) by extractor, and references: (M, D), what distances compare them with, by name of the estimate, or
    by extractor where all of its estimates share one set: what a metric puts there is kept beside the images, in half
    precision, so that two records can be compared later without a model.
    """

    cases: tuple[Case, ...]
    images: np.ndarray
    clusters: np.ndarray | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    _memo: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # In one order in memory, wherever they come from: convolutions round otherwise in another.
        self.images = np.ascontiguousarray(self.images).view()
        self.images.flags.writeable = False  # whoever made the array can go on with it

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """`make()` the first time, the same object after that."""
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]


class MetricSettings(BaseModel):
    """What a user may set of a metric (`--metric-set METRIC.NAME=VALUE`): validated, frozen, unknown names refused.
    Give every field a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(NamedTuple):
    """What a metric writes into a table, for the reference of metrics. name: with "<...>" for what varies."""

    name: str
    unit: str
    better: Literal["higher", "lower"] | None
    about: str


class Metric(ABC):
    """Quality of a sample. A metric object belongs to one model.

    A metric without settings of its own may leave `Settings` as it is; it is then made from the model alone. source:
    the publication. weights: where the weights come from and how a local copy is named. remark: what to know before
    figures are compared. counts: what the n of its estimates is a number of; images are never more than the cases.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it where a change makes other figures of the same images
    about: ClassVar[str] = ""
    Settings: ClassVar[type[MetricSettings]] = MetricSettings
    columns: ClassVar[tuple[Column, ...]] = ()
    source: ClassVar[str] = ""
    weights: ClassVar[str] = ""
    remark: ClassVar[str] = ""
    counts: ClassVar[str] = "images"

    def __init__(self, model: Model, settings: MetricSettings | None = None, data: Path | None = None) -> None:
        """data: the folder of real images that the cases come from, what a metric with a reference set compares with
        where its settings name none."""
        self.model, self.data = model, data
        self.settings: Any = settings if settings is not None else self.Settings()

    @classmethod
    def applies(cls, model: Model) -> bool:
        """Whether this metric can judge this model's images."""
        return True

    def check(self) -> None:
        """Called before anything runs. Raises UserError where weights or a reference set are absent: what is missing,
        and how to give it. A metric that nobody asked for by name is then left out."""
        return

    def refuses(self, cases: Sequence[Case]) -> str:
        """Why it cannot judge images of these cases, for instance as its references are of another domain; "" where it
        can. A metric that nobody asked for by name is then left out."""
        return ""

    @abstractmethod
    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        """Estimates by name, "extractor" in brackets where there is one. dense: the reference's images of the same
        cases, None for the reference itself."""

    def fingerprint(self) -> dict[str, str]:
        """What must match for two figures to compare: extractor, resize mode, reference set, and every setting that
        changes a figure. Names are shared by all metrics: put the column's into them."""
        return {}


def images_to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in 0..1 -> (B, H, W, 3) uint8, rounded and laid out in memory as PNG files hold them."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def per_image(values: ArrayLike, *, unit: str, better: Literal["higher", "lower"] | None, convention: str) -> Estimate:
    """The estimate of a metric that judges each image by itself: the mean of values (N,), which stay with it, so that
    two records can be compared image by image. NaN stands for an image that the metric does not apply to. Raises
    ValueError for infinite values, and where it applies to none."""
    each = np.asarray(values, dtype=float)
    judged = each[~np.isnan(each)]
    found = mean_interval(judged, share=unit == "share")
    return Estimate(
        **found._asdict(), n=len(judged), unit=unit, role="quality", better=better, convention=convention,
        values=tuple(each.tolist()),
    )  # fmt: skip
