"""What a quality metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from harness.spec import Case
from results.record import Estimate

if TYPE_CHECKING:
    from harness.models import Model


@dataclass
class Sample:
    """The images of one operating point. images: (N, H, W, 3) uint8. Metrics share work (features) through `once`."""

    cases: tuple[Case, ...]
    images: np.ndarray
    _memo: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """`make()` the first time, the same object after that."""
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]


class Metric(ABC):
    """Quality of a sample. A metric object belongs to one model."""

    name: ClassVar[str]
    about: ClassVar[str] = ""

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def applies(cls, model: Model) -> bool:
        """Whether this metric can judge this model's images."""
        return True

    @abstractmethod
    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        """Estimates by name, "extractor" in brackets where there is one. dense: the reference's images of the same
        cases, None for the reference itself."""

    def fingerprint(self) -> dict[str, str]:
        """What must match for two figures to compare: extractor, resize mode, reference set."""
        return {}


def images_to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in 0..1 -> (B, H, W, 3) uint8, rounded as PNG files hold them."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
