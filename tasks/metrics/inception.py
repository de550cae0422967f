"""clean-fid's Inception network (Parmar et al., 2022) and its resizing, from a local file of weights.

The file is TorchScript, which runs code of its own when it is loaded: it is opened from a path that the user names and
from nowhere else, and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import UserError
from tasks.metrics import references

NAME = "inception"
FILE = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}"
WIDTH = 2048
RESIZE = "clean"  # bicubic by PIL on floats, antialiased, to 299 x 299
_BATCH = 32


def file_of(path: Path) -> Path:
    """The file of weights that a path names: itself, or the one in the folder. Raises UserError."""
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise UserError(f"Inception weights {found} do not exist; save {URL} there")
    if found.name != FILE:
        raise UserError(f"Inception weights {found} must keep the name {FILE}, which clean-fid asks for")
    if not zipfile.is_zipfile(found):
        raise UserError(f"Inception weights {found} are damaged (no TorchScript archive); save {URL} again")
    return found


@cache
def _network(path: Path) -> Any:
    """clean-fid's own wrapper."""
    from cleanfid.inception_torchscript import InceptionV3W  # slow to import

    return InceptionV3W(str(path.parent), download=False).eval()


@torch.no_grad()
def features(images: Iterable[np.ndarray], weights: Path, device: torch.device) -> np.ndarray:
    """Features (N, 2048) of images (H, W, 3) uint8. The network is on the device only meanwhile."""
    from cleanfid.resize import build_resizer

    resize = build_resizer(RESIZE)
    network = _network(file_of(weights)).to(device)
    try:
        parts = [
            network(torch.stack([torch.from_numpy(resize(one)).permute(2, 0, 1) for one in some]).to(device)).cpu()
            for some in chunks(images, _BATCH)
        ]
    finally:
        network.to("cpu")
    return torch.cat(parts).double().numpy()


@cache
def of_folder(folder: Path, digest: str, weights: Path, device: torch.device) -> np.ndarray:
    """Features (M, 2048) of a folder's images, computed once per process; digest: of its contents."""
    return features(references.images(folder), weights, device)


def chunks(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    rest = iter(images)
    while some := list(islice(rest, size)):
        yield some


def _main() -> None:
    """Read a folder once and keep its features, as a reference for both FID and KID."""
    parser = argparse.ArgumentParser(prog="python -m tasks.metrics.inception", description=_main.__doc__)
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("out", type=Path, help="file to write, .npz: mu, sigma and feats")
    parser.add_argument("--weights", type=Path, required=True, help=f"{FILE}, or its folder")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    try:
        references.check(asked.folder, statistics=False)
        found = features(references.images(asked.folder), asked.weights, torch.device(asked.device))
    except UserError as error:
        parser.error(str(error))
    np.savez(asked.out, mu=found.mean(0), sigma=np.cov(found, rowvar=False), feats=found)


if __name__ == "__main__":
    _main()
