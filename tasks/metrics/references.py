"""Reference sets of images: a folder, or the statistics file that clean-fid writes.

Letters: M reference images, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from harness import image_files, text
from harness.errors import UserError
from results.analysis.frechet import Moments, moments

_READ = b"upright, over white"
"""How images are read: part of their digest, since other pixels are another reference."""
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Reference(Moments):
    """Features of a reference set as moments: mean (D,) and covariance (D, D); features (M, D) where they are known.
    what: the set in words."""

    features: np.ndarray | None
    what: str

    @classmethod
    def of(cls, features: np.ndarray, what: str) -> Reference:
        """what: goes behind the number of images."""
        fitted = moments(features)
        return cls(fitted.mean, fitted.covariance, features, f"{len(features)} {what}")


def check(path: Path, *, features: bool = False, statistics: bool = True) -> None:
    """Raises UserError for a path that is no reference set. statistics: whether a statistics file will do; features:
    whether it must hold the features themselves."""
    if path.is_dir():
        files(path)
    elif not path.is_file():
        raise UserError(f"reference {path} does not exist; expected a folder of images{_or_file(statistics)}")
    elif not statistics or path.suffix != ".npz":
        raise UserError(f"reference {path} is no folder; expected a folder of images{_or_file(statistics)}")
    else:
        arrays = _names(_features_file(path) if features else path)
        if features and "feats" not in arrays:
            raise UserError(
                f"reference {path} holds no features (feats), which the kernel distance needs; name the folder of "
                "images, or clean-fid's *_kid.npz"
            )
        if not features and not {"mu", "sigma"} <= arrays and "feats" not in arrays:
            raise UserError(f"reference {path} holds {', '.join(sorted(arrays))}; expected mu and sigma, or feats")


def _or_file(statistics: bool) -> str:
    return ", or a clean-fid statistics file (.npz)" if statistics else ""


def _names(path: Path) -> set[str]:
    """The names of the arrays in an .npz file, none of which is read. Raises UserError for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"reference {path} is no readable .npz file: {error}") from error


def _features_file(path: Path) -> Path:
    """clean-fid keeps the features for KID in a file beside the moments: NAME.npz and NAME_kid.npz."""
    beside = path.with_name(f"{path.stem}_kid.npz")
    return beside if "feats" not in _names(path) and beside.is_file() else path


def from_statistics(path: Path, *, features: bool, width: int) -> Reference:
    """The moments or the features in a clean-fid statistics file. Raises UserError where their width is another."""
    path = _features_file(path) if features else path
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float64) for name in ("mu", "sigma", "feats") if name in stored}
    except (OSError, ValueError) as error:
        raise UserError(f"reference {path} is no readable .npz file: {error}") from error
    if "feats" in arrays and (features or "mu" not in arrays):
        made = Reference.of(arrays["feats"], f"features in {path.name}")
    else:
        made = Reference(arrays["mu"], arrays["sigma"], None, f"the moments in {path.name}")
    if made.mean.shape != (width,) or made.covariance.shape != (width, width):
        raise UserError(f"reference {path} has features of width {made.mean.size}; this extractor gives {width}")
    return made


def files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in a fixed order, each once: those that its metadata.jsonl lists, else all below it.
    Raises UserError where there are fewer than two, or one is missing."""
    table = folder / "metadata.jsonl"
    if table.is_file():
        found = []
        for number, line in text.lines(text.read(table, "list of images")):
            try:
                found.append(folder / json.loads(line)["file_name"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"line {number} of {table} has no file_name") from error
            if not found[-1].is_file():
                raise UserError(f"line {number} of {table} names {found[-1].name}, which is not there")
        found = list(dict.fromkeys(found))  # several captions of one image
    else:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    if len(found) < 2:
        raise UserError(f"reference {folder} holds {len(found)} images; a reference set needs two at least, and a "
                        "distance that means something needs thousands")  # fmt: skip
    return tuple(found)


def images(folder: Path) -> Iterator[np.ndarray]:
    """The images of a folder, (H, W, 3) uint8, of whatever sizes. Raises UserError for an unreadable one."""
    for path in files(folder):
        yield np.asarray(image_files.rgb(path))


@cache
def digest(path: Path) -> str:
    """sha256 over the contents of a file, or of a folder's images in their order; read once per process."""
    total = hashlib.sha256(_READ if path.is_dir() else b"")
    for one in files(path) if path.is_dir() else (path,):
        with open(one, "rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()
