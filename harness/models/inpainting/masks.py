"""Masks to inpaint. A mask is (H, W) bool: True is generated, False is kept.

The pixels with the lowest rank in some field are masked, so that a mask has the area that was asked for, to the pixel
(a box: to its nearest whole sides).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

KINDS = ("box", "brush", "object")


def box(size: int, area: float, centre: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A rectangle of an aspect ratio between 2 : 3 and 3 : 2, around a centre (row, column) where it fits."""
    aspect = math.exp(rng.uniform(-0.405, 0.405))
    height = min(size, max(1, round(math.sqrt(area * aspect) * size)))
    width = min(size, max(1, round(area * size * size / height)))
    top = int(np.clip(round(centre[0] - height / 2), 0, size - height))
    left = int(np.clip(round(centre[1] - width / 2), 0, size - width))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def brush(size: int, area: float, centre: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A stroke through a centre (row, column): all that is near a smooth random walk."""
    turns = rng.normal(0, 0.5, 24).cumsum() + rng.uniform(0, 2 * math.pi)
    reach = 1.6 * math.sqrt(area) * size / len(turns)
    path = np.stack([np.sin(turns), np.cos(turns)], 1).cumsum(0) * reach
    path = path - path.mean(0) + np.array(centre)
    return _lowest(_distance(size, torch.from_numpy(path.clip(0, size - 1)).float()), area)


def around(shape: Tensor, area: float) -> Tensor:
    """A shape (H, W) bool, grown from its outline or shrunk to its middle until it has the area."""
    places = shape.nonzero().float()
    inside = _distance(shape.shape[0], places)
    middle = _distance(shape.shape[0], places.mean(0, keepdim=True))
    return _lowest(inside * 1e3 + middle, area)


def disc(size: int, centre: tuple[float, float], radius: float) -> Tensor:
    """All pixels within a radius of a centre (row, column)."""
    return _distance(size, torch.tensor([centre], dtype=torch.float32)) <= radius


def _distance(size: int, points: Tensor) -> Tensor:
    """(H, W) distance of each pixel to the nearest of some points (P, 2)."""
    axis = torch.arange(size).float()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    return torch.cdist(grid, points).amin(1).view(size, size)


def _lowest(field: Tensor, area: float) -> Tensor:
    count = max(1, round(area * field.numel()))
    mask = torch.zeros(field.numel(), dtype=torch.bool)
    mask[field.flatten().argsort(stable=True)[:count]] = True
    return mask.view_as(field)
