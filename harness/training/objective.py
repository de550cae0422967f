"""The diffusion loss of a pipeline, read off its scheduler: rectified flow or noise prediction.

Letters: B batch, C latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError


class Objective:
    """Noised latents, timesteps and targets. steps: sampler steps, which divide the timesteps into regions."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        self.kind = scheduler.config.prediction_type
        if self.kind not in ("flow_prediction", "epsilon"):
            raise UserError(f"fits know the prediction types flow_prediction and epsilon, not {self.kind!r}")
        self.horizon = scheduler.config.num_train_timesteps
        self.alphas: Tensor = scheduler.alphas_cumprod
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(steps)
        self.timesteps = torch.as_tensor(own.timesteps).float()  # (steps,), descending
        self.steps = steps

    def nearest_step(self, timesteps: Tensor) -> Tensor:
        """The sampling step whose timestep is nearest, per element."""
        return (timesteps[:, None].cpu() - self.timesteps[None]).abs().argmin(1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Training timesteps (count,): logit-normal for flow (Esser et al., 2024), uniform for noise prediction."""
        device = generator.device
        if self.kind == "flow_prediction":
            return torch.randn(count, generator=generator, device=device).sigmoid() * self.horizon
        return torch.randint(self.horizon, (count,), generator=generator, device=device).float()

    def draw_region(self, count: int, regions: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """Timesteps (count,) of one region, and the index of a sampling step in it. The region is that of a first
        draw, so that over many batches the timesteps have the same distribution as without regions."""
        drawn = self.draw(64 * count, generator)
        index = self.nearest_step(drawn)  # (64 count,)
        region = (index * regions // self.steps).clamp(max=regions - 1)
        same = (region == region[0]).nonzero().flatten()
        rows = same[torch.arange(count) % len(same)]  # a rare region may repeat a timestep; the noise still differs
        return drawn[rows.to(drawn.device)], int(index[0])

    def noised(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents and the target, both (B, C, H, W)."""
        if self.kind == "flow_prediction":
            sigma = (timesteps / self.horizon)[:, None, None, None].to(clean.dtype)
            return torch.lerp(clean, noise, sigma), noise - clean
        alpha = self.alphas.to(clean.device)[timesteps.long()][:, None, None, None].to(clean.dtype)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, noise
