"""Pictures of emoji, their captions, and how a picture is put on a background.

Letters: M pictures, S = 64 pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness import text
from harness.errors import UserError
from results.files import write_atomic

SIZE = 64
STYLES = ("noto", "twemoji", "fluent")
BACKGROUNDS = {
    "white": (250, 250, 250), "black": (20, 20, 20), "gray": (150, 150, 150), "red": (214, 60, 60),
    "orange": (240, 150, 60), "yellow": (246, 220, 90), "green": (90, 170, 90), "blue": (80, 130, 220),
    "purple": (140, 90, 190), "pink": (244, 170, 200),
}  # fmt: skip
SCALE = 0.84  # side of a reference picture, in sides of the image; it is centred
FLAGS = "Flags"
DATA, TABLE = "pictures.bin", "pictures.json"
PUBLISHED = "67580724b04053abed592113a624c4189b76fc6a406cffced1ecaf9110248d53"
"""sha256 of the pictures that the bundled weights were trained on, whose table does not say it."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One emoji in one style. name: its Unicode name in words. code: its code points, without variation selectors. at,
    bytes: where its WebP lies in the packed file."""

    style: str
    name: str
    category: str
    code: str
    split: Split
    at: int
    bytes: int


@dataclass(frozen=True)
class Pictures:
    """Items and the bytes of their WebP files, one behind the other."""

    items: tuple[Item, ...]
    data: bytes

    def rgba(self, rows: Iterable[int]) -> Tensor:
        """(M, 4, S, S) uint8 of these items. Raises UserError for a damaged picture."""
        return torch.from_numpy(np.stack([self._pixels(self.items[row]) for row in rows])).permute(0, 3, 1, 2)

    def _pixels(self, item: Item) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(self.data[item.at : item.at + item.bytes])) as picture:
                pixels = np.array(picture.convert("RGBA"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"the picture of {item.style} {item.name} is damaged ({error}); make the data anew"
            ) from error
        if pixels.shape != (SIZE, SIZE, 4):
            raise UserError(f"the picture of {item.style} {item.name} is {pixels.shape[1]} x {pixels.shape[0]} pixels; "
                            f"expected {SIZE} x {SIZE}")  # fmt: skip
        return pixels

    def of(self, split: Split) -> list[int]:
        return [row for row, item in enumerate(self.items) if item.split == split]

    @property
    def words(self) -> list[str]:
        """The words of all captions, sorted."""
        return sorted({*STYLES, *BACKGROUNDS, "on"}.union(*(item.name.split() for item in self.items)))


def caption(style: str, name: str, background: str) -> str:
    return f"{style} {name} on {background}"


def packed(files: Sequence[tuple[dict[str, str], bytes]]) -> Pictures:
    """Pictures from items without their place (style, name, category, code, split) and WebP files."""
    items, at = [], 0
    for fields, file in files:
        items.append(Item(**fields, at=at, bytes=len(file)))  # type: ignore[arg-type]
        at += len(file)
    return Pictures(tuple(items), b"".join(file for _, file in files))


def save(pictures: Pictures, folder: Path) -> None:
    """Write both files of a packed folder."""
    write_atomic(folder / DATA, pictures.data)
    table = {"sha256": hashlib.sha256(pictures.data).hexdigest(), "items": [asdict(item) for item in pictures.items]}
    write_atomic(folder / TABLE, json.dumps(table) + "\n")


def load(folder: Path) -> Pictures:
    """Read a packed folder. Raises UserError where a file is missing or is not what it was when it was made."""
    for name in (DATA, TABLE):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}; `python -m harness data emoji FOLDER` makes it")
    where = f"{folder / TABLE}"
    table, data = text.json_of(text.read(folder / TABLE, "table of pictures"), where), (folder / DATA).read_bytes()
    try:
        items = tuple(Item(**row) for row in table["items"])
        wanted = str(table.get("sha256", PUBLISHED))
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{where} is no table of pictures ({error}); make the data anew") from error
    if (found := hashlib.sha256(data).hexdigest()) != wanted:
        raise UserError(f"{folder / DATA} has changed since it was made (sha256 {found[:12]}, expected {wanted[:12]}); "
                        "copy it again, or make the data anew")  # fmt: skip
    return Pictures(items, data)


def compose(
    rgba: Tensor, backgrounds: Tensor, scale: Tensor | float = SCALE, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Images (M, 3, S, S) in 0..1 and coverage (M, S, S) in 0..1 of pictures (M, 4, S, S) uint8 on colours (M, 3) in
    0..255. scale: of the picture's side, one or (M,). shift: (M, 2), right and down, in sides of the image."""
    count, device = len(rgba), rgba.device
    x = rgba.float() / 255
    alpha = x[:, 3:]
    x = torch.cat([x[:, :3] * alpha, alpha], 1)  # premultiplied: nothing of what is transparent bleeds in
    scales = torch.as_tensor(scale, dtype=torch.float32, device=device).expand(count)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scales
    if shift is not None:
        theta[:, :, 2] = -2 * shift.to(device) / scales[:, None]
    drawn = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    colour = backgrounds.to(device).float()[:, :, None, None] / 255
    return (drawn[:, :3] + (1 - drawn[:, 3:]) * colour).clamp(0, 1), drawn[:, 3]


def colours(names: Iterable[str]) -> Tensor:
    """Backgrounds by name, (M, 3) in 0..255."""
    return torch.tensor([BACKGROUNDS[name] for name in names], dtype=torch.float32)
