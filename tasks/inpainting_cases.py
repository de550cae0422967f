"""Where the cases of inpainting come from: held-out scenes or pictures, or a folder of a user's own.

A case's data: image (3, S, S) in 0..1 as an 8-bit file holds it, mask (S, S) bool (True is generated), and for scenes
which one it is and the quadrant whose object is under the mask.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import image_files, text
from harness.errors import UserError
from harness.models.inpainting import masks
from harness.spec import CALIBRATION_SEEDS, Case
from harness.zoo.emoji import held_out
from harness.zoo.shapes import scene


@lru_cache(maxsize=8)
def from_scenes(split: scene.Split, indices: range, area: float) -> tuple[Case, ...]:
    """Scenes of a split, each with a mask over one of its objects, of a kind that goes round with the index."""
    scenes = scene.sample(split, indices)
    images, coverage = scene.render(scenes)
    out, first = [], CALIBRATION_SEEDS if split == "calibration" else 0
    for row, (index, caption) in enumerate(zip(indices, scenes.captions(), strict=True)):
        mask, quadrant = _mask(index, scenes, row, coverage[row], area)
        data = {"scene": index, "split": split, "quadrant": quadrant}
        out.append(replace(_case(index, caption, images[row], mask, data), seed=first + index))
    return tuple(out)


@lru_cache(maxsize=8)
def from_pictures(indices: range, area: float) -> tuple[Case, ...]:
    """The held-out pictures of `emoji` at these places of their order, each with a mask over its object, of a kind that
    goes round with the index. There are 440, none of them a flag: what lies beyond is left out, since a picture on
    another background would be the same object once more."""
    shown = held_out.cases("evaluation", min(indices.stop, held_out.COUNT))[indices.start :]
    if not shown:
        return ()
    images, coverage = held_out.true_pictures(shown)
    out = []
    for case, image, own in zip(shown, images, coverage > 0.5, strict=True):
        rng, kind = _rng(case.index), masks.KINDS[case.index % len(masks.KINDS)]
        if kind == "object":
            mask = masks.around(own, area)
        else:
            places = own.nonzero()
            row, column = places[int(rng.integers(len(places)))].tolist()
            mask = (masks.box if kind == "box" else masks.brush)(own.shape[0], area, (row, column), rng)
        out.append(_case(case.index, case.prompt, image, mask, {}))
    return tuple(out)


def held(folder: Path) -> int:
    """How many cases a folder has. Raises UserError as `from_folder` does."""
    return len(_listed(folder))


def from_folder(folder: Path, rows: slice, side: int, *, binarize: bool) -> tuple[Case, ...]:
    """Images, masks (white is generated) and captions: `metadata.jsonl` with file_name, mask and text, or NAME.png,
    NAME_mask.png and NAME.txt. Images must be of the model's own size. rows: which of them.

    Raises UserError for files that are missing, do not fit each other or the model, or masks that are not black and
    white where `binarize` is off.
    """
    found = _listed(folder)
    out = []
    for index in range(len(found))[rows]:
        picture, stencil, caption = found[index]
        image = torch.from_numpy(np.array(image_files.rgb(picture))).permute(2, 0, 1) / 255
        if image.shape[1:] != (side, side):
            raise UserError(f"{picture}: the model makes images of {side} x {side} pixels, this one has {_size(image)}")
        grey = torch.from_numpy(np.array(image_files.mask(stencil)))
        if grey.shape != image.shape[1:]:
            raise UserError(f"{stencil}: the mask has {_size(grey)} pixels, its image {_size(image)}")
        if not binarize and not bool(((grey == 0) | (grey == 255)).all()):
            raise UserError(f"{stencil}: a mask must be black and white; --binarize cuts it at one half")
        out.append(_case(index, caption, image, grey >= 128, {"picture": str(picture.relative_to(folder))}))
    return tuple(out)


def _case(index: int, prompt: str, image: Tensor, mask: Tensor, data: dict[str, Any]) -> Case:
    levels = (image * 255).round().byte()  # as a PNG file holds it
    digest = hashlib.sha256(levels.numpy().tobytes() + mask.numpy().tobytes()).hexdigest()
    return Case(index, prompt, seed=index, data={**data, "image": levels / 255, "mask": mask}, digest=digest)


def _rng(index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[99, index]))


def _mask(index: int, scenes: scene.Scenes, row: int, coverage: Tensor, area: float) -> tuple[Tensor, int]:
    rng = _rng(index)
    present = scenes.present[row].nonzero().flatten().tolist()
    quadrant = present[int(rng.integers(len(present)))]
    x, y = scenes.offsets[row, quadrant].tolist()
    half = scene.HALF
    top, left = quadrant // 2 * half, quadrant % 2 * half
    centre = (top + half / 2 + y, left + half / 2 + x)
    kind = masks.KINDS[index % len(masks.KINDS)]
    if kind == "object":
        own = torch.zeros_like(coverage, dtype=torch.bool)
        place = (slice(top, top + half), slice(left, left + half))
        own[place] = coverage[place] > 0.5
        return masks.around(own, area), quadrant
    return (masks.box if kind == "box" else masks.brush)(scene.SIZE, area, centre, rng), quadrant


def _listed(folder: Path) -> list[tuple[Path, Path, str]]:
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist")
    table = folder / "metadata.jsonl"
    if table.is_file():
        out = []
        for number, line in text.lines(text.read(table, "captions file")):
            try:
                row = text.json_of(line, f"line {number} of {table} needs file_name, mask and text: it")
                picture, stencil, caption = folder / row["file_name"], folder / row["mask"], row["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"line {number} of {table} needs file_name, mask and text") from error
            out.append((picture, stencil, text.prompt(caption, f"line {number} of {table}")))
        return out
    out = []
    for stencil in sorted(folder.glob("*_mask.png")):
        name = stencil.name.removesuffix("_mask.png")
        beside = folder / f"{name}.txt"
        if not beside.is_file():
            raise UserError(f"{stencil} has no caption beside it; expected {beside.name}")
        out.append((folder / f"{name}.png", stencil, text.prompt(text.read(beside, "caption"), str(beside))))
    if not out:
        raise UserError(
            f"data folder {folder} holds no cases; expected metadata.jsonl with file_name, mask and text, or NAME.png, "
            "NAME_mask.png and NAME.txt"
        )
    return out


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]} x {pixels.shape[-2]}"
