"""Pictures of a report: images linked beside the page, token maps as small sprites. No name in it comes from data."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from results.files import link_or_copy
from results.run_files import TokenMaps

_KINDS = (".png", ".jpg", ".jpeg", ".webp")
_STEPS = 10  # sampling steps that token maps are shown at
_LARGEST = 128  # pixels of the forming image's side


def put(root: Path, names: Sequence[str | None], out: Path, place: str) -> dict[str, Any] | None:
    """Link the images `names`, relative to the run folder `root`, as out/place/00000.png and so on, one per case; None
    stands for a case without one. Returns the place, the ending and the rows that have no picture; None where all
    lack one. A file that lies outside of `root`, or has another ending, counts as missing."""
    kinds, found = set(), {}
    inside = os.path.realpath(root)
    followed: dict[str, str] = {}  # folders: thousands of pictures share one
    for row, name in enumerate(names):
        path = os.path.join(root, name or "")
        folder, last = os.path.split(path)
        kind = os.path.splitext(last)[1].lower()
        if kind not in _KINDS or not os.path.isfile(path):
            continue
        if folder not in followed:
            followed[folder] = os.path.realpath(folder)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(followed[folder], last)
        if os.path.commonpath((real, inside)) == inside:
            found[row] = path
            kinds.add(kind)
    if not found or len(kinds) > 1:
        return None
    (kind,) = kinds
    (out / place).mkdir(parents=True, exist_ok=True)
    for row, path in found.items():
        link_or_copy(path, os.path.join(out, place, f"{row:05d}{kind}"))
    return {"dir": place, "kind": kind, "gone": [row for row in range(len(names)) if row not in found]}


def put_maps(maps: TokenMaps, out: Path, start: str) -> dict[str, Any]:
    """Write sprites of token maps (T steps, L layers) below `out`: L rows and at most ten columns of steps, and the
    image as it forms, a row. Returns their names and sizes, the steps shown, the share of tokens kept (L, steps) and
    the ratios (L, R) or None."""
    steps, layers = maps.keep.shape[:2]
    shown = np.unique(np.linspace(0, steps - 1, min(_STEPS, steps)).round().astype(int))
    with np.errstate(all="ignore"):
        share = np.nanmean(maps.keep[shown].astype(float), axis=(2, 3)).T  # (L, steps)
    facts: dict[str, Any] = {
        "steps": [int(step) + 1 for step in shown], "layers": layers,
        "share": [[None if math.isnan(x) else round(float(x), 4) for x in row] for row in share],
        "ratios": None if maps.ratios is None else np.round(maps.ratios.astype(float), 4).tolist(),
        "kept": "", "scores": "",
    }  # fmt: skip
    (out / start).parent.mkdir(parents=True, exist_ok=True)
    forming = np.concatenate([_small(image) for image in maps.images[shown]], axis=1)  # (h, steps w, 3)
    facts["images"] = _save(forming, out, f"{start}-images.png")
    for name, values in (("kept", maps.keep if (maps.keep < 1).any() else None), ("scores", maps.scores)):
        if values is not None:
            rows = [np.concatenate(list(values[shown, layer]), axis=1) for layer in range(layers)]
            facts[name] = _save(_coloured(np.concatenate(rows)), out, f"{start}-{name}.png")
    return facts


def _coloured(values: np.ndarray) -> np.ndarray:
    """(H, W) in 0..1 as (H, W, 4) uint8; NaN is clear."""
    filled = np.nan_to_num(np.asarray(values, dtype=float))
    colours = (colormaps["cividis"](np.clip(filled, 0, 1)) * 255).round().astype(np.uint8)
    colours[np.isnan(values), 3] = 0
    return np.asarray(colours)


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    if max(picture.size) > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(picture)


def _save(pixels: np.ndarray, out: Path, name: str) -> str:
    Image.fromarray(pixels).save(out / name, format="PNG", optimize=True)
    return name
