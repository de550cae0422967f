"""LPIPS (Zhang et al., 2018) to dense: how different two images look to a network.

Written here on torchvision's AlexNet and VGG16 features with the published linear weights (version 0.1), all from one
local safetensors file, which this module's command makes from the published files.

Letters: B images, C channels.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.errors import UserError
from harness.metric import Column, Metric, MetricSettings, Sample, per_image
from results.record import Estimate
from tasks.metrics import references

# After which layers of torchvision's `features` an activation is compared: each stage's last ReLU.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_BATCH = 16


class LpipsSettings(MetricSettings):
    weights: Path | None = Field(
        None, description="safetensors file of network and linear weights, made by `python -m tasks.metrics.lpips`"
    )


class LPIPS(Metric):
    """Perceptual distance to the dense model's image of the same case and seed."""

    name = "lpips"
    about = "LPIPS to dense at the same seed; lower is closer to dense"
    Settings = LpipsSettings
    settings: LpipsSettings
    columns = (
        Column("lpips_to_dense[alex]", "LPIPS", "lower", "AlexNet, version 0.1, at the images' own size"),
        Column("lpips_to_dense[vgg]", "LPIPS", "lower", "VGG16, version 0.1, at the images' own size"),
    )
    source = "Zhang et al., 2018; our own implementation on torchvision's networks"
    weights = (
        "One safetensors file, named by `weights`, made by `python -m tasks.metrics.lpips NET.pth LINEAR.pth OUT` from "
        "torchvision's network (alexnet-owt-7be5be79.pth or vgg16-397923af.pth of download.pytorch.org/models) and the "
        "linear weights that the PyPI package lpips holds (lpips/weights/v0.1/alex.pth or vgg.pth)."
    )
    remark = "A mean over images, so N does not bias it. It tells how far from dense, not which is better."

    def check(self) -> None:
        if self.settings.weights is None:
            raise UserError(
                f"no weights; make them with `python -m tasks.metrics.lpips` and give --metric-set {self.name}."
                "weights=FILE"
            )
        net_of(self.settings.weights)

    def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
        if dense is None:
            return {}
        assert self.settings.weights is not None  # checked
        name = net_of(self.settings.weights)
        distances = between(network(self.settings.weights), sample.images, dense.images, self.model.device)
        return {
            f"lpips_to_dense[{name}]": per_image(
                distances, unit="LPIPS", better="lower",
                convention=f"mean over images of LPIPS 0.1 ({name}, on torchvision's network) to dense's image, at the "
                "images' own size",
            )
        }  # fmt: skip

    def fingerprint(self) -> dict[str, str]:
        assert self.settings.weights is not None  # checked
        return {f"lpips_to_dense[{net_of(self.settings.weights)}]": references.digest(self.settings.weights)[:12]}


class Perceptual(nn.Module):
    """The distance (B,) of two batches of images (B, 3, H, W) in 0..1."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision import models

        whole = models.alexnet() if name == "alex" else models.vgg16()
        self.taps = TAPS[name]
        self.features = whole.features[: self.taps[-1] + 1]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a tapped activation is read after the next layer ran
        self.linear = nn.ParameterList([nn.Parameter(torch.ones(1, c, 1, 1)) for c in CHANNELS[name]])
        self.register_buffer("shift", torch.tensor(_SHIFT, device="cpu")[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE, device="cpu")[:, None, None], persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        stages = zip(self._stages(a), self._stages(b), self.linear, strict=True)
        return torch.stack([(w * (x - y) ** 2).sum(1).mean((1, 2)) for x, y, w in stages]).sum(0)

    def _stages(self, images: Tensor) -> list[Tensor]:
        x, out = (images * 2 - 1 - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                out.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out


@torch.no_grad()
def between(model: Perceptual, a: np.ndarray, b: np.ndarray, device: torch.device) -> np.ndarray:
    """Distances (N,) of images (N, H, W, 3) uint8. The network is on the device only meanwhile."""
    model.to(device)
    try:
        parts = []
        for start in range(0, len(a), _BATCH):
            pair = (torch.tensor(x[start : start + _BATCH]).permute(0, 3, 1, 2).to(device) / 255 for x in (a, b))
            parts.append(model(*pair).cpu())
    finally:
        model.to("cpu")
    return torch.cat(parts).double().numpy()


@cache
def network(path: Path) -> Perceptual:
    with torch.device("meta"):  # no weights are drawn that the file replaces
        model = Perceptual(net_of(path))
    model.load_state_dict(load_file(path), assign=True)
    return model.eval()


@cache
def net_of(path: Path) -> str:
    """Which network a file of weights holds: alex or vgg. Raises UserError for a file that holds none whole."""
    if not path.is_file():
        raise UserError(f"LPIPS weights {path} do not exist; make them with `python -m tasks.metrics.lpips`")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"LPIPS weights {path} are no readable safetensors file: {error}") from error
    for name in TAPS:
        with torch.device("meta"):
            if shapes == {key: tuple(value.shape) for key, value in Perceptual(name).state_dict().items()}:
                return name
    raise UserError(f"LPIPS weights {path} fit neither AlexNet nor VGG16; see `python -m tasks.metrics.lpips --help`")


def convert(net: Path, linear: Path, out: Path) -> str:
    """Make a file of weights from torchvision's state dict and the published linear weights; returns the network's
    name. Both are read as plain tensors. Raises UserError for files that hold something else."""
    try:
        weights, lines = (torch.load(path, map_location="cpu", weights_only=True) for path in (net, linear))
    except Exception as error:  # pickle's errors are of many kinds
        raise UserError(f"{net} and {linear} cannot be read as state dicts: {type(error).__name__}: {error}") from error
    kept = {f"linear.{i}": lines.get(f"lin{i}.model.1.weight") for i in range(5)}
    missing = [name for name, tensor in kept.items() if tensor is None]
    if missing:
        raise UserError(f"{linear} holds no lin0.model.1.weight to lin4.model.1.weight; expected lpips' own file")
    tensors = {name: tensor for name, tensor in weights.items() if name.startswith("features.")}
    save_file({name: tensor.float().contiguous() for name, tensor in (tensors | kept).items()}, out)
    return net_of(out)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.metrics.lpips", description="Make a file of LPIPS weights.")
    parser.add_argument("net", type=Path, help="torchvision's AlexNet or VGG16, .pth")
    parser.add_argument("linear", type=Path, help="lpips/weights/v0.1/alex.pth or vgg.pth of the lpips package")
    parser.add_argument("out", type=Path, help="file to write, .safetensors")
    asked = parser.parse_args()
    try:
        print(f"{asked.out}: {convert(asked.net, asked.linear, asked.out)}")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
