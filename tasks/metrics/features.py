"""What the metrics on `shapes` share: the judge, its features, and the reference set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import checkpoints
from harness.metric import Sample, images_to_uint8
from harness.models import Model
from harness.spec import Case
from harness.zoo.shapes import judge as judging
from harness.zoo.shapes import scene

STORED = Path(__file__).parent / "shapes_reference.safetensors"
EXTRACTOR = "shapes-judge"
REFERENCES = 2048


def has_judge(model: Model) -> bool:
    return model.facts.get("judge") == EXTRACTOR


@cache
def _judge() -> judging.Judge:
    return judging.load()


@torch.no_grad()
def read(images: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
    """The judge's logits and features (N, 64) of images (N, S, S, 3) uint8."""
    parts = [
        _judge()(torch.tensor(part).permute(0, 3, 1, 2) / 255.0)
        for part in np.array_split(images, max(1, len(images) // 128))
    ]
    logits = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    return logits, torch.cat([part[1] for part in parts]).numpy().astype(np.float64)


def scenes(cases: Sequence[Case]) -> scene.Scenes:
    """The scenes that the cases' captions describe."""
    (split,) = {case.data["split"] for case in cases}
    return scene.sample(split, [case.data["scene"] for case in cases])


def of_scenes(cases: Sequence[Case]) -> bool:
    """Whether all cases are scenes of the renderer's, which the reference set is of, too."""
    return all("scene" in case.data for case in cases)


def logits(sample: Sample) -> dict[str, Tensor]:
    return sample.once(EXTRACTOR, lambda: read(sample.images))[0]


def features(sample: Sample) -> np.ndarray:
    found: np.ndarray = sample.once(EXTRACTOR, lambda: read(sample.images))[1]
    sample.features[EXTRACTOR] = found
    return found


@cache
def reference() -> np.ndarray:
    """Features (2048, 64) of held-out renders that no case and no training scene shares: read from a file where it
    belongs to this judge (`python -m tasks.metrics.features` writes it), else computed."""
    try:
        tensors, facts = checkpoints.load(STORED)
    except (FileNotFoundError, checkpoints.CheckpointError):
        return computed(range(REFERENCES))
    return tensors["features"].double().numpy() if facts == fingerprint() else computed(range(REFERENCES))


def computed(indices: range) -> np.ndarray:
    """Features of these held-out renders."""
    chunks = [scene.render(scene.sample("reference", indices[i : i + 256]))[0] for i in range(0, len(indices), 256)]
    return read(np.concatenate([images_to_uint8(chunk) for chunk in chunks]))[1]


def fingerprint() -> dict[str, str]:
    return {
        "extractor": f"{EXTRACTOR} {judging.digest()[:12]}",
        "reference": f"{REFERENCES} held-out renders at {scene.SIZE} px, no resize",
    }


if __name__ == "__main__":
    checkpoints.save(STORED, {"features": torch.from_numpy(computed(range(REFERENCES))).float()}, fingerprint())
