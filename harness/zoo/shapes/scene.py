"""Captioned scenes: what `shapes` is trained and judged on.

A scene holds one to three objects, at most one per quadrant, on a textured background. It is a function of
(split, index) alone, so any machine draws the same picture for the same index.

Train and evaluation scenes are disjoint by construction: an eighth of the (shape, colour, quadrant) triples is
held out. No training scene contains one of them; every evaluation scene contains at least one.

Letters: B scenes, Q = 4 quadrants, S = 64 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

SIZE = 64  # pixels per side
HALF = SIZE // 2
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUND_TEXTURES = ("plain", "checkered", "striped", "dotted")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 38),
    "green": (44, 170, 70),
    "blue": (40, 100, 230),
    "yellow": (250, 215, 40),
    "purple": (145, 60, 190),
    "orange": (250, 135, 25),
    "cyan": (40, 205, 215),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "gray": (128, 128, 128),
    "navy": (25, 35, 85),
    "brown": (105, 70, 45),
    "olive": (95, 105, 50),
    "pink": (240, 175, 195),
    "black": (22, 22, 24),
}
RADII = (7.5, 12.0)  # pixels, by size
JITTER = 2.5  # pixels, each way; not told by the caption

Split = Literal["train", "calibration", "evaluation", "reference"]
# "calibration" is drawn like "train" and "reference" like "evaluation", from streams of their own: methods tune on
# the first, FID and KID compare against the second, and neither shares a scene index with the cases.
_STREAMS: dict[str, int] = {"train": 0, "calibration": 1, "evaluation": 2, "reference": 3}
ATTRIBUTES = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "texture": len(TEXTURES)}


def held_out(shape: int, colour: int, quadrant: int) -> bool:
    """Whether this triple belongs to the evaluation side."""
    return (shape + 3 * colour + 5 * quadrant) % 8 == 0


_HELD_OUT = [(s, c, q) for s in range(len(SHAPES)) for c in range(len(COLOURS)) for q in range(4) if held_out(s, c, q)]


@dataclass(frozen=True)
class Scenes:
    """A batch of scene descriptions.

    objects:    (B, 4, 4) int64: shape, colour, size, texture per quadrant; -1 where the quadrant is empty.
    offsets:    (B, 4, 2) float32: the object's shift from the quadrant's centre, pixels (x, y).
    background: (B, 2) int64: colour, texture.
    """

    objects: Tensor
    offsets: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def present(self) -> Tensor:  # (B, 4) bool
        return self.objects[..., 0] >= 0

    def captions(self) -> list[str]:
        colours, backgrounds = tuple(COLOURS), tuple(BACKGROUNDS)
        out = []
        for objects, (ground, weave) in zip(self.objects.tolist(), self.background.tolist(), strict=True):
            phrases = [
                f"a {SIZES[size]} {colours[colour]} {TEXTURES[texture]} {SHAPES[shape]} {QUADRANTS[quadrant]}"
                for quadrant, (shape, colour, size, texture) in enumerate(objects)
                if shape >= 0
            ]
            phrases.append(f"on a {backgrounds[ground]} {BACKGROUND_TEXTURES[weave]} background")
            out.append(", ".join(phrases))
        return out


def vocabulary() -> list[str]:
    """Every word that a caption can hold."""
    phrases = [
        *QUADRANTS,
        *SHAPES,
        *SIZES,
        *TEXTURES,
        *BACKGROUND_TEXTURES,
        *COLOURS,
        *BACKGROUNDS,
        "on a background ,",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def sample(split: Split, indices: Sequence[int]) -> Scenes:
    """The scenes of these indices. Raises KeyError for an unknown split."""
    stream, evaluation = _STREAMS[split], split in ("evaluation", "reference")
    objects = np.full((len(indices), 4, 4), -1, dtype=np.int64)
    offsets = np.zeros((len(indices), 4, 2), dtype=np.float32)
    background = np.zeros((len(indices), 2), dtype=np.int64)
    for row, index in enumerate(indices):
        rng = np.random.Generator(np.random.Philox(key=[stream, index]))
        count = int(rng.integers(1, 4))
        places = rng.permutation(4)[:count]
        for quadrant in places:
            while True:
                shape, colour, size, texture = (int(rng.integers(n)) for n in ATTRIBUTES.values())
                if evaluation or not held_out(shape, colour, int(quadrant)):
                    break
            objects[row, quadrant] = shape, colour, size, texture
        if evaluation:
            q = int(places[0])
            choices = [(s, c) for s, c, place in _HELD_OUT if place == q]
            objects[row, q, :2] = choices[int(rng.integers(len(choices)))]
        offsets[row] = rng.uniform(-JITTER, JITTER, size=(4, 2))
        background[row] = rng.integers(len(BACKGROUNDS)), rng.integers(len(BACKGROUND_TEXTURES))
    return Scenes(torch.from_numpy(objects), torch.from_numpy(offsets), torch.from_numpy(background))


def render(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) in 0..1, and object coverage (B, S, S) in 0..1, both float32."""
    ground = _tensor(BACKGROUNDS)[scenes.background[:, 0]]  # (B, 3)
    weave = _background_textures()[scenes.background[:, 1]]  # (B, S, S)
    # A texture moves the colour towards its lighter or darker neighbour, so that it shows on black as on pink.
    lift = torch.where(ground.mean(1) < 0.3, 0.16, -0.16)  # (B,)
    image = (ground[:, :, None, None] + lift[:, None, None, None] * weave[:, None]).clamp(0, 1)
    coverage = torch.zeros(len(scenes), SIZE, SIZE)
    row, quadrant = scenes.present.nonzero(as_tuple=True)
    if len(row):
        shape, colour, size, texture = scenes.objects[row, quadrant].unbind(-1)
        radius = torch.tensor(RADII)[size]
        local = (_half_grid()[None] - scenes.offsets[row, quadrant][:, None]) / radius[:, None, None]  # (O, P, 2)
        alpha = (0.5 - _distance(local, shape) * radius[:, None]).clamp(0, 1).view(-1, HALF, HALF)
        shade = 1 - 0.45 * _object_textures()[texture]  # (O, H, H)
        paint = _tensor(COLOURS)[colour][:, :, None, None] * shade[:, None]
        for o, (b, q) in enumerate(zip(row.tolist(), quadrant.tolist(), strict=True)):
            top, left = (q // 2) * HALF, (q % 2) * HALF
            window = (slice(top, top + HALF), slice(left, left + HALF))
            image[b][:, *window] = image[b][:, *window] * (1 - alpha[o]) + paint[o] * alpha[o]
            coverage[b][window] = alpha[o]
    return image, coverage


@cache
def _tensor_of(palette: tuple[tuple[int, int, int], ...]) -> Tensor:
    return torch.tensor(palette, dtype=torch.float32) / 255


def _tensor(palette: dict[str, tuple[int, int, int]]) -> Tensor:
    return _tensor_of(tuple(palette.values()))


@cache
def _half_grid() -> Tensor:
    """Pixel centres of a quadrant relative to its middle, (P, 2), x then y."""
    axis = torch.arange(HALF) + 0.5 - HALF / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def _wave(phase: Tensor, period: float) -> Tensor:
    """A square wave in 0..1 whose edges are one pixel wide."""
    return (0.5 + torch.sin(2 * torch.pi * phase / period) * period / (2 * torch.pi)).clamp(0, 1)


@cache
def _background_textures() -> Tensor:
    """(4, S, S) in 0..1, in the order of BACKGROUND_TEXTURES."""
    axis = torch.arange(SIZE) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    across, down = _wave(x, 8), _wave(y, 8)
    checks = across * (1 - down) + down * (1 - across)
    dots = (2.4 - ((x % 8 - 4) ** 2 + (y % 8 - 4) ** 2).sqrt() + 0.5).clamp(0, 1)
    return torch.stack([torch.zeros_like(x), checks, across, dots])


@cache
def _object_textures() -> Tensor:
    """(3, H, H) in 0..1, in the order of TEXTURES: stripes two pixels wide, dots every four. They lie on the canvas'
    own raster, so that an object's shift moves its outline and not its texture's phase."""
    axis = torch.arange(HALF) % 4
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    stripes = (y >= 2).float()
    dots = ((x == 1) | (x == 2)).float() * ((y == 1) | (y == 2)).float()
    return torch.stack([torch.zeros(HALF, HALF), stripes, dots])


@cache
def _polygon(shape: str) -> Tensor:
    """Corners (V, 2) on the unit scale, y down."""
    if shape == "square":
        return torch.tensor([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])
    if shape == "triangle":
        return torch.tensor([[0.0, -1.0], [0.98, 0.8], [-0.98, 0.8]])
    if shape == "cross":
        a, b = 1.0, 0.34
        return torch.tensor(
            [[-b, -a], [b, -a], [b, -b], [a, -b], [a, b], [b, b], [b, a], [-b, a], [-b, b], [-a, b], [-a, -b], [-b, -b]]
        )
    turn = torch.arange(10) * torch.pi / 5 - torch.pi / 2
    reach = torch.where(torch.arange(10) % 2 == 0, 1.08, 0.46)
    return torch.stack([reach * turn.cos(), reach * turn.sin()], -1)


def _polygon_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Signed distance of points (..., 2) to a simple polygon (V, 2): negative inside."""
    a, b = corners, corners.roll(-1, 0)
    edge, toward = b - a, points[..., None, :] - a  # (..., V, 2)
    along = ((toward * edge).sum(-1) / (edge * edge).sum(-1)).clamp(0, 1)
    nearest = (toward - along[..., None] * edge).square().sum(-1).sqrt().amin(-1)
    x, y = points[..., None, 0], points[..., None, 1]
    crosses = (a[:, 1] <= y) != (b[:, 1] <= y)
    slope = edge[:, 0] / torch.where(edge[:, 1] == 0, 1.0, edge[:, 1])
    inside = (crosses & (x < a[:, 0] + (y - a[:, 1]) * slope)).sum(-1) % 2 == 1
    return torch.where(inside, -nearest, nearest)


def _distance(local: Tensor, shape: Tensor) -> Tensor:
    """Signed distance (O, P) on the unit scale."""
    out = torch.empty(local.shape[:2])
    for kind in shape.unique().tolist():
        rows, name = shape == kind, SHAPES[kind]
        if name == "circle":
            out[rows] = local[rows].norm(dim=-1) - 0.95
        elif name == "ring":
            out[rows] = (local[rows].norm(dim=-1) - 0.72).abs() - 0.26
        else:
            out[rows] = _polygon_distance(local[rows], _polygon(name))
    return out
