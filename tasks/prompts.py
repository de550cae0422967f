"""Prompts of a user's own: a text file, the captions file of MS-COCO, or a folder of images with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness import text
from harness.errors import UserError
from harness.spec import Case

COCO_SEED = 0
"""Of the generator that shuffles COCO's images and draws one caption for each."""
_TABLES = (".jsonl", ".csv", ".tsv", ".parquet", ".xlsx")


def from_file(path: Path, count: int) -> tuple[Case, ...]:
    """The first `count` prompts of a file, or all: one per line, or MS-COCO's annotations where its name ends in .json.
    Raises UserError, also for names of other tables, whose lines are no prompts."""
    kind = path.suffix.lower()
    if kind in _TABLES:
        raise UserError(f"{path} is a table, and prompts come one per line in a text file, or as MS-COCO captions "
                        "(.json); write its prompts alone into a .txt file")  # fmt: skip
    found = coco(path) if kind == ".json" else _lines(path)
    return tuple(Case(i, prompt, seed=i, data=data) for i, (prompt, data) in enumerate(found[:count]))


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    read = text.lines(text.read(path, "prompts file"))
    return [(text.prompt(line, f"line {number} of {path}"), {}) for number, line in read]


def coco(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """One caption per image of MS-COCO's captions_*.json, with the image's id. Images come in an order shuffled with a
    fixed seed, so that the first few are a random sample, and the first N of more are the same."""
    held = text.json_of(text.read(path, "prompts file"), f"{path} is no MS-COCO captions file: it")
    try:
        captions: dict[int, list[tuple[int, str]]] = {}
        for row in held["annotations"]:
            captions.setdefault(int(row["image_id"]), []).append((int(row["id"]), " ".join(row["caption"].split())))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is no MS-COCO captions file: expected JSON with annotations, each with image_id, id and caption "
            f"({type(error).__name__}: {error})"
        ) from error
    rng = np.random.Generator(np.random.Philox(COCO_SEED))
    images = sorted(captions)
    draws = rng.random(len(images))  # per image, by id: the choice does not hang on the file's order
    chosen = []
    for image, draw in zip(images, draws, strict=True):
        own = sorted(captions[image])
        number, caption = own[int(draw * len(own))]
        chosen.append((text.prompt(caption, f"caption {number} of {path}"), {"image_id": image}))
    return [chosen[row] for row in rng.permutation(len(chosen))]


def from_folder(folder: Path, count: int) -> tuple[Case, ...]:
    """The first `count` captions of a folder's metadata.jsonl (file_name, text), or all, in its order; every image that
    it names has to be there, since metrics compare with all of them. Raises UserError."""
    table = folder / "metadata.jsonl"
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist")
    if not table.is_file():
        raise UserError(
            f"data folder {folder} holds no metadata.jsonl; expected one JSON object per line, with file_name and text"
        )
    found = []
    for number, line in text.lines(text.read(table, "captions file")):
        try:
            row = text.json_of(line, f"line {number} of {table} needs file_name and text: it")
            file, caption = folder / row["file_name"], row["text"]
            there = file.is_file()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"line {number} of {table} needs file_name and text") from error
        caption = text.prompt(caption, f"line {number} of {table}")
        if not there:
            raise UserError(f"line {number} of {table} names {row['file_name']}, which is not there")
        found.append((caption, {"file": file, "picture": str(row["file_name"])}))
    return tuple(Case(i, caption, seed=i, data=data) for i, (caption, data) in enumerate(found[:count]))
