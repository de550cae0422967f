"""Folders of pictures for training and reference, from the packages that publish them or from a packed folder.

`python -m harness data emoji OUT` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image

from harness.errors import UserError
from harness.metric import images_to_uint8
from harness.zoo.emoji import held_out, packages, pictures
from harness.zoo.emoji.pictures import BACKGROUNDS, Pictures, caption, colours
from results.files import write_atomic

_BATCH = 256
_SHIFT = 0.08  # of a training picture, at most, in sides of the image
_SCALES = (0.72, 0.92)


def build(out: Path, say: Callable[[str], None], *, unpacked: Path | None = None, packed: Path | None = None) -> None:
    """Write to `out`: `pictures.bin` and `pictures.json`, which `python -m harness train emoji` takes; `train` and
    `reference`, images with metadata.jsonl as `--data` takes them.

    unpacked: folder of the unpacked npm packages; packed: a folder that holds pictures.bin and pictures.json; neither:
    the packages are fetched by npm into `out`/packages. Raises UserError for what is missing or changed.
    """
    if unpacked is not None and packed is not None:
        raise UserError("give --packages or --packed, not both: the pictures come from one of them")
    if packed is not None:
        found = pictures.load(packed)
    else:
        packages.drawing()  # before 140 MB are fetched
        if unpacked is None:
            unpacked = out / "packages"
            say(f"fetching what is not there yet of {', '.join(packages.VERSIONS)} (about 140 MB) into {unpacked}")
            packages.fetch(unpacked)
        say("reading the pictures of the packages")
        found = packages.read(unpacked)
    train, backgrounds = found.of("train"), list(BACKGROUNDS)
    if not train:
        raise UserError(f"{packed} holds no training pictures (split train); copy the folder again")
    say(f"writing {len(train)} training and {len(held_out.order())} reference images to {out}")
    pictures.save(found, out)
    order = held_out.order()
    _write(out / "reference", held_out.pictures(), [(row, held_out.background(row)) for row in order])
    _write(out / "train", found, [(row, backgrounds[i % len(backgrounds)]) for i, row in enumerate(train)], seed=0)
    say(f"training: python -m harness train emoji --data {out}; fits and sweeps: --data {out / 'train'}")


def _write(folder: Path, found: Pictures, chosen: list[tuple[int, str]], seed: int | None = None) -> None:
    """These pictures on backgrounds, as references, or, with a seed, at random scales and shifts. The table of captions
    goes first and comes last, so that no caption ever stands beside a picture of another build."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed or 0)
    lines = []
    for start in range(0, len(chosen), _BATCH):
        some = chosen[start : start + _BATCH]
        scale, shift = placed(len(some), generator) if seed is not None else (torch.tensor(pictures.SCALE), None)
        images, _ = pictures.compose(
            found.rgba(row for row, _ in some), colours(background for _, background in some), scale, shift
        )
        for place, (image, (row, background)) in enumerate(zip(images_to_uint8(images), some, strict=True), start):
            name, item = f"{place:05d}.png", found.items[row]
            Image.fromarray(image).save(folder / name)
            lines.append({"file_name": name, "text": caption(item.style, item.name, background)})
    for path in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        if int(path.stem) >= len(chosen):  # of a larger build before this one
            path.unlink()
    write_atomic(folder / "metadata.jsonl", _jsonl(lines))


def placed(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales (count,) and shifts (count, 2) of training pictures, on the generator's device."""
    device, (low, high) = generator.device, _SCALES
    scale = low + (high - low) * torch.rand(count, generator=generator, device=device)
    shift = _SHIFT * (2 * torch.rand(count, 2, generator=generator, device=device) - 1)
    return scale, shift


def _jsonl(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
