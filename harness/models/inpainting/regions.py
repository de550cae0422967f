"""Which tokens are generated for a mask, and which are seen, by strategy. A mask is (H, W) bool: True is generated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Strategy = Literal["whole", "native", "crop", "lazy"]
GREY = 0.5  # what masked pixels are painted with before anything sees them
MARGIN = 0.25  # of the tight square's side, on each side, for context


@dataclass(frozen=True)
class Window:
    """A square of the image, in pixels."""

    top: int
    left: int
    side: int

    def of(self, image: Tensor) -> Tensor:
        """The square of an image (..., H, W), as a view."""
        return image[..., self.top : self.top + self.side, self.left : self.left + self.side]


def window(strategy: Strategy, mask: Tensor, factor: int) -> Window:
    """What a strategy works on: the whole image, or for "crop" the square around the mask. factor: pixels per token
    side."""
    return square(mask, MARGIN, factor) if strategy == "crop" else Window(0, 0, mask.shape[-1])


def square(mask: Tensor, margin: float, multiple: int, *, least: int = 0) -> Window:
    """The tightest square around a mask, grown by `margin` of its side on each side, of at least `least` pixels.

    Its side and corner are multiples of `multiple`; it is moved into the image where it would leave it. Raises
    ValueError for an empty mask.
    """
    if not mask.any():
        raise ValueError("an empty mask has no square around it")
    size = min(mask.shape)
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    low = torch.stack([rows.min(), columns.min()]).float()
    high = torch.stack([rows.max(), columns.max()]).float() + 1
    wanted = max(float((high - low).max()) * (1 + 2 * margin), least)
    side = min(size // multiple * multiple, math.ceil(wanted / multiple) * multiple)
    corner = ((low + high) / 2 - side / 2) / multiple
    corner = corner.floor().clamp(min=0) * multiple
    limits = torch.tensor([mask.shape[0] - side, mask.shape[1] - side]) // multiple * multiple
    top, left = torch.minimum(corner, limits.float()).int().tolist()
    while int(high[0]) > top + side or int(high[1]) > left + side:  # flooring the corner may have cut a pixel off
        if side + multiple > size:
            return Window(0, 0, size // multiple * multiple)
        side += multiple
        top, left = min(top, mask.shape[0] - side), min(left, mask.shape[1] - side)
    return Window(top, left, side)


def covered(mask: Tensor, factor: int) -> Tensor:
    """(..., h, w) bool: the tokens with a masked pixel. mask: (..., H, W) bool."""
    return (
        F.max_pool2d(mask.float().view(-1, 1, *mask.shape[-2:]), factor).view(
            *mask.shape[:-2], mask.shape[-2] // factor, mask.shape[-1] // factor
        )
        > 0
    )


def places(where: Window, factor: int, canvas: int) -> Tensor:
    """The tokens (M,) of a window in a canvas of `canvas` tokens per side."""
    top, left, side = (number // factor for number in (where.top, where.left, where.side))
    rows = torch.arange(top, top + side)[:, None] * canvas
    return (rows + torch.arange(left, left + side)).flatten()
