"""Where the training data of a fit come from: a folder of images and captions, the model itself, or a zoo model's own
scenes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import image_files, text
from harness.errors import UserError
from harness.fitting.generated import GeneratedData, read_prompts
from harness.fitting.options import FitOptions
from harness.fitting.shards import Shards
from harness.models import prompting
from harness.training.batches import Batch, Data, drawn, encode, no_text

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SHARD = 64


class FolderData:
    """A folder of images with captions: `metadata.jsonl` (file_name, text) or a .txt file beside each image.

    Images are resized and centre-cropped to the model's own resolution. Encoded samples go to `cache` in shards, in
    half precision; an interrupted encoding goes on from the last shard. Raises UserError where the folder holds nothing
    to train on, or where files are empty, unreadable or without a caption and `skip_bad` is off.
    """

    def __init__(self, model: Any, folder: Path, cache: Path, *, skip_bad: bool = False) -> None:
        pairs, bad = _pairs(folder)
        usable = []
        for path, caption in pairs:
            if image_files.readable(path):
                usable.append((path, caption))
            else:
                bad.append(f"{path.name} is no readable image")
        if bad and not skip_bad:
            more = f", and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise UserError(
                f"data folder {folder}: {len(bad)} bad files: {'; '.join(bad[:3])}{more}; mend them or pass --skip-bad"
            )
        if not usable:
            raise UserError(
                f"data folder {folder} holds no image with a caption; expected metadata.jsonl with file_name and text, "
                "or a .txt file beside each image"
            )
        self.model, self.pairs, self.skipped = model, usable, bad
        name = [(hashlib.sha256(p.read_bytes()).hexdigest(), c) for p, c in usable]
        self.cache = cache / hashlib.sha256(json.dumps([5, model.digest, name]).encode()).hexdigest()[:12]
        self.digest, self.shards = self.cache.name, Shards(self.cache, _SHARD)
        self._encode()

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        pick = torch.randint(len(self.pairs), (size,), generator=generator, device=generator.device).tolist()
        return drawn(self.model, self.shards.rows(pick), self._empty, generator)

    def _encode(self) -> None:
        size = _resolution(self.model)
        for samples in self.shards.absent(len(self.pairs)):
            some = [self.pairs[sample] for sample in samples]
            parts = [encode(self.model, _image(p, size)[None], [caption]) for p, caption in some]
            self.shards.save(samples, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        empty = no_text(self.model)
        self._empty = {name: part.float() if part.is_floating_point() else part for name, part in empty.items()}


def data_for(
    model: Any,
    options: FitOptions,
    *,
    trains: bool,
    folder: Path | None,
    work: Path,
    skip_bad: bool = False,
    prompts: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Data:
    """A folder's images and captions, what the model itself generates for a file of prompts, or the scenes that the zoo
    model was made from. Raises UserError where there is none of them, and for a model that fits cannot train."""
    if refusal := prompting.refusal(model.pipeline):
        raise UserError(f"model {model.name!r} cannot be fitted: {refusal}")
    if model.facts.get("inpaints"):
        if folder is not None:
            raise UserError(f"model {model.name!r} is fitted on its own scenes and masks; give no --data")
        if prompts is not None:
            raise UserError(f"model {model.name!r} is fitted on its own scenes and masks; give no --data self")
        from harness.zoo.shapes_inpaint.data import LazyData

        return LazyData(model, options.scenes, work)
    if prompts is not None:
        return GeneratedData(model, read_prompts(prompts), work / "self", each=options.images_per_prompt, say=say)
    if folder is not None:
        return FolderData(model, folder, work / "data", skip_bad=skip_bad)
    if not model.brings_data:
        raise UserError(
            f"model {model.name!r} brings no training data of its own; give --data FOLDER, or --data self with "
            "--prompts FILE"
        )
    from harness.zoo.shapes.data import SceneData

    return SceneData(model, options.scenes, "train" if trains else "calibration")


def _pairs(folder: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """(image, caption) in a fixed order, and what is wrong with the others."""
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist")
    table = folder / "metadata.jsonl"
    if not table.is_file() and (inner := sorted(folder.glob("*/metadata.jsonl"))):
        raise UserError(
            f"data folder {folder} holds no metadata.jsonl itself; give one of those in it, for instance --data "
            f"{inner[-1].parent}"
        )
    pairs: list[tuple[Path, str]] = []
    bad: list[str] = []
    if table.is_file():
        for number, line in text.lines(text.read(table, "captions file")):
            where = f"line {number} of {table.name}"
            try:
                row = text.json_of(line, where)
                pairs.append((folder / row["file_name"], text.prompt(row["text"], where)))
            except UserError as error:
                bad.append(str(error))
            except (ValueError, KeyError, TypeError):
                bad.append(f"{where} has no file_name and text")
    else:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGES):
            beside = path.with_suffix(".txt")
            try:
                caption = text.read(beside, "caption") if beside.is_file() else ""
                pairs.append((path, text.prompt(caption, beside.name)))
            except UserError as error:
                bad.append(str(error) if beside.is_file() else f"{path.name} has no caption in {beside.name}")
    return pairs, bad


def _resolution(model: Any) -> int:
    """The side of the square images that the model was made for, in pixels."""
    return int(model.backbone.transformer.config.sample_size) * int(model.pipeline.vae_scale_factor)


def _image(path: Path, size: int) -> Tensor:
    from torchvision.transforms import functional as T  # noqa: N812

    pixels = T.to_tensor(image_files.rgb(path))  # (3, H, W) in 0..1
    return T.center_crop(T.resize(pixels, [size], antialias=True), [size, size])
