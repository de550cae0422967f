"""Training data of `shapes` for method fits: latents and prompt states of rendered scenes, computed once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.training.batches import Batch, drawn, encode, no_text
from harness.zoo.shapes import scene


class SceneData:
    """The first `count` scenes of a split."""

    def __init__(self, model: Any, count: int, split: scene.Split = "train") -> None:
        self.model, self.count, self.split = model, count, split
        self.digest = f"scenes of {split}"

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        parts = []
        for start in range(0, self.count, 128):
            scenes = scene.sample(self.split, range(start, min(start + 128, self.count)))
            parts.append(encode(self.model, scene.render(scenes)[0], scenes.captions()))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def _empty(self) -> dict[str, Tensor]:
        return no_text(self.model)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """See `harness.training.batches.Data`."""
        pick = torch.randint(self.count, (size,), generator=generator, device=generator.device)
        return drawn(self.model, {name: rows[pick] for name, rows in self._rows.items()}, self._empty, generator)
