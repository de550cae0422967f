"""Training scenes with random masks, encoded once.

Letters: M samples, C latent channels, h x w = 16 x 16 latents, which are also the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import checkpoints
from harness.models.inpainting import masks
from harness.models.inpainting.regions import GREY, Strategy, places, square
from harness.models.lazy import pack, pick
from harness.training.batches import Batch, no_text, prompts, texts
from harness.zoo.shapes import scene

AREAS = (0.02, 0.6)  # of the image; drawn log-uniformly


def draw(indices: Iterable[int], stream: int, areas: tuple[float, float] = AREAS) -> Tensor:
    """Random masks (M, S, S) bool: every kind and area, two thirds of them on an object's quadrant."""
    drawn = []
    for index in indices:
        rng = np.random.Generator(np.random.Philox(key=[stream, index]))
        area = float(np.exp(rng.uniform(*np.log(areas))))
        if rng.random() < 2 / 3:  # an object is near the centre of its quadrant
            row, column = (float(16 + 32 * rng.integers(2) + rng.uniform(-3, 3)) for _ in range(2))
        else:
            row, column = rng.uniform(0, scene.SIZE, 2).tolist()
        centre = row, column
        kind = int(rng.integers(3))
        if kind == 2:  # round or square
            shape = (
                masks.disc(scene.SIZE, centre, 8) if rng.random() < 0.5 else masks.box(scene.SIZE, 0.03, centre, rng)
            )
            drawn.append(masks.around(shape, area))
        else:
            drawn.append((masks.box, masks.brush)[kind](scene.SIZE, area, centre, rng))
    return torch.stack(drawn)


@torch.no_grad()
def pairs(vae: torch.nn.Module, count: int, cache: Path) -> dict[str, Tensor]:
    """clean and known latents (M, C, h, w) float16, and share (M, h, w) float16, the mask's share of each latent;
    sorted by the number of masked tokens, so that neighbours make a batch. `scene` (M,) says whose they are."""
    if cache.exists():
        return checkpoints.load(cache)[0]
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, 128):
        rows = range(start, min(start + 128, count))
        images, mask = scene.render(scene.sample("train", rows))[0], draw(rows, 98)
        both = torch.cat([images, torch.where(mask[:, None], GREY, images)])
        pixels = (both * 2 - 1).to(vae.device, vae.dtype)  # type: ignore[arg-type]
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor  # type: ignore[operator]
        clean, known = latents.half().cpu().chunk(2)
        share = F.avg_pool2d(mask[:, None].float(), scene.SIZE // clean.shape[-1])[:, 0].half()
        parts.append({"clean": clean, "known": known, "share": share, "scene": torch.tensor(rows)})
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = (found["share"] > 0).flatten(1).sum(1).argsort(stable=True)
    found = {name: rows[order].contiguous() for name, rows in found.items()}
    checkpoints.save(cache, found, {"scenes": count})
    return found


def regions(strategy: Strategy, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Places of seen (B, M) and generated (B, K) tokens for a batch of masked tokens (B, h, w) bool. Masks with fewer
    tokens than others are filled up with their nearest neighbours."""
    side = masked.shape[-1]
    everything = torch.arange(side * side, device=masked.device).expand(len(masked), -1)
    if strategy == "whole":
        return everything, everything
    if strategy == "lazy":
        count = int(masked.flatten(1).sum(1).max())
        near = masked.float()[:, None]
        order = torch.zeros_like(near)
        for _ in range(side):  # how many steps of one token away from the mask
            order, near = order + near, F.max_pool2d(near, 3, 1, 1)
        return everything, order.flatten(1).topk(count).indices.sort(1).values
    least = max(square(one, 0.25, 1).side for one in masked.cpu())
    windows = [square(one, 0.25, 1, least=least) for one in masked.cpu()]
    index = torch.stack([places(where, 1, side) for where in windows]).to(masked.device)
    return index, index


class LazyData:
    """Masked training scenes for method fits: the tokens under the mask, and the encoder's context for them."""

    def __init__(self, model: Any, count: int, work: Path) -> None:
        self.model, self.count, self.work = model, count, work
        self.digest = "scenes and masks"

    @cached_property
    @torch.no_grad()
    def _rows(self) -> dict[str, Tensor]:
        pipeline = self.model.pipeline
        found = pairs(pipeline.vae, self.count, self.work / f"pairs-{self.count}-{self.model.digest[:12]}.safetensors")
        text: list[dict[str, Tensor]] = []
        context: list[Tensor] = []
        everywhere = torch.arange(found["share"][0].numel())
        for start in range(0, self.count, 128):
            part = {name: rows[start : start + 128].to(self.model.device) for name, rows in found.items()}
            captions = scene.sample("train", part["scene"].tolist()).captions()
            text.append(texts(self.model, captions))
            tokens = pack(torch.cat([part["known"], part["share"][:, None]], 1).float(), 1)
            seen = everywhere.to(tokens.device).expand(len(tokens), -1)
            context.append(pipeline.encoder(tokens, seen).half())
        rows = {name: torch.cat([part[name] for part in text]) for name in text[0]}
        rows["context"] = torch.cat(context)
        return rows | {name: found[name].to(self.model.device) for name in ("clean", "share")}

    @cached_property
    def _empty(self) -> dict[str, Tensor]:
        return no_text(self.model)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """See `harness.training.batches.Data`. Samples with about as many masked tokens."""
        span, device = min(16 * size, self.count), generator.device
        first = int(torch.randint(self.count - span + 1, (1,), generator=generator, device=device))
        chosen = first + torch.randperm(span, generator=generator, device=device)[:size]
        rows = {name: found[chosen] for name, found in self._rows.items()}
        _, index = regions("lazy", rows["share"] > 0)
        inputs = {
            "index": index,
            "context": pick(rows["context"].float(), index),
            **prompts(rows, self._empty, generator),
        }
        return Batch(pick(pack(rows["clean"].float(), 1), index), inputs)
