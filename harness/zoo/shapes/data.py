"""Training data of `shapes` for method fits: latents and prompt states of training scenes, computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.zoo.shapes import scene


class SceneData:
    """The first `count` scenes of a split as latents (M, C, h, w), prompt states (M, L, D) and masks (M, L).

    A tenth of the captions of a batch is dropped, for classifier-free guidance.
    """

    def __init__(self, model: Any, count: int, split: scene.Split = "train") -> None:
        self.model, self.count, self.split = model, count, split
        self._rows: dict[str, Tensor] | None = None

    @torch.no_grad()
    def _encoded(self) -> dict[str, Tensor]:
        if self._rows is None:
            pipeline, device = self.model.pipeline, self.model.device
            latents, states, masks = [], [], []
            for start in range(0, self.count, 128):
                scenes = scene.sample(self.split, range(start, min(start + 128, self.count)))
                images = scene.render(scenes)[0].to(device) * 2 - 1
                latents.append(pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor)
                state, mask = self.model.encode(scenes.captions())[:2]
                states.append(state)
                masks.append(mask)
            empty, empty_mask = self.model.encode([""])[:2]
            self._rows = {
                "latents": torch.cat(latents), "states": torch.cat(states), "masks": torch.cat(masks),
                "empty": empty, "empty_mask": empty_mask,
            }  # fmt: skip
        return self._rows

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, h, w), prompt states (B, L, D) and masks (B, L)."""
        rows = self._encoded()
        device = generator.device
        pick = torch.randint(self.count, (size,), generator=generator, device=device)
        dropped = torch.rand(size, generator=generator, device=device) < 0.1
        states = torch.where(dropped[:, None, None], rows["empty"], rows["states"][pick])
        masks = torch.where(dropped[:, None], rows["empty_mask"], rows["masks"][pick])
        return rows["latents"][pick], states, masks
