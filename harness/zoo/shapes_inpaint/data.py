"""Training scenes with random masks, encoded once.

Letters: M samples, C latent channels, h x w = 16 x 16 latents, which are also the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import masks
from harness.models.lazy_pipeline import GREY
from harness.training import checkpoints
from harness.zoo.shapes import scene

AREAS = (0.02, 0.6)  # of the image; drawn log-uniformly


def draw(indices: Iterable[int], stream: int, areas: tuple[float, float] = AREAS) -> Tensor:
    """Random masks (M, S, S) bool: every kind and area, two thirds of them on an object's quadrant."""
    drawn = []
    for index in indices:
        rng = np.random.Generator(np.random.Philox(key=[stream, index]))
        area = float(np.exp(rng.uniform(*np.log(areas))))
        if rng.random() < 2 / 3:  # an object is near the centre of its quadrant
            centre = tuple(16 + 32 * rng.integers(2) + rng.uniform(-3, 3) for _ in range(2))
        else:
            centre = tuple(rng.uniform(0, scene.SIZE, 2))
        kind = int(rng.integers(3))
        if kind == 2:  # round or square
            shape = masks.disc(scene.SIZE, centre, 8) if rng.random() < 0.5 else masks.box(scene.SIZE, 0.03, centre, rng)
            drawn.append(masks.around(shape, area))
        else:
            drawn.append((masks.box, masks.brush)[kind](scene.SIZE, area, centre, rng))
    return torch.stack(drawn)


@torch.no_grad()
def pairs(vae: torch.nn.Module, count: int, cache: Path) -> dict[str, Tensor]:
    """clean and known latents (M, C, h, w) float16, and share (M, h, w) float16, the mask's share of each latent; sorted
    by the number of masked tokens, so that neighbours make a batch. `scene` (M,) says whose they are."""
    if cache.exists():
        return checkpoints.load(cache)[0]
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, 128):
        rows = range(start, min(start + 128, count))
        images, mask = scene.render(scene.sample("train", rows))[0], draw(rows, 98)
        both = torch.cat([images, torch.where(mask[:, None], GREY, images)])
        latents = vae.encode(both * 2 - 1).latent_dist.mode() * vae.config.scaling_factor  # type: ignore[operator]
        clean, known = latents.half().chunk(2)
        share = F.avg_pool2d(mask[:, None].float(), scene.SIZE // clean.shape[-1])[:, 0].half()
        parts.append({"clean": clean, "known": known, "share": share, "scene": torch.tensor(rows)})
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = (found["share"] > 0).flatten(1).sum(1).argsort(stable=True)
    found = {name: rows[order].contiguous() for name, rows in found.items()}
    checkpoints.save(cache, found, {"scenes": count})
    return found
